package nft_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/lab/netns"
)

// place is a process in a network namespace and perhaps a cgroup of its own.
type place struct {
	name          string
	netns, cgroup string
	addr4, addr6  netip.Addr
	in            *json.Encoder
	mu            sync.Mutex
	next          int
	waiting       map[int]chan string
	pid           int
}

func (p *place) do(op, protocol, addr string, wait time.Duration) string {
	ch := make(chan string, 1)
	p.mu.Lock()
	p.next++
	id := p.next
	p.waiting[id] = ch
	p.in.Encode(ask{id, op, protocol, addr, wait})
	p.mu.Unlock()
	select {
	case r := <-ch:
		return r
	case <-time.After(wait + 5*time.Second):
		return "no answer"
	}
}

// addr returns the place's address of a family, with a port unless it is 0.
func (p *place) addr(six bool, port int) string {
	a := p.addr4
	if six {
		a = p.addr6
	}
	if port == 0 {
		return a.String()
	}
	return netip.AddrPortFrom(a, uint16(port)).String()
}

var ports = []int{53, 80, 443, 700, 8080}

// start starts the process and lets it listen.
func (p *place) start(t testing.TB) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "WEFT_NFT_PLACE="+p.name)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	fail(t, err)
	stdout, err := cmd.StdoutPipe()
	fail(t, err)
	if p.cgroup != "" {
		dir, err := os.Open(p.cgroup)
		fail(t, err)
		defer dir.Close()
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	fail(t, netns.Do(p.netns, cmd.Start))
	p.pid = cmd.Process.Pid
	p.in, p.waiting = json.NewEncoder(stdin), map[int]chan string{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d := json.NewDecoder(stdout)
		for {
			var a answer
			if d.Decode(&a) != nil {
				return
			}
			p.mu.Lock()
			p.waiting[a.ID] <- a.Result
			delete(p.waiting, a.ID)
			p.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		stdin.Close()
		<-done
		cmd.Wait()
	})
}

func (p *place) listen(t testing.TB, offset int) {
	t.Helper()
	for _, protocol := range []string{"tcp", "udp"} {
		for _, port := range ports {
			for _, six := range []bool{false, true} {
				if r := p.do("listen", protocol, p.addr(six, port+offset), 0); r != "ok" {
					t.Fatalf("%s: listen %s %d: %s", p.name, protocol, port+offset, r)
				}
			}
		}
	}
}

func fail(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
