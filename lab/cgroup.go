package lab

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Extended attributes on the cgroup directory of a container or unit. Only a
// process with CAP_SYS_ADMIN can read or write trusted.*, so a workload cannot
// forge its own labels.
const (
	// AttrLabels holds "key=value,key=value", sorted by key.
	AttrLabels = "trusted.weft.labels"
	// AttrName holds the name of a container or unit.
	AttrName = "trusted.weft.name"
)

// cgroupMount finds where cgroup2 is mounted: /sys/fs/cgroup, or
// /sys/fs/cgroup/unified on a machine with both versions.
func cgroupMount() (string, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1], nil
		}
	}
	return "", errors.New("no cgroup2 tree is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup")
}

// labelText prints labels as they are stored.
func labelText(labels map[string]string) string {
	parts := make([]string, 0, len(labels))
	for k, v := range labels {
		parts = append(parts, k+"="+v)
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

// makeCgroup makes the cgroup of a container or unit and labels it.
func makeCgroup(dir, name string, labels map[string]string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Setxattr(dir, AttrName, []byte(name), 0); err != nil {
		return fmt.Errorf("set %s on %s: %w", AttrName, dir, err)
	}
	if err := unix.Setxattr(dir, AttrLabels, []byte(labelText(labels)), 0); err != nil {
		return fmt.Errorf("set %s on %s: %w", AttrLabels, dir, err)
	}
	return nil
}

// holdCgroup locks a lab's cgroup directory for as long as the file is open.
// The run directory's lock does not do alone: whoever has another mount
// namespace (a container, a chroot with a /run of its own) sees the cgroups
// of this machine, but not that directory, and would sweep a living lab.
func holdCgroup(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("lock cgroup: %w", errors.Join(err, f.Close()))
	}
	return f, nil
}

// cgroupHeld says whether the owner of a lab holds its cgroup. One that was
// made a moment ago counts as held: its owner is about to.
func cgroupHeld(id string) bool {
	mount, err := cgroupMount()
	if err != nil {
		return false
	}
	f, err := os.Open(filepath.Join(mount, cgroupName(id)))
	if err != nil {
		return false
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && !exists(labDir(id)) && time.Since(info.ModTime()) < 10*time.Second {
		return true
	}
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// removeCgroup kills what runs in a cgroup and below it, and removes the tree.
func removeCgroup(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	deadline := time.Now().Add(5 * time.Second)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		if err := killCgroup(dir); err != nil {
			return err
		}
		err := removeTree(dir)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
		time.Sleep(wait)
	}
}

// killCgroup sends SIGKILL to everything below dir. Kernels before 5.14 have no
// cgroup.kill, there it is one by one.
func killCgroup(dir string) error {
	err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, pid := range cgroupPIDs(dir) {
		unix.Kill(pid, unix.SIGKILL)
	}
	return nil
}

// cgroupPIDs lists the processes in a cgroup and below it.
func cgroupPIDs(dir string) []int {
	var pids []int
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		data, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for line := range strings.Lines(string(data)) {
			var pid int
			if _, err := fmt.Sscan(line, &pid); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// removeTree removes the directories of a cgroup tree, the deepest first. Its
// files vanish with them.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}
