// Package netns makes and enters network namespaces from Go.
//
// A namespace belongs to a thread, not to a goroutine. Everything here runs on
// a locked thread that is either put back where it was or, where that fails,
// sacrificed: it never returns to the pool in the wrong namespace. The main
// thread is never used, because it cannot be ended and /proc/self shows it.
package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Create makes a namespace, binds it to path as "ip netns" does, and calls
// inside on a thread in it.
func Create(path string, inside func() error) error {
	return onThread(func() (restored bool, err error) {
		restore, err := leave()
		if err != nil {
			return true, err
		}
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("create network namespace: %w", err)
		}
		err = bind(path)
		if err == nil && inside != nil {
			err = inside()
		}
		return restore() == nil, err
	})
}

func bind(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY|unix.O_CLOEXEC, 0o444)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		f, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY|unix.O_CLOEXEC, 0o444)
	}
	if err != nil {
		return fmt.Errorf("create namespace file: %w", err)
	}
	f.Close()
	if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("bind namespace to %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// Do calls inside on a thread in the namespace bound to path. Sockets opened
// there stay in the namespace.
func Do(path string, inside func() error) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	return onThread(func() (bool, error) {
		restore, err := leave()
		if err != nil {
			return true, err
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		err = inside()
		return restore() == nil, err
	})
}

// Remove takes the binding away. The kernel ends the namespace once no process
// and no socket is in it.
func Remove(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Sacrifice calls f on a thread that is ended afterwards, whatever f did to it.
func Sacrifice(f func() error) error {
	return onThread(func() (bool, error) { return false, f() })
}

func leave() (restore func() error, err error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	return func() error {
		defer home.Close()
		return unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)
	}, nil
}

// onThread calls f on a locked thread that is not the main one. Where f says
// the thread is not as it was, the thread ends with its goroutine.
func onThread(f func() (restored bool, err error)) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// Held here, so that the next goroutine gets another thread.
			done <- onThread(f)
			runtime.UnlockOSThread()
			return
		}
		restored, err := f()
		if restored {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
