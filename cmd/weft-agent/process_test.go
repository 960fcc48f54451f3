package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weft/controller/observe"
	"weft/controller/pki"
	"weft/controller/session"
	"weft/controller/store"
	"weft/model"
	"weft/wire"
)

// TestMain lets this test binary stand for the agent itself, so that the tests
// run the real program as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("WEFT_TEST_INTRUDER") != "" {
		intrude()
		return
	}
	if os.Getenv("WEFT_TEST_AGENT") != "" {
		if off, err := time.ParseDuration(os.Getenv("WEFT_TEST_CLOCK")); err == nil {
			clock = func() time.Time { return time.Now().Add(off) }
		}
		main()
		return
	}
	os.Exit(m.Run())
}

const domain = "weft.test"

var tester = store.Change{Actor: "test"}

// control is a real controller as far as agents see one.
type control struct {
	t     *testing.T
	dir   string
	ca    *pki.Authority
	addr  string
	store *store.Store
	obs   *observe.Observer
	stop  func()
}

func newControl(t *testing.T) *control {
	t.Helper()
	c := &control{t: t, dir: t.TempDir(), addr: "127.0.0.1:0"}
	var err error
	if c.ca, err = pki.Open(pki.Config{Dir: c.dir, TrustDomain: domain}); err != nil {
		t.Fatal(err)
	}
	c.start()
	t.Cleanup(func() { c.stop() })
	return c
}

// start makes everything anew from what is on disk, as a restart does.
func (c *control) start() {
	c.t.Helper()
	var err error
	if c.store, err = store.Open(context.Background(), store.Config{Dir: c.dir}); err != nil {
		c.t.Fatal(err)
	}
	c.obs = observe.New(observe.Config{File: filepath.Join(c.dir, "observed.json")}, observe.Deps{})
	svc := session.New(session.Config{TrustDomain: domain, Version: "test", Heartbeat: time.Second},
		session.Deps{Store: c.store, Observer: c.obs, Authority: c.ca, Log: slog.New(slog.NewTextHandler(&logTo{t: c.t, prefix: "controller"}, nil))})
	tls, err := c.ca.ServerTLS([]string{"127.0.0.1"})
	if err != nil {
		c.t.Fatal(err)
	}
	l, err := net.Listen("tcp", c.addr)
	if err != nil {
		c.t.Fatal(err)
	}
	c.addr = l.Addr().String()
	mux := http.NewServeMux()
	mux.Handle(svc.Handler())
	server := &http.Server{Handler: mux, TLSConfig: tls, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() { server.ServeTLS(l, "", "") })
	parts.Go(func() { c.obs.Run(ctx, func() {}) })
	ended, ready := make(chan struct{}), make(chan struct{})
	parts.Go(func() { defer close(ended); svc.Run(ctx, func() { close(ready) }) })
	<-ready
	st := c.store
	c.stop = func() {
		cancel()
		<-ended
		server.Close()
		parts.Wait()
		st.Close()
		c.stop = func() {}
	}
}

func (c *control) url() string { return "https://" + c.addr }

// tokenFile makes a join token and a file that holds it.
func (c *control) tokenFile(name string, labels map[string]string) string {
	c.t.Helper()
	token := wire.NewToken(wire.PrefixJoin, name, c.ca.Pin())
	r := model.MustKind(model.KindJoinToken).New().(*model.JoinToken)
	r.Metadata.Name, r.Spec.Labels, r.Spec.Uses = name, labels, 1
	if err := c.store.Create(c.t.Context(), tester, r, []byte(token.Hash())); err != nil {
		c.t.Fatal(err)
	}
	path := filepath.Join(c.t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token.String()+"\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

func (c *control) host(name string) *model.Host {
	r, err := c.store.Get(c.t.Context(), model.KindHost, name)
	if err != nil {
		return nil
	}
	return r.(*model.Host)
}

func (c *control) status(name string) model.HostStatus {
	if h := c.host(name); h != nil {
		return c.obs.HostStatus(h)
	}
	return model.HostStatus{}
}

func (c *control) online(name string) bool {
	st := c.status(name)
	return st.State == model.HostOnline && st.Workloads > 0 && applied(st)
}

func applied(st model.HostStatus) bool {
	for _, s := range st.Sections {
		if s.Applied == "" || s.Applied != s.Desired || s.Error != "" {
			return false
		}
	}
	return len(st.Sections) == 8
}

// logTo writes lines to the test's log.
type logTo struct {
	t      *testing.T
	prefix string
}

func (l *logTo) Write(p []byte) (int, error) {
	if testing.Verbose() {
		fmt.Fprintf(os.Stderr, "%s %s: %s", l.t.Name(), l.prefix, p)
	}
	return len(p), nil
}

// process is one agent.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	mu  sync.Mutex
	log strings.Builder
	end chan error
}

// agentArgs are those that keep an agent to itself.
func agentArgs(c *control, dir, name, token string) []string {
	return []string{"run", "--controller", c.url(), "--state-dir", dir, "--name", name, "--token-file", token,
		"--metadata", "-", "--labels-dir", "-", "--listen", "127.0.0.1:0", "--labels", "role=test"}
}

func startAgent(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(os.Args[0], args...), end: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), "WEFT_TEST_AGENT=1")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	pipe, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		lines := bufio.NewReader(pipe)
		for {
			line, err := lines.ReadString('\n')
			p.mu.Lock()
			p.log.WriteString(line)
			p.mu.Unlock()
			if testing.Verbose() && line != "" {
				fmt.Fprintf(os.Stderr, "%s agent %d: %s", t.Name(), p.cmd.Process.Pid, line)
			}
			if err != nil {
				break
			}
		}
		io.Copy(io.Discard, pipe)
		p.end <- p.cmd.Wait()
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *process) said(text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Contains(p.log.String(), text)
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	p.wait(10 * time.Second)
}

func (p *process) wait(within time.Duration) error {
	select {
	case err := <-p.end:
		p.end <- err
		return err
	case <-time.After(within):
		p.t.Errorf("process %d still runs after %s", p.cmd.Process.Pid, within)
		return nil
	}
}

func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within %s: %s", within, what)
}
