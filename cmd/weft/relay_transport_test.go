package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft/agent/transport"
	"weft/model"
	"weft/relay"
	"weft/wire"
)

func TestStreamsAreMutuallyAuthenticated(t *testing.T) {
	f := newFleet(t)
	r := f.relay(t, "r1", relay.Config{})
	// The path that loses the race may be accepted too, and ends empty.
	seen := make(chan wire.Identity, 16)
	tool := f.agent(t, "ids", fast, func(_ context.Context, conn net.Conn, peer wire.Identity) {
		seen <- peer
		io.Copy(conn, conn)
	})
	web := f.agent(t, "web", fast, nil)
	tool.apply(t, true, r)
	web.apply(t, false, r)
	for name, addresses := range map[string][]string{"relay": nil, "direct": {tool.ListenAddr().String()}} {
		conn := dial(t, web, tool, addresses...)
		if got := conn.Path().Kind; got != name {
			t.Errorf("path is %s, want %s", got, name)
		}
		if err := roundTrip(conn, "hello"); err != nil {
			t.Fatal(err)
		}
		if got := <-seen; got != web.id.ID() {
			t.Errorf("over %s the tool sees %s, want %s", name, got, web.id.ID())
		}
	}
	// The machine joined again under its old name: another UID, another peer.
	old := tool.peer(tool.ListenAddr().String())
	old.SpiffeId = "spiffe://example.org/host/ids/gone"
	if _, err := web.Dial(t.Context(), "line", old); err == nil || !strings.Contains(err.Error(), "want spiffe://example.org/host/ids/gone") ||
		!strings.Contains(err.Error(), "host ids (gone) has no session with this relay") {
		t.Errorf("wrong identity: %v", err)
	}
}

// TestRelayedStreamNeedsTheTargetsOwnKey puts a machine of the same fleet in
// the target's place, as a relay that lies could.
func TestRelayedStreamNeedsTheTargetsOwnKey(t *testing.T) {
	f := newFleet(t)
	evil := f.agent(t, "evil", fast, echo)
	evil.apply(t, true)
	tool := f.agent(t, "ids", fast, echo)
	web := f.agent(t, "web", fast, nil)
	web.apply(t, false)
	if _, err := web.Dial(t.Context(), "line", tool.peer(evil.ListenAddr().String())); err == nil || !strings.Contains(err.Error(), "peer is spiffe://example.org/host/evil/") {
		t.Errorf("got %v", err)
	}
}

func TestOtherAuthorityIsRefused(t *testing.T) {
	f, other := newFleet(t), newFleet(t)
	r := f.relay(t, "r1", relay.Config{})
	tool := f.agent(t, "ids", fast, echo)
	tool.apply(t, true, r)
	stranger := other.agent(t, "web", fast, nil)
	stranger.apply(t, false, r)
	_, err := stranger.Dial(t.Context(), "line", tool.peer(tool.ListenAddr().String()))
	if err == nil || strings.Count(err.Error(), "unknown authority") != 2 {
		t.Errorf("got %v", err)
	}
}

func TestUnknownTargetFailsAtOnce(t *testing.T) {
	f := newFleet(t)
	r := f.relay(t, "r1", relay.Config{})
	tool := f.agent(t, "ids", fast, echo) // never connects
	web := f.agent(t, "web", fast, nil)
	web.apply(t, false, r)
	// The relay's own answer, not a time that has run out.
	_, err := web.Dial(t.Context(), "line", tool.peer())
	if err == nil || !strings.Contains(err.Error(), "has no session with this relay") || timedOut(err) {
		t.Errorf("got %v", err)
	}
	// A host that is no tool's says so too.
	app := f.agent(t, "app", fast, nil)
	app.apply(t, false, r)
	app.Dial(t.Context(), "line", tool.peer()) // makes its session
	if _, err := web.Dial(t.Context(), "line", app.peer()); err == nil || !strings.Contains(err.Error(), "accepts no streams") {
		t.Errorf("got %v", err)
	}
	web.apply(t, false)
	if _, err := web.Dial(t.Context(), "line", tool.peer()); err == nil || !strings.Contains(err.Error(), "names no relay") {
		t.Errorf("got %v", err)
	}
}

