package datapathtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/model"
)

// Endpoint is one party: a process with a place in a namespace and a cgroup.
type Endpoint struct {
	Name    string
	Kind    model.WorkloadKind // empty outside
	Labels  map[string]string
	IPv4    netip.Addr
	IPv6    netip.Addr
	NetNS   string // path
	Cgroup  string // directory; empty outside
	Exe     string // path of the program it runs
	process *process
}

// process is an endpoint's running program.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser

	mu      sync.Mutex
	last    int
	waiting map[int]chan report
}

// startProcess runs a copy of this test binary at exe, in a namespace and a cgroup.
func startProcess(t testing.TB, exe, netns, cgroup string) *process {
	t.Helper()
	copyProgram(t, exe)
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	// nsenter, not "ip netns exec", which would hide /sys.
	cmd := exec.Command("nsenter", "--net="+netns, exe)
	cmd.Env = append(os.Environ(), workerEnv+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, stdin: stdin, waiting: map[int]chan report{}}
	go p.listen(stdout)
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return p
}

func copyProgram(t testing.TB, exe string) {
	t.Helper()
	if _, err := os.Stat(exe); err == nil {
		return
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(exe), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, self, 0o755); err != nil {
		t.Fatal(err)
	}
}

func (p *process) listen(r io.Reader) {
	in := bufio.NewScanner(r)
	for in.Scan() {
		var x report
		if json.Unmarshal(in.Bytes(), &x) != nil {
			continue
		}
		p.mu.Lock()
		ch := p.waiting[x.ID]
		delete(p.waiting, x.ID)
		p.mu.Unlock()
		if ch != nil {
			ch <- x
		}
	}
}

func (p *process) tell(o order) (report, error) {
	ch := make(chan report, 1)
	p.mu.Lock()
	p.last++
	o.ID = p.last
	p.waiting[o.ID] = ch
	raw, err := json.Marshal(o)
	if err == nil {
		_, err = p.stdin.Write(append(raw, '\n'))
	}
	p.mu.Unlock()
	if err != nil {
		return report{}, fmt.Errorf("tell the endpoint: %w", err)
	}
	select {
	case r := <-ch:
		return r, nil
	case <-time.After(10 * time.Second):
		return report{}, fmt.Errorf("tell the endpoint to %s %s: no report in 10 s", o.Do, o.Address)
	}
}
