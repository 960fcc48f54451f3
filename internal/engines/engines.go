// Package engines runs real container engines for tests: Debian's Podman and
// containerd, with runc, over images made on the spot. An engine and all its
// containers live in mount, PID and cgroup namespaces of their own, with their
// storage in memory: when its first process dies, nothing of it is left but
// empty cgroups. The network namespace and the cgroup are those it is started
// in, so that it is the engine of one lab host or of one test.
//
// Inside, cgroup2 is at /sys/fs/cgroup alone, as on current distributions, and
// the cgroup it is started in is the root.
package engines

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Engine is one engine of a test.
type Engine struct {
	// Socket is where it serves its API.
	Socket string
	dir    string
	serve  string // shell command that becomes the engine
}

// seclude is run in new mount and cgroup namespaces. The engine leaves the
// cgroup root, for a cgroup with processes of its own cannot hand controllers
// to its children (Documentation/admin-guide/cgroup-v2.rst, "No Internal
// Process Constraint").
const seclude = `set -e
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mkdir -p /sys/fs/cgroup/engine
echo $$ >/sys/fs/cgroup/engine/cgroup.procs
mount -t tmpfs none /dev/shm
mount -t tmpfs none /run
exec unshare --pid --fork --kill-child --mount-proc sh -c "$1"
`

// Argv is the command line of the engine. Start it as a process of the host
// that it shall serve; it ends with that process.
func (e *Engine) Argv() []string {
	return []string{"unshare", "--mount", "--cgroup", "--propagation", "private", "sh", "-c", seclude, "sh", e.serve}
}

// newEngine makes the directory of an engine. Its name is short, for the path
// of a Unix socket has 108 bytes.
func newEngine(t testing.TB, socket string) *Engine {
	t.Helper()
	dir, err := os.MkdirTemp("", "weft-eng-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &Engine{dir: dir, Socket: filepath.Join(dir, socket)}
}

func (e *Engine) write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(e.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Wait returns when the engine's socket takes connections.
func (e *Engine) Wait(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("unix", e.Socket)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("engine does not answer: %v", err)
		}
	}
}

// PID is the process that serves the socket, as this process sees it.
func (e *Engine) PID(t testing.TB) int {
	t.Helper()
	conn, err := net.Dial("unix", e.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return int(cred.Pid)
}

// inside runs a command in all of the engine's namespaces.
func (e *Engine) inside(t testing.TB, argv ...string) *exec.Cmd {
	t.Helper()
	args := []string{"--target", strconv.Itoa(e.PID(t)), "--mount", "--pid", "--net", "--cgroup"}
	return exec.Command("nsenter", append(args, argv...)...)
}

// output runs a command and returns what it prints, without the space around it.
func output(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	text, err := try(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// try is output for commands that may fail. It is bounded in time.
func try(cmd *exec.Cmd) (string, error) {
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}
