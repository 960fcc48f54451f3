//go:build linux

// Command vminit is the first process of the virtual machine that
// agent/stockkernel boots: it mounts, loads modules, runs test binaries, says how
// each ended, and powers off. Everything it needs is in the initramfs beside it.
package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "vminit: only as the first process of a machine made for it")
		os.Exit(2)
	}
	err := work()
	fmt.Printf("VMINIT end: %v\n", err)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // the machine is started with -no-reboot
}

func work() error {
	for _, m := range []struct{ kind, dir string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
		{"bpf", "/sys/fs/bpf"}, {"cgroup2", "/sys/fs/cgroup"},
	} {
		os.MkdirAll(m.dir, 0o755)
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := lines("/vm/modules", func(name string) error {
		f, err := os.Open("/vm/" + name)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
		return nil
	}); err != nil {
		return err
	}
	var name unix.Utsname
	unix.Uname(&name)
	fmt.Printf("VMINIT kernel: %s\n", unix.ByteSliceToString(name.Release[:]))
	// One line for a run: the binary and its arguments.
	return lines("/vm/runs", func(line string) error {
		args := strings.Fields(line)
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = "/tmp", os.Stdout, os.Stdout
		// WEFT_REQUIRE: what cannot run here fails, or nothing would be proven.
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "TMPDIR=/tmp", "WEFT_REQUIRE=all"}
		err := cmd.Run()
		fmt.Printf("VMINIT run: %s: %v\n", args[0], err)
		return nil
	})
}

func lines(path string, each func(string) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if err := each(s.Text()); err != nil {
			return err
		}
	}
	return s.Err()
}
