package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"weft/wire"
	"weft/wire/wirepb"
	"weft/wire/wirepb/wirepbconnect"
)

// controller is the far end of the protocol over plain HTTP/2, as the test
// wants it: it records what it is told and sends what it is given.
type controller struct {
	wirepbconnect.UnimplementedControllerHandler
	t      *testing.T
	addr   string
	server *http.Server

	mu       sync.Mutex
	refuse   error
	ahead    time.Duration // of its clock
	mute     bool          // sends nothing after the welcome
	sessions int
	hello    *wirepb.Hello
	facts    *wirepb.HostFacts
	updates  []*wirepb.WorkloadUpdate
	status   map[string]*wirepb.SectionStatus
	lines    int
	send     chan *wirepb.Section
}

func newController(t *testing.T) *controller {
	t.Helper()
	c := &controller{t: t, addr: "127.0.0.1:0", status: map[string]*wirepb.SectionStatus{}, send: make(chan *wirepb.Section, 16)}
	c.start()
	t.Cleanup(c.stop)
	return c
}

func (c *controller) start() {
	c.t.Helper()
	l, err := net.Listen("tcp", c.addr)
	if err != nil {
		c.t.Fatal(err)
	}
	c.addr = l.Addr().String()
	mux := http.NewServeMux()
	mux.Handle(wirepbconnect.NewControllerHandler(c))
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: mux, Protocols: &protocols}
	c.server = server
	go server.Serve(l)
}

// stop is a partition: connections break and new ones are refused.
func (c *controller) stop() { c.server.Close() }

func (c *controller) Session(ctx context.Context, st *connect.BidiStream[wirepb.AgentMessage, wirepb.ControllerMessage]) error {
	first, err := st.Receive()
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.hello = first.GetHello()
	c.sessions++
	refuse, ahead, mute := c.refuse, c.ahead, c.mute
	c.mu.Unlock()
	if refuse != nil {
		return refuse
	}
	if err := st.Send(&wirepb.ControllerMessage{Body: &wirepb.ControllerMessage_Welcome{Welcome: &wirepb.Welcome{
		Protocol: wire.Version, Name: "web-1", UnixNanos: time.Now().Add(ahead).UnixNano(), HeartbeatSeconds: 1}}}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer cancel()
		for {
			m, err := st.Receive()
			if err != nil {
				return
			}
			c.record(m)
		}
	}()
	beat := time.NewTicker(500 * time.Millisecond)
	defer beat.Stop()
	for {
		m := &wirepb.ControllerMessage{Body: &wirepb.ControllerMessage_Heartbeat{Heartbeat: &wirepb.Heartbeat{}}}
		select {
		case <-ctx.Done():
			return nil
		case s := <-c.send:
			m = &wirepb.ControllerMessage{Body: &wirepb.ControllerMessage_Section{Section: s}}
		case <-beat.C:
			if mute {
				continue
			}
		}
		if err := st.Send(m); err != nil {
			return err
		}
	}
}

func (c *controller) record(m *wirepb.AgentMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch b := m.Body.(type) {
	case *wirepb.AgentMessage_Facts:
		c.facts = b.Facts
	case *wirepb.AgentMessage_Workloads:
		c.updates = append(c.updates, b.Workloads)
	case *wirepb.AgentMessage_Section:
		c.status[b.Section.Name] = b.Section
	case *wirepb.AgentMessage_Lines:
		c.lines++
	}
}

func (c *controller) get(ok func() bool) func() bool {
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return ok()
	}
}

func (c *controller) applied(name, digest string) func() bool {
	return c.get(func() bool { st := c.status[name]; return st.GetDigest() == digest && st.GetError() == "" })
}

// inventory is a machine as the test says.
type inventory struct {
	mu        sync.Mutex
	workloads []*wirepb.Workload
	changed   chan struct{}
	complete  chan struct{}
}

func (i *inventory) Complete() <-chan struct{} { return i.complete }

func (i *inventory) Snapshot() (*wirepb.HostFacts, []*wirepb.Workload) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return &wirepb.HostFacts{Kernel: "k"}, i.workloads
}

func (i *inventory) Changed() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.changed == nil {
		i.changed = make(chan struct{})
	}
	return i.changed
}

func (i *inventory) set(ids ...string) {
	i.Changed()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.workloads = nil
	for _, id := range ids {
		i.workloads = append(i.workloads, &wirepb.Workload{Id: id, Kind: "container"})
	}
	close(i.changed)
	i.changed = make(chan struct{})
}

// reconciler records what it is given and does what the test says.
type reconciler struct {
	mu   sync.Mutex
	seen []string // digests
	do   func(ctx context.Context, n int) error
}

func (r *reconciler) apply(ctx context.Context, s *wirepb.Section) ([]*wirepb.ItemStatus, error) {
	r.mu.Lock()
	r.seen = append(r.seen, s.Digest)
	n, do := len(r.seen), r.do
	r.mu.Unlock()
	if do != nil {
		return nil, do(ctx, n)
	}
	return []*wirepb.ItemStatus{{Item: "x", State: "Capturing"}}, nil
}

func (r *reconciler) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

type rig struct {
	t       *testing.T
	c       *controller
	dir     string
	inv     *inventory
	capture *reconciler
	state   *State
	agent   *Agent
	stop    func()
	lines   *wirepb.LineReport
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, c: newController(t), dir: t.TempDir(), inv: &inventory{complete: make(chan struct{})}, capture: &reconciler{}, stop: func() {}}
	r.inv.set("host")
	close(r.inv.complete)
	return r
}

func (r *rig) open() *rig {
	r.t.Helper()
	var err error
	if r.state, err = OpenState(r.dir); err != nil {
		r.t.Fatal(err)
	}
	return r
}

func (r *rig) start() {
	r.t.Helper()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	a, err := New(Config{Controller: "http://" + r.c.addr, BackoffMin: 20 * time.Millisecond, BackoffMax: 200 * time.Millisecond, Resync: 300 * time.Millisecond},
		Deps{State: r.state, HTTP: &http.Client{Transport: transport}, Inventory: r.inv, Reconcilers: map[string]Reconciler{"capture": r.capture.apply},
			Lines: func() *wirepb.LineReport { return r.lines }})
	if err != nil {
		r.t.Fatal(err)
	}
	r.agent = a
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx, func() {}) }()
	r.stop = func() {
		cancel()
		<-done
		r.state.Close()
		transport.CloseIdleConnections()
		r.stop = func() {}
	}
	r.t.Cleanup(func() { r.stop() })
}

func capture(digest string) *wirepb.Section {
	return &wirepb.Section{Name: "capture", Digest: digest, Revision: 1, Body: &wirepb.Section_Capture{Capture: &wirepb.CaptureSection{Lines: []*wirepb.CaptureLine{{Line: digest}}}}}
}

func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within %s: %s", within, what)
}

var errDisk = errors.New("no space left on device")