func TestManyStreams(t *testing.T) {
	const streams, size = 200, 64 << 10
	f := newFleet(t)
	r := f.relay(t, "r1", relay.Config{OpensPerSecond: 1000})
	cfg := fast
	cfg.MaxPending = streams
	tool := f.agent(t, "ids", cfg, echo)
	web := f.agent(t, "web", cfg, nil)
	tool.apply(t, true, r)
	web.apply(t, false, r)
	dial(t, web, tool).Close() // the sessions are there
	var wg sync.WaitGroup
	for i := range streams {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			conn, err := web.Dial(ctx, "line", tool.peer())
			if err != nil {
				t.Errorf("stream %d: %v", i, err)
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			want := make([]byte, size)
			rand.Read(want)
			go conn.Write(want)
			got := make([]byte, size)
			if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("stream %d: wrong bytes, %v", i, err)
			}
		})
	}
	wg.Wait()
	eventually(t, 5*time.Second, func() error {
		if s := r.Stats(); s.Streams != 0 {
			return fmt.Errorf("%d streams are left", s.Streams)
		}
		return nil
	})
}

func TestStreamLimitPerAgent(t *testing.T) {
	f := newFleet(t)
	r := f.relay(t, "r1", relay.Config{MaxStreamsPerAgent: 2})
	tool := f.agent(t, "ids", fast, echo)
	web := f.agent(t, "web", fast, nil)
	tool.apply(t, true, r)
	web.apply(t, false, r)
	first := dial(t, web, tool)
	dial(t, web, tool)
	if _, err := web.Dial(t.Context(), "line", tool.peer()); err == nil || !strings.Contains(err.Error(), "has opened 2 streams, as many as it may") {
		t.Errorf("got %v", err)
	}
	first.Close()
	dial(t, web, tool) // its place is free again
}

func TestOpenRateIsLimited(t *testing.T) {
	f := newFleet(t)
	r := f.relay(t, "r1", relay.Config{OpensPerSecond: 1}) // burst 5
	tool := f.agent(t, "ids", fast, echo)
	web := f.agent(t, "web", fast, nil)
	tool.apply(t, true, r)
	web.apply(t, false, r)
	var failed int
	for range 12 {
		conn, err := web.Dial(t.Context(), "line", tool.peer())
		if err != nil {
			failed++
			continue
		}
		conn.Close()
	}
	if failed < 5 {
		t.Errorf("only %d of 12 opens in a row were refused", failed)
	}
}

