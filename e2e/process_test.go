package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/lab"
)

// process is one program that runs in the lab, with its log.
type process struct {
	name string
	log  string
	from int64 // where its part of the log begins; another of its name wrote before
	cmd  *lab.Cmd
	done chan struct{}
	once sync.Once
}

// start runs a program inside; one of the same name is ended before.
func (f *fleet) start(name string, at lab.Runner, program string, args ...string) *process {
	f.t.Helper()
	return f.launch(name, at.Command(f.ctx, append([]string{program}, args...)...))
}

func (f *fleet) launch(name string, cmd *lab.Cmd) *process {
	f.t.Helper()
	if old := f.procs[name]; old != nil {
		old.end()
	}
	path := filepath.Join(f.lab.Dir(), strings.ReplaceAll(name, "/", "-")+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		f.t.Fatal(err)
	}
	defer log.Close() // the program has it too
	info, err := log.Stat()
	if err != nil {
		f.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	p := &process{name: name, log: path, from: info.Size(), cmd: cmd, done: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		f.t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	f.procs[name] = p
	return p
}

// helper starts this test binary as one of its helpers.
func (f *fleet) helper(name, kind string, at lab.Runner, args ...string) *process {
	f.t.Helper()
	return f.launch(name, f.helperCommand(kind, at, args...))
}

func (f *fleet) helperCommand(kind string, at lab.Runner, args ...string) *lab.Cmd {
	f.t.Helper()
	self, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := at.Command(f.ctx, append([]string{self}, args...)...)
	cmd.Env = append(os.Environ(), helperVariable+"="+kind)
	return cmd
}

// end stops the program kindly, then not.
func (p *process) end() {
	p.once.Do(func() {
		p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			p.kill()
		}
	})
}

// kill ends the program as kill -9 does.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// signal sends the program any other signal.
func (p *process) signal(s syscall.Signal) { p.cmd.Process.Signal(s) }

// alive returns an error with the end of the log when the program is gone.
func (p *process) alive() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s has ended:\n%s", p.name, p.tail(10))
	default:
		return nil
	}
}

// ended waits for the program to end by itself and returns its log.
func (p *process) ended(t *testing.T, limit time.Duration) string {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		t.Fatalf("%s still runs after %s:\n%s", p.name, limit, p.tail(10))
	}
	return p.text()
}

// text is what this process has logged.
func (p *process) text() string {
	data, _ := os.ReadFile(p.log)
	return string(data[min(int64(len(data)), p.from):])
}

func (p *process) tail(n int) string {
	lines := strings.Split(strings.TrimSpace(p.text()), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// workload is a client that fetches from a server all the time.
type workload struct {
	f *fleet
	p *process
}

// work starts a server on one host and a client of it on another, both called
// after the client.
func (f *fleet) work(server, client string, bytes int, pause time.Duration) *workload {
	f.t.Helper()
	at := f.lab.Host(server)
	f.helper(server+"-server", "serve", at)
	address := fmt.Sprintf("http://%s/%d", at.Addresses()[0], bytes)
	f.wait(5*time.Second, "the server answers", func() error {
		_, err := f.lab.Host(client).Command(f.ctx, "curl", "-sS", "--fail", "--max-time", "2", "-o", "/dev/null", address).CombinedOutput()
		return err
	})
	return &workload{f, f.helper(client+"-client", "load", f.lab.Host(client), address, pause.String())}
}

// unharmed ends the client, none of whose requests may have failed.
func (w *workload) unharmed() figures {
	w.f.t.Helper()
	if err := w.p.alive(); err != nil {
		w.f.t.Fatal(err)
	}
	w.p.end()
	var c figures
	if err := json.Unmarshal([]byte(w.p.text()), &c); err != nil {
		w.f.t.Fatalf("read what the client counted: %v: %s", err, w.p.text())
	}
	if c.Failed > 0 || c.Requests == 0 {
		w.f.t.Errorf("the workload was harmed: %d of %d requests failed, the first with: %s", c.Failed, c.Requests, c.FirstError)
	}
	// A lost SYN is sent again after a second: nothing of the kind may happen.
	if c.Longest > 900*time.Millisecond {
		w.f.t.Errorf("the workload was slowed: one of %d requests took %s", c.Requests, c.Longest)
	}
	w.f.t.Logf("workload: %d requests, none failed, the longest took %s", c.Requests, c.Longest.Round(time.Millisecond))
	return c
}
