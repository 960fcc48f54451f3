package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ground is where sites stand: a directory with a BPF file system of our own,
// and a cgroup.
type ground struct {
	dir    string
	cgroup string
	sites  []*site
}

// cgroupName begins the name of the cgroup of every run.
const cgroupName = "weft-bench-firewall-"

func newGround() (*ground, error) {
	tree, err := cgroupTree()
	if err != nil {
		return nil, err
	}
	g := &ground{}
	if g.dir, err = os.MkdirTemp("", cgroupName); err != nil {
		return nil, err
	}
	g.cgroup = filepath.Join(tree, cgroupName+fmt.Sprint(os.Getpid()))
	if err = os.Mkdir(g.bpf(), 0o700); err == nil {
		err = unix.Mount("bpf", g.bpf(), "bpf", 0, "")
	}
	if err == nil {
		err = os.Mkdir(g.cgroup, 0o755)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make room for the sites: %w", err), g.clear())
	}
	return g, nil
}

func (g *ground) bpf() string { return filepath.Join(g.dir, "bpf") }

// clear takes everything away.
func (g *ground) clear() error {
	var errs []error
	for _, s := range g.sites {
		errs = append(errs, s.remove())
	}
	if err := unix.Unmount(g.bpf(), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("unmount %s: %w", g.bpf(), err))
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, removeCgroup(g.cgroup), os.RemoveAll(g.dir))...)
}

// cgroupTree is where the cgroup2 tree is mounted.
func cgroupTree() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir, nil
		}
	}
	return "", errors.New("find the cgroup2 tree: it is mounted neither at /sys/fs/cgroup nor at /sys/fs/cgroup/unified")
}

// removeCgroup waits until the last process is gone.
func removeCgroup(dir string) (err error) {
	for range 200 {
		if err = os.Remove(dir); err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("remove cgroup: %w", err)
}