// TestSlowReaderHoldsItsWriter fills a stream whose reader sleeps: the writer
// must stop within the windows, the relay's memory must not grow, and another
// stream of the same two agents must not notice.
func TestSlowReaderHoldsItsWriter(t *testing.T) {
	f := newFleet(t)
	r := f.relay(t, "r1", relay.Config{})
	release := make(chan struct{})
	var first atomic.Bool
	tool := f.agent(t, "ids", fast, func(ctx context.Context, conn net.Conn, peer wire.Identity) {
		if first.CompareAndSwap(false, true) {
			<-release
		}
		io.Copy(conn, conn)
	})
	web := f.agent(t, "web", fast, nil)
	tool.apply(t, true, r)
	web.apply(t, false, r)
	slow := dial(t, web, tool)
	quick := dial(t, web, tool)

	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var written int
	chunk := make([]byte, 32<<10)
	slow.SetWriteDeadline(time.Now().Add(2 * time.Second))
	for written < 64<<20 {
		n, err := slow.Write(chunk)
		written += n
		if err != nil {
			break
		}
	}
	if written > 8<<20 {
		t.Errorf("%d bytes went into a stream that nobody reads", written)
	}
	if err := roundTrip(quick, strings.Repeat("x", 100<<10)); err != nil {
		t.Errorf("the other stream: %v", err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("heap grew by %d bytes", grown)
	}
	close(release)
}

func TestRelayRestart(t *testing.T) {
	f := newFleet(t)
	r := f.relay(t, "r1", relay.Config{})
	tool := f.agent(t, "ids", fast, echo)
	web := f.agent(t, "web", fast, nil)
	tool.apply(t, true, r)
	web.apply(t, false, r)
	conn := dial(t, web, tool)
	if err := roundTrip(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	r.stop()
	if err := roundTrip(conn, "hello"); err == nil || timedOut(err) {
		t.Errorf("a stream outlived its relay: %v", err)
	}
	time.Sleep(500 * time.Millisecond) // some attempts fail
	r.start(t)
	if err := roundTrip(dial(t, web, tool), "again"); err != nil {
		t.Fatal(err)
	}
}

func TestFailOverToTheOtherRelay(t *testing.T) {
	f := newFleet(t)
	r1, r2 := f.relay(t, "r1", relay.Config{}), f.relay(t, "r2", relay.Config{})
	tool := f.agent(t, "ids", fast, echo)
	web := f.agent(t, "web", fast, nil)
	tool.apply(t, true, r1, r2)
	web.apply(t, false, r1, r2)
	eventually(t, 5*time.Second, func() error { // a tool is on both
		if r1.Stats().Sessions == 0 || r2.Stats().Sessions == 0 {
			return errors.New("the tool is not on both")
		}
		return nil
	})
	if got := dial(t, web, tool).Path().Relay; got != "r1" {
		t.Errorf("dialled over %s, want the preferred r1", got)
	}
	if got := r2.Stats().Sessions; got != 1 {
		t.Errorf("%d sessions at the second relay: a source needs one only", got)
	}
	r1.stop()
	conn := dial(t, web, tool)
	if err := roundTrip(conn, "hello"); err != nil || conn.Path().Relay != "r2" {
		t.Errorf("got %+v, %v", conn.Path(), err)
	}
	r1.start(t)
	eventually(t, 5*time.Second, func() error {
		conn, err := web.Dial(t.Context(), "line", tool.peer())
		if err != nil {
			return err
		}
		defer conn.Close()
		if conn.Path().Relay != "r1" {
			return errors.New("still over " + conn.Path().Relay)
		}
		return nil
	})
}

func TestDirectPathIsTakenWhenItOpens(t *testing.T) {
	f := newFleet(t)
	r := f.relay(t, "r1", relay.Config{})
	tool := f.agent(t, "ids", fast, echo)
	web := f.agent(t, "web", fast, nil)
	tool.apply(t, true, r)
	web.apply(t, false, r)
	closed := freeAddress(t) // nobody listens there yet
	conn := dial(t, web, tool, closed)
	if got := conn.Path().Kind; got != transport.PathRelay {
		t.Fatalf("path is %s", got)
	}
	time.Sleep(100 * time.Millisecond) // some probes fail
	l, err := net.Listen("tcp", closed)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	way := &forwarder{Listener: l, target: tool.ListenAddr().String()}
	go way.serve()

	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, transport.ErrBetterPath) {
		t.Fatalf("the relayed connection ends with %v", err)
	}
	conn.Close()
	conn = dial(t, web, tool, closed)
	if err := roundTrip(conn, "hello"); err != nil || conn.Path().Kind != transport.PathDirect {
		t.Fatalf("got %+v, %v", conn.Path(), err)
	}
	// A tool that says goodbye is no broken path: it is taken again.
	tool.stop()
	if err := roundTrip(conn, "hello"); err == nil {
		t.Fatal("a stream outlived its peer")
	}
	conn.Close()
	tool = startAgent(t, tool.id, fast, echo)
	tool.apply(t, true, r)
	way.lead(tool.ListenAddr().String())
	conn = dial(t, web, tool, closed)
	if err := roundTrip(conn, "hello"); err != nil || conn.Path().Kind != transport.PathDirect {
		t.Fatalf("after an ordinary end: %+v, %v", conn.Path(), err)
	}
	// The direct path breaks at once: it is left alone, and nothing flaps.
	way.reset()
	if err := roundTrip(conn, "hello"); err == nil {
		t.Fatal("a stream outlived its path")
	}
	conn.Close()
	conn = dial(t, web, tool, closed)
	if got := conn.Path().Kind; got != transport.PathRelay {
		t.Errorf("path is %s right after it broke", got)
	}
	conn.SetReadDeadline(time.Now().Add(700 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); errors.Is(err, transport.ErrBetterPath) {
		t.Error("the stream was moved back at once")
	}
}

// TestGoodbyeOfABusyStream stops a tool that has not read all that was sent: the
// source must hear that this is the end, not that the path broke, and take the
// path again.
func TestGoodbyeOfABusyStream(t *testing.T) {
	f := newFleet(t)
	r := f.relay(t, "r1", relay.Config{})
	deaf := func(ctx context.Context, _ net.Conn, _ wire.Identity) { <-ctx.Done() }
	tool := f.agent(t, "ids", fast, deaf)
	web := f.agent(t, "web", fast, nil)
	tool.apply(t, true, r)
	web.apply(t, false, r)
	for range 3 {
		conn := dial(t, web, tool, tool.ListenAddr().String())
		if got := conn.Path().Kind; got != transport.PathDirect {
			t.Fatalf("path is %s", got)
		}
		if _, err := conn.Write(make([]byte, 100<<10)); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := conn.Read(make([]byte, 1))
			conn.Close()
			ended <- err
		}()
		tool.stop()
		if err := <-ended; err != io.EOF {
			t.Errorf("the stream ends with %v", err)
		}
		tool = startAgent(t, tool.id, fast, deaf)
		tool.apply(t, true, r)
	}
}

// forwarder is a way to a tool that can be cut.
type forwarder struct {
	net.Listener
	target string
	mu     sync.Mutex
	conns  []net.Conn
}

func (f *forwarder) serve() {
	for {
		a, err := f.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		target := f.target
		f.mu.Unlock()
		b, err := net.Dial("tcp", target)
		if err != nil {
			a.Close()
			continue
		}
		f.mu.Lock()
		f.conns = append(f.conns, a, b)
		f.mu.Unlock()
		// Each end is passed on by itself: to close a connection of which
		// something is unread is to reset it.
		var open sync.WaitGroup
		for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
			open.Go(func() {
				io.Copy(pair[0], pair[1])
				pair[0].(*net.TCPConn).CloseWrite()
			})
		}
		go func() {
			open.Wait()
			a.Close()
			b.Close()
		}()
	}
}

