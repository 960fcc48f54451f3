package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"weft/internal/sandbox"
	"weft/internal/testreq"
)

// lineOf is a field of /proc/PID/status.
func lineOf(t *testing.T, pid int, task, field string) string {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, task))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "\n"+field+":")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

func TestAgentGivesUpWhatItDoesNotNeed(t *testing.T) {
	testreq.Need(t, testreq.Root)
	c := newControl(t)
	p := startAgent(t, agentArgs(c, t.TempDir(), "web-1", c.tokenFile("join", nil))...)
	eventually(t, 10*time.Second, "host online with applied sections", func() bool { return c.online("web-1") })

	var mask uint64
	for _, name := range needs {
		v, err := cap.FromName("cap_" + name)
		if err != nil {
			t.Fatal(err)
		}
		mask |= 1 << v
	}
	own, _ := cap.GetPID(os.Getpid())
	for v := range cap.MaxBits() { // what this test does not have the agent cannot keep
		if has, err := own.GetFlag(cap.Permitted, v); err == nil && !has {
			mask &^= 1 << v
		}
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.cmd.Process.Pid))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("threads: %v, %v", tasks, err)
	}
	for _, task := range tasks {
		for field, want := range map[string]string{"Seccomp": "2", "NoNewPrivs": "1", "CapEff": fmt.Sprintf("%016x", mask), "CapPrm": fmt.Sprintf("%016x", mask),
			"CapBnd": fmt.Sprintf("%016x", mask), "CapInh": fmt.Sprintf("%016x", 0), "CapAmb": fmt.Sprintf("%016x", 0)} {
			if got := lineOf(t, p.cmd.Process.Pid, task.Name(), field); got != want {
				t.Errorf("thread %s: %s is %s, want %s", task.Name(), field, got, want)
			}
		}
	}
	can := c.status("web-1").Capabilities
	if can[sandbox.Capabilities] != "yes" || can[sandbox.Calls] != "yes" || can[sandbox.Files] == "" {
		t.Errorf("the host says %v", can)
	}
}

func TestSandboxCanBeTurnedOff(t *testing.T) {
	testreq.Need(t, testreq.Root)
	c := newControl(t)
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, []byte("controller: "+c.url()+"\nsandbox: off\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startAgent(t, append(agentArgs(c, t.TempDir(), "web-1", c.tokenFile("join", nil)), "--config", file)...)
	eventually(t, 10*time.Second, "host online", func() bool { return c.online("web-1") })
	if got := lineOf(t, p.cmd.Process.Pid, strconv.Itoa(p.cmd.Process.Pid), "Seccomp"); got != "0" {
		t.Errorf("Seccomp is %s", got)
	}
	if can := c.status("web-1").Capabilities; can[sandbox.Calls] != "no: off in the configuration" {
		t.Errorf("the host says %v", can)
	}
	if !p.said("keeps all its rights") {
		t.Error("the log says nothing of it")
	}
}

// The unit and the program name the same capabilities.
func TestUnitGivesWhatTheAgentKeeps(t *testing.T) {
	raw, err := os.ReadFile("weft-agent.service.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "\nCapabilityBoundingSet=")
	line, _, _ := strings.Cut(rest, "\n")
	var unit []string
	for name := range strings.FieldsSeq(line) {
		unit = append(unit, strings.ToLower(strings.TrimPrefix(name, "CAP_")))
	}
	if want := slices.Clone(needs); !slices.Equal(slices.Sorted(slices.Values(unit)), slices.Sorted(slices.Values(want))) {
		t.Errorf("the unit gives %v, the agent keeps %v", unit, want)
	}
}

// attempt is what an intruder tried, and whether it worked.
type attempt struct {
	What string
	Done bool
}

// intrude tries to get at an agent's secrets and at the agent itself:
// WEFT_TEST_INTRUDER is its process, the arguments are its files.
func intrude() {
	pid, _ := strconv.Atoi(os.Getenv("WEFT_TEST_INTRUDER"))
	var out []attempt
	try := func(what string, err error) { out = append(out, attempt{what, err == nil}) }
	for _, path := range os.Args[1:] {
		_, err := os.ReadDir(path)
		try("list "+path, err)
		_, err = os.ReadFile(path)
		try("read "+path, err)
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		f.Close()
		try("write "+path, err)
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
		}
		try("connect to "+path, err)
		try("remove "+path, os.Remove(path))
	}
	for _, name := range []string{"environ", "mem", "maps", "root/etc/passwd", "exe"} {
		path := fmt.Sprintf("/proc/%d/%s", pid, name)
		f, err := os.Open(path)
		f.Close()
		try("read "+path, err)
	}
	_, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	try("list its descriptors", err)
	try("signal", syscall.Kill(pid, 0))
	try("trace", syscall.PtraceAttach(pid))
	_ = json.NewEncoder(os.Stdout).Encode(out)
}

// Neither an ordinary user, in a cgroup of its own, nor root of a container's
// user namespace that sees the machine's processes gets at the agent.
func TestOthersCannotGetAtTheAgent(t *testing.T) {
	testreq.Need(t, testreq.Root)
	c := newControl(t)
	home, err := os.MkdirTemp("/tmp", "weft-intruder-") // which all may enter, as /var/lib
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	// The directory is made by the agent in one case, and in the other was there
	// and open to all: then each file has to hold by itself.
	open := filepath.Join(home, "open")
	for _, dir := range []string{home, open} {
		if err := errOf(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(home, "intruder")
	if err := os.WriteFile(binary, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, state := range map[string]string{"own": filepath.Join(home, "state"), "open": open} {
		p := startAgent(t, agentArgs(c, state, name, c.tokenFile(name, nil))...)
		eventually(t, 10*time.Second, "host online with applied sections", func() bool { return c.online(name) })
		paths := []string{}
		err := filepath.WalkDir(state, func(path string, e fs.DirEntry, err error) error {
			if err == nil && path != open {
				paths = append(paths, path)
			}
			return err
		})
		if err != nil || len(paths) < 4 {
			t.Fatalf("%v: %v", paths, err)
		}
		for who, attr := range map[string]*syscall.SysProcAttr{
			"user 1000": {Credential: &syscall.Credential{Uid: 1000, Gid: 1000}},
			"root of a user namespace": {Cloneflags: unix.CLONE_NEWUSER, UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}, Credential: &syscall.Credential{Uid: 0, Gid: 0}},
		} {
			cmd := exec.Command(binary, paths...)
			cmd.Env = []string{"WEFT_TEST_INTRUDER=" + strconv.Itoa(p.cmd.Process.Pid)}
			cmd.SysProcAttr = attr
			var said bytes.Buffer
			cmd.Stderr = &said
			raw, err := cmd.Output()
			var tried []attempt
			if err != nil || json.Unmarshal(raw, &tried) != nil || len(tried) < 5*len(paths)+6 {
				t.Fatalf("%s: %v\n%s%s", who, err, raw, said.String())
			}
			for _, a := range tried {
				if a.Done {
					t.Errorf("%s, state directory %s: can %s", who, name, a.What)
				}
			}
		}
		if !c.online(name) {
			t.Errorf("%s: the agent did not bear it", name)
		}
		p.kill()
	}
}

func errOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
