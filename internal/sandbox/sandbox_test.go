package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"

	"weft/internal/testreq"
)

// TestMain lets this binary be the process that goes into a sandbox.
func TestMain(m *testing.M) {
	if os.Getenv("WEFT_TEST_SANDBOX") != "" {
		inside()
		return
	}
	os.Exit(m.Run())
}

// inside says what becomes of what an intruder would try, a line each.
func inside() {
	runtime.LockOSThread()
	ready := make(chan struct{})
	elsewhere := make(chan func())
	go func() { // a thread that is there before
		runtime.LockOSThread()
		close(ready)
		for f := range elsewhere {
			f()
		}
	}()
	<-ready
	fmt.Println("enter", Enter("net_admin", "sys_admin").Missing())
	parent := os.Getppid()
	mount, _ := os.Open("/proc/self/ns/mnt")
	try := map[string]func() error{
		"exec":          func() error { return unix.Exec("/bin/true", []string{"true"}, nil) },
		"mount":         func() error { return unix.Mount("none", "/mnt", "tmpfs", 0, "") },
		"ptrace":        func() error { return unix.PtraceAttach(parent) },
		"signal":        func() error { return unix.Kill(parent, 0) },
		"other signal":  func() error { return unix.Tgkill(parent, parent, 0) },
		"setns":         func() error { return unix.Setns(int(mount.Fd()), unix.CLONE_NEWNS) },
		"setns any":     func() error { return unix.Setns(int(mount.Fd()), 0) },
		"unshare":       func() error { return unix.Unshare(unix.CLONE_NEWNS) },
		"unshare mixed": func() error { return unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWUTS) },
		"fork apart": func() error {
			// Were it let through, flags that exclude one another would be EINVAL.
			_, _, e := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_FS, 0, 0, 0, 0, 0)
			return e
		},
		"uid":      func() error { return unix.Setuid(65534) },
		"io_uring": func() error { _, _, e := unix.RawSyscall(unix.SYS_IO_URING_SETUP, 1, 0, 0); return e },
		"module":   func() error { return unix.InitModule(nil, "") },
		"clock":    func() error { var t unix.Timeval; return unix.Settimeofday(&t) },
		"own":      func() error { return unix.Kill(os.Getpid(), 0) },
		"netns":    func() error { return unix.Unshare(unix.CLONE_NEWNET) },
	}
	for name, f := range try {
		here, there := f(), make(chan error)
		elsewhere <- func() { go func() {}(); err := f(); go func() { there <- err }() }
		fmt.Println(name, outcome(here), outcome(<-there))
	}
}

func outcome(err error) string {
	switch {
	case err == nil || err == unix.Errno(0):
		return "done"
	case errors.Is(err, unix.EPERM):
		return "refused"
	}
	return err.Error()
}

func TestSandboxHoldsOnEveryThread(t *testing.T) {
	testreq.Need(t, testreq.Root)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "WEFT_TEST_SANDBOX=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := string(out)
	allowed := map[string]bool{"own": true, "netns": true}
	if !strings.HasPrefix(got, "enter []\n") {
		t.Errorf("not everything was given up:\n%s", got)
	}
	lines := strings.Split(strings.TrimSpace(got), "\n")[1:]
	if len(lines) != 16 {
		t.Errorf("%d answers:\n%s", len(lines), got)
	}
	for _, line := range lines {
		fields := strings.Fields(line)
		name, answers := strings.Join(fields[:len(fields)-2], " "), fields[len(fields)-2:]
		want := "refused"
		if allowed[name] {
			want = "done"
		}
		if answers[0] != want || answers[1] != want {
			t.Errorf("%s: %v, want %s on both threads", name, answers, want)
		}
	}
}

// A name that no architecture knows is a slip of the pen: it would refuse nothing.
func TestEveryNamedCallIsOneSomewhere(t *testing.T) {
	known := map[string]bool{}
	for _, name := range []string{"amd64", "arm64", "386", "arm"} {
		here, err := arch.GetInfo(name)
		if err != nil {
			t.Fatal(err)
		}
		for call := range here.SyscallNames {
			known[call] = true
		}
	}
	for _, call := range never {
		if !known[call] {
			t.Errorf("no such call: %s", call)
		}
	}
}

func TestReportNamesWhatIsMissing(t *testing.T) {
	if r := Off("because"); r[Capabilities] != "no: because" || r[Calls] != "no: because" || r[Files] == "" || len(r.Missing()) != 2 {
		t.Errorf("off: %v", r)
	}
	if len(Report{Capabilities: "yes", Calls: "yes", Files: "no: x"}.Missing()) != 0 {
		t.Error("files are not ours to give up")
	}
}
