package discover

import (
	"bytes"
	"os"
	"path"
	"strconv"
	"strings"
)

// starting says whether a container's process does not have the namespaces yet
// that it will run in. A runtime puts its child into the cgroup first, and takes
// it out of the runtime's own namespaces after that, out of all at once; until
// then the container seems to be on the host's network. So: whether the eldest
// of its processes has the mount namespace of its parent, who is outside.
// rel is the container's cgroup, at the one that pid was found in.
func (w *walker) starting(rel, at string, pid int) bool {
	cgroup, ok := w.cgroupOf(pid)
	if !ok {
		return false
	}
	cgroup = strings.TrimSuffix(cgroup, strings.TrimPrefix(at, rel))
	for range maxDepth {
		parent := w.parentOf(pid)
		if parent == 0 {
			return false // gone, or its parent is out of our sight
		}
		mine, err := os.Readlink(w.ns(pid, "mnt"))
		if err != nil {
			return false
		}
		if theirs, err := os.Readlink(w.ns(parent, "mnt")); err != nil || theirs != mine {
			return false
		}
		if c, ok := w.cgroupOf(parent); !ok || c != cgroup && !strings.HasPrefix(c, cgroup+"/") {
			return ok
		}
		pid = parent
	}
	return false
}

func (w *walker) ns(pid int, kind string) string {
	return path.Join(w.proc, strconv.Itoa(pid), "ns", kind)
}

// cgroupOf is a process's cgroup2, as the kernel writes it for us.
func (w *walker) cgroupOf(pid int) (string, bool) {
	data, err := os.ReadFile(path.Join(w.proc, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return "", false
	}
	for line := range strings.Lines(string(data)) {
		if cgroup, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return cgroup, true
		}
	}
	return "", false
}

// parentOf is 0 where there is none that we can see.
func (w *walker) parentOf(pid int) int {
	data, err := os.ReadFile(path.Join(w.proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	// PID (NAME) STATE PPID, and the name may hold anything (proc_pid_stat(5)).
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(string(fields[1]))
	return parent
}
