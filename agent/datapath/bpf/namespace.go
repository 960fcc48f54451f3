package bpf

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNamespace calls f on a thread in the network namespace at path, "" being
// this one. A thread that cannot come back ends with its goroutine.
func inNamespace(path string, f func() error) error {
	if path == "" {
		return f()
	}
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open this network namespace: %w", err)
			return
		}
		defer home.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network namespace %s: %w", path, err)
			return
		}
		err = f()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// cookies turn paths of network namespaces into the numbers programs know them
// by. A path may come to mean another namespace; its inode does not.
type cookies map[uint64]uint64

func (c cookies) of(path string) (uint64, error) {
	file := path
	if path == "" {
		file = "/proc/thread-self/ns/net"
	}
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return 0, fmt.Errorf("look at network namespace %s: %w", file, err)
	}
	if n, ok := c[st.Ino]; ok {
		return n, nil
	}
	var n uint64
	err := inNamespace(path, func() (err error) {
		n, err = netnsCookie()
		return err
	})
	if err != nil {
		return 0, err
	}
	if len(c) > 4096 {
		clear(c)
	}
	c[st.Ino] = n
	return n, nil
}

// netnsCookie is the number of this thread's network namespace.
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("ask for a network namespace's cookie: %w", err)
	}
	defer unix.Close(fd)
	n, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("ask for a network namespace's cookie: %w", err)
	}
	return n, nil
}
