package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"weft/lab/netns"
)

// place is where a command runs: what it sees of network, names and cgroups.
type place struct {
	netns    string
	cgroup   string // directory; empty leaves the command in its parent's
	hostname string
	// binds are mounted over the paths they name, in a mount namespace of the
	// command's own. A target that does not exist is left out.
	binds []bind
}

type bind struct{ source, target string }

// Cmd is an exec.Cmd that runs inside a host or container: in its network
// namespace and cgroup, with its host name, /etc/hosts and /etc/resolv.conf, a
// /sys that shows its devices, and its own BPF file system at /sys/fs/bpf. Set
// fields and call methods as on exec.Cmd. SysProcAttr.Pdeathsig does not work
// here: the thread that starts the command ends at once.
type Cmd struct {
	*exec.Cmd
	place place
}

func (p place) command(ctx context.Context, argv ...string) *Cmd {
	if len(argv) == 0 {
		argv = []string{""}
	}
	return &Cmd{exec.CommandContext(ctx, argv[0], argv[1:]...), p}
}

// Start starts the command inside and does not wait for it.
func (c *Cmd) Start() error {
	if c.place.cgroup != "" {
		dir, err := os.Open(c.place.cgroup)
		if err != nil {
			return fmt.Errorf("open cgroup: %w", err)
		}
		defer dir.Close()
		if c.SysProcAttr == nil {
			c.SysProcAttr = &syscall.SysProcAttr{}
		}
		c.SysProcAttr.UseCgroupFD = true
		c.SysProcAttr.CgroupFD = int(dir.Fd())
	}
	return netns.Sacrifice(func() error {
		if err := c.place.enter(); err != nil {
			return err
		}
		return c.Cmd.Start()
	})
}

// Run starts the command and waits for it.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns its standard output. Its standard error
// is in the error, as with exec.Cmd.
func (c *Cmd) Output() ([]byte, error) {
	var stdout, stderr strings.Builder
	c.Stdout = &stdout
	if c.Stderr == nil {
		c.Stderr = &stderr
	}
	err := c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		exit.Stderr = []byte(stderr.String())
	}
	return []byte(stdout.String()), err
}

// CombinedOutput runs the command and returns standard output and error.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var b strings.Builder
	c.Stdout, c.Stderr = &b, &b
	err := c.Run()
	return []byte(b.String()), err
}

// Exec replaces the calling process by a program inside, as "weft lab exec"
// does: same process id, same terminal. It returns only on error.
func (p place) exec(argv []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return netns.Sacrifice(func() error {
		if p.cgroup != "" {
			if err := os.WriteFile(p.cgroup+"/cgroup.procs", fmt.Append(nil, os.Getpid()), 0); err != nil {
				return fmt.Errorf("enter cgroup: %w", err)
			}
		}
		if err := p.enter(); err != nil {
			return err
		}
		return &os.PathError{Op: "exec", Path: path, Err: unix.Exec(path, argv, os.Environ())}
	})
}

// enter moves the calling thread, which is not to be used for anything else.
func (p place) enter() error {
	ns, err := os.Open(p.netns)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("unshare mount and host name: %w", err)
	}
	// Slave: what is mounted outside later still arrives, nothing leaves.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	if err := unix.Sethostname([]byte(p.hostname)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := freshSys(); err != nil {
		return err
	}
	for _, b := range p.binds {
		err := unix.Mount(b.source, b.target, "", unix.MS_BIND, "")
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("bind %s over %s: %w", b.source, b.target, err)
		}
	}
	return nil
}

// freshSys mounts a sysfs that shows this namespace's devices, and puts the
// trees that were mounted in the old one (cgroups, BPF, tracing) back.
func freshSys() error {
	trees := []string{"/sys/fs/cgroup", "/sys/fs/bpf", "/sys/kernel/tracing", "/sys/kernel/debug"}
	held := map[string]int{}
	for _, path := range trees {
		var st, parent unix.Stat_t
		if unix.Stat(path, &st) != nil || unix.Stat("/sys", &parent) != nil || st.Dev == parent.Dev {
			continue
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("copy mounts of %s: %w", path, err)
		}
		defer unix.Close(fd)
		held[path] = fd
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount /sys: %w", err)
	}
	for _, path := range trees {
		fd, ok := held[path]
		if !ok {
			continue
		}
		if err := unix.MoveMount(fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("put mounts of %s back: %w", path, err)
		}
	}
	return nil
}
