// Package relay forwards bytes between agents that cannot reach one another:
// both dial out to it, each is known by its own certificate, and what crosses
// is TLS between the two agents, whose keys the relay never holds. The words
// spoken are in weft/wire/relaywire.
package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft/internal/identity"
	"weft/internal/tcp"
	"weft/model"
	"weft/wire/relaywire"
)

// Config bounds a relay. Zero values take the defaults that are named.
type Config struct {
	Listen string // "HOST:PORT" or ":PORT" for agents

	// MaxSessions is how many agents may be connected; 4096.
	MaxSessions int
	// MaxStreams is how many pipes there may be in all; 4096. Each may hold
	// two windows (2 MiB) of memory where both readers are slow.
	MaxStreams int
	// MaxStreamsPerAgent bounds the pipes that one agent opened, and those
	// that lead to it, each; 512.
	MaxStreamsPerAgent int
	// OpensPerSecond is how fast one agent may open streams, after a burst of
	// four times as many; 50.
	OpensPerSecond float64
	// MaxPending is how many connections may be in their handshake; 256.
	MaxPending int
	// ConnectsPerSecond is how fast one address may connect, after a burst of
	// four times as many; 50. Many agents may share one address behind NAT.
	ConnectsPerSecond float64
	// Idle ends a pipe that carried nothing for so long; 15 min.
	Idle time.Duration
}

func (c Config) withDefaults() Config {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.MaxSessions, 4096)
	def(&c.MaxStreams, 4096)
	def(&c.MaxStreamsPerAgent, 512)
	def(&c.MaxPending, 256)
	if c.OpensPerSecond == 0 {
		c.OpensPerSecond = 50
	}
	if c.ConnectsPerSecond == 0 {
		c.ConnectsPerSecond = 50
	}
	if c.Idle == 0 {
		c.Idle = 15 * time.Minute
	}
	return c
}

const (
	handshakeTimeout = 10 * time.Second
	preambleTimeout  = 10 * time.Second
	stopTimeout      = 2 * time.Second
)

// Deps are what New needs from its surroundings.
type Deps struct {
	Identity *identity.Identity
	Log      *slog.Logger
	Registry prometheus.Registerer // nil registers nothing
}

// Relay is one rendezvous.
type Relay struct {
	cfg      Config
	deps     Deps
	log      *slog.Logger
	metrics  *metrics
	sources  *tcp.SourceLimiter
	registry registry
	pipes    pipes
	instance string
	listened chan struct{} // closed when addr is set
	addr     net.Addr
}

// New makes a relay that does nothing yet.
func New(cfg Config, deps Deps) (*Relay, error) {
	if _, _, err := net.SplitHostPort(cfg.Listen); err != nil {
		return nil, fmt.Errorf("listen address %q: %w", cfg.Listen, err)
	}
	cfg = cfg.withDefaults()
	r := &Relay{cfg: cfg, deps: deps, log: deps.Log, listened: make(chan struct{}), instance: newInstance(),
		sources: tcp.NewSourceLimiter(cfg.ConnectsPerSecond)}
	r.registry.sessions = map[string]*session{}
	r.pipes.all = map[*pipe]struct{}{}
	r.metrics = newMetrics(r, deps.Registry)
	return r, nil
}

// Addr waits until the relay listens and returns where.
func (r *Relay) Addr() net.Addr {
	<-r.listened
	return r.addr
}

// Run accepts agents until ctx ends. It then tells them so and stops.
func (r *Relay) Run(ctx context.Context, ready func()) error {
	listener, err := (&net.ListenConfig{KeepAliveConfig: tcp.KeepAlive, Control: tcp.Control}).Listen(ctx, "tcp", r.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for agents: %w", err)
	}
	r.addr = listener.Addr()
	close(r.listened)
	r.log.Info("relay listens", "address", r.addr.String(), "identity", r.deps.Identity.ID().String())

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		listener.Close()
	})
	wg.Go(func() { r.pipes.expire(ctx, r.cfg.Idle) })
	ready()
	err = r.accept(ctx, listener, &wg)
	cancel()
	wg.Wait()
	return err
}

func (r *Relay) accept(ctx context.Context, listener net.Listener, wg *sync.WaitGroup) error {
	cfg := r.deps.Identity.ServerTLS([]string{relaywire.ALPN}, identity.HasRole(model.RoleHost))
	pending := make(chan struct{}, r.cfg.MaxPending)
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			// Out of file descriptors, as a rule: others may end meanwhile.
			r.log.Warn("accept connection", "error", err)
			if sleep(ctx, 100*time.Millisecond) != nil {
				return nil
			}
			continue
		}
		if !r.sources.Allow(conn.RemoteAddr()) {
			r.metrics.handshakes.WithLabelValues("rate").Inc()
			conn.Close()
			continue
		}
		select {
		case pending <- struct{}{}:
		default:
			r.metrics.handshakes.WithLabelValues("pending").Inc()
			conn.Close()
			continue
		}
		wg.Go(func() {
			tlsConn := tls.Server(conn, cfg)
			err := r.handshake(ctx, tlsConn)
			<-pending
			if err != nil {
				r.metrics.handshakes.WithLabelValues("failed").Inc()
				r.log.Info("connection refused", "remote", conn.RemoteAddr().String(), "error", err)
				conn.Close()
				return
			}
			r.metrics.handshakes.WithLabelValues("ok").Inc()
			r.serve(ctx, tlsConn)
		})
	}
}

func (r *Relay) handshake(ctx context.Context, conn *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != relaywire.ALPN {
		return errors.New("client does not speak " + relaywire.ALPN)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
