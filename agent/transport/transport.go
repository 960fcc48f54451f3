// Package transport carries streams between agents: over a relay at once, and
// directly where that is proven to work. Inside either path is TLS 1.3 between
// the two agents' own certificates, so who carries the bytes does not matter.
//
// A Dial starts on the relay and tries the peer's addresses at the same time.
// While a connection is relayed a prober goes on trying; when an address
// answers twice in a row the relayed connections to that peer are closed with
// ErrBetterPath, and whoever dials again gets the direct path. A direct path
// that breaks soon is left alone for a while, longer each time.
//
// After the handshake the side that accepts sends one byte (0x01), inside TLS:
// without it a TLS 1.3 client would not know whether its certificate was taken.
package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft/internal/identity"
	"weft/internal/tcp"
	"weft/wire"
	"weft/wire/wirepb"
)

// ALPN of streams between agents, and of probes of a direct path.
const (
	alpnStream = "weft-stream/1"
	alpnProbe  = "weft-probe/1"
)

// greeting is the byte by which a peer accepts.
const greeting = 0x01

// DefaultListen is where a tool's host accepts direct streams.
const DefaultListen = ":7444"

// Config bounds a transport. Zero values take the defaults that are named.
type Config struct {
	Listen string // for direct streams, when the section says so; DefaultListen

	// Grace is how long a Dial that has a relayed connection waits for a
	// direct attempt that is under way; 100 ms.
	Grace time.Duration
	// ProbeFirst is when a direct path is first probed again, and doubles up
	// to ProbeMax; 2 s and 5 min. ProbeConfirm is the time to the second
	// success that is asked for; 1 s.
	ProbeFirst, ProbeMax, ProbeConfirm time.Duration
	// Penalty is how long a direct path is left alone that broke within a
	// minute. It doubles, up to half an hour; 1 min.
	Penalty time.Duration
	// SessionIdle closes a relay session that nothing needs; 1 min.
	SessionIdle time.Duration
	// MaxPending is how many accepted connections may be in their handshake; 64.
	MaxPending int
	// ConnectsPerSecond is how fast one address may connect directly; 20.
	ConnectsPerSecond float64
}

func (c Config) withDefaults() Config {
	def := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.Grace, 100*time.Millisecond)
	def(&c.ProbeFirst, 2*time.Second)
	def(&c.ProbeMax, 5*time.Minute)
	def(&c.ProbeConfirm, time.Second)
	def(&c.Penalty, time.Minute)
	def(&c.SessionIdle, time.Minute)
	if c.Listen == "" {
		c.Listen = DefaultListen
	}
	if c.MaxPending == 0 {
		c.MaxPending = 64
	}
	if c.ConnectsPerSecond == 0 {
		c.ConnectsPerSecond = 20
	}
	return c
}

const (
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 10 * time.Second
	// stagger is the head start that a better address has.
	stagger = 150 * time.Millisecond
	// relayAgain is the pause before the relays are tried again while a direct
	// attempt is still under way.
	relayAgain = 300 * time.Millisecond
)

// Handler serves one accepted stream; conn is a *Conn, closed when it returns.
// ctx ends when the transport stops, and the handler must then return. A
// stream may end before its first byte: the dialler tried two paths at once
// and took the other.
type Handler func(ctx context.Context, conn net.Conn, peer wire.Identity)

// Deps are what New needs from its surroundings. The time by which peers'
// certificates are judged is Identity.Now.
type Deps struct {
	Identity *identity.Identity
	Log      *slog.Logger
	Accept   Handler               // nil refuses every stream
	Registry prometheus.Registerer // nil registers nothing
	// Track sees every TCP connection as soon as it is there and returns what is
	// used in its place; nil leaves them as they are.
	Track func(net.Conn) net.Conn
}

// Transport is the reconciler of the section "transport".
type Transport struct {
	cfg     Config
	deps    Deps
	log     *slog.Logger
	metrics *metrics
	sources *tcp.SourceLimiter
	pending chan struct{}
	paths   paths

	life life

	mu       sync.Mutex
	section  *wirepb.TransportSection
	links    []*link // in the section's order
	listener net.Listener
}

// life is the time of Run. Its lock is taken last, whatever else is held.
type life struct {
	mu      sync.Mutex
	ctx     context.Context // nil before Run
	stopped bool
	wg      sync.WaitGroup
}

// New makes a transport that does nothing yet.
func New(cfg Config, deps Deps) (*Transport, error) {
	cfg = cfg.withDefaults()
	if _, _, err := net.SplitHostPort(cfg.Listen); err != nil {
		return nil, fmt.Errorf("listen address %q: %w", cfg.Listen, err)
	}
	if deps.Track == nil {
		deps.Track = func(c net.Conn) net.Conn { return c }
	}
	t := &Transport{cfg: cfg, deps: deps, log: deps.Log, metrics: newMetrics(deps.Registry),
		sources: tcp.NewSourceLimiter(cfg.ConnectsPerSecond), pending: make(chan struct{}, cfg.MaxPending),
		section: &wirepb.TransportSection{}}
	t.paths.peers = map[string]*peerPath{}
	return t, nil
}

// Run does what the last section says until ctx ends. Without one it waits.
func (t *Transport) Run(ctx context.Context, ready func()) error {
	if err := t.life.begin(ctx); err != nil {
		return err
	}
	t.mu.Lock()
	err := t.reconcile()
	t.mu.Unlock()
	if err != nil { // the section stays; the next Apply tries again
		t.log.Error("apply transport section", "error", err)
	}
	ready()
	<-ctx.Done()
	t.life.end()
	t.mu.Lock()
	t.section = &wirepb.TransportSection{}
	t.reconcile() // only takes away: cannot fail
	t.mu.Unlock()
	t.life.wg.Wait()
	return nil
}

// ErrNotRunning says that Dial was called before Run or after it.
var ErrNotRunning = errors.New("transport does not run")

func (l *life) begin(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx != nil {
		return errors.New("transport has run already")
	}
	l.ctx = ctx
	return nil
}

// end lets nothing more start.
func (l *life) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
}

// context returns that of Run while it is at work.
func (l *life) context() (context.Context, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx == nil || l.stopped {
		return nil, ErrNotRunning
	}
	return l.ctx, nil
}

// start runs f, for which Run waits, unless the transport is not at work.
func (l *life) start(f func(ctx context.Context)) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx == nil || l.stopped {
		return false
	}
	ctx := l.ctx
	l.wg.Go(func() { f(ctx) })
	return true
}