func (f *forwarder) lead(target string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.target = target
}

// reset breaks every connection without a goodbye, as a firewall does.
func (f *forwarder) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

func TestNoPortUnlessTool(t *testing.T) {
	f := newFleet(t)
	web := f.agent(t, "web", fast, echo)
	web.apply(t, false)
	if got := web.ListenAddr(); got != nil {
		t.Errorf("listens on %s", got)
	}
	web.apply(t, true)
	addr := web.ListenAddr().String()
	web.apply(t, true) // changes nothing
	if got := web.ListenAddr().String(); got != addr {
		t.Errorf("listens on %s, was %s", got, addr)
	}
	web.apply(t, false)
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Error("the port is still open")
	}
}

func TestNewSessionReplacesTheOld(t *testing.T) {
	f := newFleet(t)
	r := f.relay(t, "r1", relay.Config{})
	id := f.Member(t, model.RoleHost, "ids")
	old := startAgent(t, id, fast, func(_ context.Context, conn net.Conn, _ wire.Identity) { io.WriteString(conn, "old") })
	web := f.agent(t, "web", fast, nil)
	old.apply(t, true, r)
	web.apply(t, false, r)
	dial(t, web, old).Close()
	cfg := fast
	young := startAgent(t, id, cfg, func(_ context.Context, conn net.Conn, _ wire.Identity) { io.WriteString(conn, "new") })
	young.apply(t, true, r)
	eventually(t, 5*time.Second, func() error {
		conn, err := web.Dial(t.Context(), "line", young.peer())
		if err != nil {
			return err
		}
		defer conn.Close()
		var b [3]byte
		if _, err := io.ReadFull(conn, b[:]); err != nil || string(b[:]) != "new" {
			return fmt.Errorf("got %q, %v", b, err)
		}
		return nil
	})
	time.Sleep(500 * time.Millisecond) // the old one must not fight back
	if err := roundTripGot(web, young, "new"); err != nil {
		t.Error(err)
	}
}

func roundTripGot(from, to *agentNode, want string) error {
	conn, err := from.Dial(context.Background(), "line", to.peer())
	if err != nil {
		return err
	}
	defer conn.Close()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		return fmt.Errorf("got %q, %v, want %q", got, err, want)
	}
	return nil
}

func TestHalfCloseAndIdle(t *testing.T) {
	f := newFleet(t)
	r := f.relay(t, "r1", relay.Config{Idle: 300 * time.Millisecond})
	tool := f.agent(t, "ids", fast, func(_ context.Context, conn net.Conn, _ wire.Identity) {
		data, _ := io.ReadAll(conn) // until the source ends its half
		conn.Write(bytes.ToUpper(data))
	})
	web := f.agent(t, "web", fast, nil)
	tool.apply(t, true, r)
	web.apply(t, false, r)
	conn := dial(t, web, tool)
	io.WriteString(conn, "hello")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "HELLO" {
		t.Errorf("got %q, %v", got, err)
	}
	quiet := dial(t, web, tool)
	quiet.SetReadDeadline(time.Now().Add(3 * time.Second))
	_, err := quiet.Read(make([]byte, 1))
	var timeout net.Error
	if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("a quiet stream ends with %v", err)
	}
}

func TestGarbageAtTheRelay(t *testing.T) {
	f := newFleet(t)
	r := f.relay(t, "r1", relay.Config{})
	for _, text := range []string{"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x00\x00", strings.Repeat("\x00", 4096)} {
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(3 * time.Second))
		io.WriteString(conn, text)
		if _, err := io.ReadAll(conn); errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q keeps the connection open", text)
		}
		conn.Close()
	}
	tool := f.agent(t, "ids", fast, echo)
	tool.apply(t, true, r)
	web := f.agent(t, "web", fast, nil)
	web.apply(t, false, r)
	dial(t, web, tool)
}
