package nft

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// cgroupTree finds ids and levels of cgroups as `socket cgroupv2` gives them.
type cgroupTree struct {
	mount string
	root  int // levels of the mount's root below that of the tree we see
}

// findCgroups finds where the cgroup2 tree is mounted.
func findCgroups() (*cgroupTree, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find the cgroup2 tree: %w", err)
	}
	var best *cgroupTree
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		before, after, ok := strings.Cut(line, " - ")
		if !ok || len(f) < 5 || !strings.HasPrefix(after, "cgroup2 ") || before == "" {
			continue
		}
		t := &cgroupTree{mount: f[4], root: depth(f[3])}
		if strings.HasPrefix(f[3], "/..") {
			continue
		}
		if best == nil || t.root < best.root {
			best = t
		}
	}
	if best == nil {
		return nil, errors.New("find the cgroup2 tree: none is mounted; mount one at /sys/fs/cgroup/unified")
	}
	return best, nil
}

func depth(path string) int {
	return len(strings.FieldsFunc(path, func(r rune) bool { return r == '/' }))
}

// locate returns the id and the level of a cgroup's directory; id 0 where there
// is none any more.
func (t *cgroupTree) locate(dir string) (id uint64, level int, err error) {
	rel, err := filepath.Rel(t.mount, dir)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return 0, 0, fmt.Errorf("cgroup %s is not in the cgroup2 tree at %s", dir, t.mount)
	}
	var st unix.Stat_t
	switch err := unix.Stat(dir, &st); {
	case errors.Is(err, syscall.ENOENT):
		return 0, 0, nil
	case err != nil:
		return 0, 0, fmt.Errorf("find cgroup %s: %w", dir, err)
	}
	if rel == "." {
		return st.Ino, t.root, nil
	}
	return st.Ino, t.root + depth(rel), nil
}
