package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"weft/agent/transport"
	"weft/controller/pki"
	"weft/internal/identity"
	"weft/internal/identity/identitytest"
	"weft/model"
	"weft/relay"
	"weft/wire"
	"weft/wire/wirepb"
)

// fleet is a controller with a real authority, and what joined it.
type fleet struct {
	*identitytest.Controller
	ca *pki.Authority
}

func newFleet(t testing.TB) *fleet {
	t.Helper()
	ca, err := pki.Open(pki.Config{Dir: t.TempDir(), TrustDomain: "example.org"})
	if err != nil {
		t.Fatal(err)
	}
	return &fleet{identitytest.Serve(t, "example.org", ca), ca}
}

func testLog() *slog.Logger {
	if os.Getenv("WEFT_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// service runs f until the test ends or stop is called.
func service(t testing.TB, f func(ctx context.Context, ready func()) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- f(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		t.Fatalf("service ended before it was ready: %v", err)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("service: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("service does not stop")
		}
	})
	t.Cleanup(stop)
	return stop
}

// relayNode is a relay that can be stopped and started anew at its address.
type relayNode struct {
	*relay.Relay
	id   *identity.Identity
	addr string
	cfg  relay.Config
	stop func()
}

func (f *fleet) relay(t testing.TB, name string, cfg relay.Config) *relayNode {
	t.Helper()
	n := &relayNode{id: f.Member(t, model.RoleRelay, name), cfg: cfg}
	n.cfg.Listen = "127.0.0.1:0"
	n.start(t)
	return n
}

func (n *relayNode) start(t testing.TB) {
	t.Helper()
	r, err := relay.New(n.cfg, relay.Deps{Identity: n.id, Log: testLog()})
	if err != nil {
		t.Fatal(err)
	}
	n.Relay = r
	n.stop = service(t, r.Run)
	n.addr = r.Addr().String()
	n.cfg.Listen = n.addr
}

func (n *relayNode) endpoint() *wirepb.RelayEndpoint {
	return &wirepb.RelayEndpoint{Name: n.id.ID().Name, SpiffeId: n.id.ID().String(), Addresses: []string{n.addr}}
}

// agentNode is a transport with its identity.
type agentNode struct {
	*transport.Transport
	id   *identity.Identity
	stop func()
}

func (n *agentNode) peer(addresses ...string) *wirepb.Peer {
	return &wirepb.Peer{Name: n.id.ID().Name, SpiffeId: n.id.ID().String(), Addresses: addresses}
}

// fast makes what takes seconds in the field take a moment. A direct attempt that is under way is waited for, however slow the machine.
var fast = transport.Config{Listen: "127.0.0.1:0", Grace: 5 * time.Second, ProbeFirst: 50 * time.Millisecond, ProbeConfirm: 20 * time.Millisecond, ProbeMax: 200 * time.Millisecond, ConnectsPerSecond: 1000}

func (f *fleet) agent(t testing.TB, name string, cfg transport.Config, accept transport.Handler) *agentNode {
	t.Helper()
	return startAgent(t, f.Member(t, model.RoleHost, name), cfg, accept)
}

func startAgent(t testing.TB, id *identity.Identity, cfg transport.Config, accept transport.Handler) *agentNode {
	t.Helper()
	tr, err := transport.New(cfg, transport.Deps{Identity: id, Log: testLog(), Accept: accept})
	if err != nil {
		t.Fatal(err)
	}
	return &agentNode{tr, id, service(t, tr.Run)}
}

func (n *agentNode) apply(t testing.TB, listen bool, relays ...*relayNode) {
	t.Helper()
	section := &wirepb.TransportSection{Listen: listen}
	for _, r := range relays {
		section.Relays = append(section.Relays, r.endpoint())
	}
	if err := n.Apply(t.Context(), section); err != nil {
		t.Fatal(err)
	}
}

// echo sends back what comes and ends when the peer does.
func echo(_ context.Context, conn net.Conn, _ wire.Identity) { io.Copy(conn, conn) }

// eventually waits until f returns nil.
func eventually(t testing.TB, within time.Duration, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("not within %s: %v", within, err)
}

// dial dials until it works.
func dial(t testing.TB, from, to *agentNode, addresses ...string) *transport.Conn {
	t.Helper()
	var conn *transport.Conn
	eventually(t, 5*time.Second, func() (err error) {
		conn, err = from.Dial(t.Context(), "line", to.peer(addresses...))
		return err
	})
	t.Cleanup(func() { conn.Close() })
	return conn
}

// roundTrip sends text to an echo and wants it back.
func roundTrip(conn net.Conn, text string) error {
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	defer conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, text); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, len(text)))
	return err
}

// timedOut says whether an operation ended because its time was over.
func timedOut(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
