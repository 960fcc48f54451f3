package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"weft/internal/identity"
	"weft/internal/tcp"
	"weft/wire"
	"weft/wire/relaywire"
)

const (
	retryFirst = 100 * time.Millisecond
	// retryMax bounds the back-off of whoever must be reachable.
	retryMax = 10 * time.Second
	// replacedPause is the back-off after the relay said that the same
	// identity has a newer session: two machines that share an identity
	// would else push one another out without end.
	replacedPause = 30 * time.Second
	// gateMax is how long a relay that failed is not dialled again, at most.
	gateMax = time.Second
)

// link is this host's way to one relay: no session, or one.
type link struct {
	t  *Transport
	id wire.Identity

	mu        sync.Mutex
	name      string
	addresses []string
	session   *yamux.Session
	flight    *flight // a dial under way
	users     int     // relayed connections
	idle      *time.Timer
	keeping   context.CancelFunc // nil unless a session is to be kept
	closed    bool
	failures  int
	gate      time.Time // not dialled before
	lastErr   error
	pause     atomic.Int64 // asked for by the relay, nanoseconds
}

// flight is one dial that several may wait for.
type flight struct {
	done    chan struct{}
	session *yamux.Session
	err     error
}

func newLink(t *Transport, id wire.Identity) *link { return &link{t: t, id: id} }

func (l *link) set(name string, addresses []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.name, l.addresses = name, append([]string(nil), addresses...)
}

// keep starts or stops keeping a session while nobody dials.
func (l *link) keep(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case on && l.keeping == nil:
		running, err := l.t.life.context()
		if err != nil {
			return
		}
		ctx, cancel := context.WithCancel(running)
		l.keeping = cancel
		if !l.t.life.start(func(context.Context) { l.keepUp(ctx) }) {
			cancel()
		}
	case !on && l.keeping != nil:
		l.keeping()
		l.keeping = nil
		l.armIdle()
	}
}

// close ends the session and all that runs through it.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.keeping != nil {
		l.keeping()
		l.keeping = nil
	}
	if l.session != nil {
		go l.session.Close() // may wait for a write that hangs
	}
}

// keepUp keeps a session until ctx ends.
func (l *link) keepUp(ctx context.Context) {
	wait := retryFirst
	for ctx.Err() == nil {
		began := time.Now()
		session, err := l.get(ctx)
		if err == nil {
			select {
			case <-session.CloseChan():
			case <-ctx.Done():
				return
			}
			if time.Since(began) > time.Minute {
				wait = retryFirst
			}
		}
		if ctx.Err() != nil {
			return
		}
		pause := wait/2 + rand.N(wait/2)
		if asked := time.Duration(l.pause.Swap(0)); asked > 0 {
			pause = asked + rand.N(asked/2)
		}
		l.t.log.Warn("relay is tried again", "relay", l.label(), "error", err, "after", pause)
		if sleep(ctx, pause) != nil {
			return
		}
		wait = min(2*wait, retryMax)
	}
}

func (l *link) label() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.name
}

// get returns the session, dialling the relay where there is none. A relay that
// has just failed fails at once.
func (l *link) get(ctx context.Context) (*yamux.Session, error) {
	l.mu.Lock()
	switch {
	case l.closed:
		l.mu.Unlock()
		return nil, errors.New("relay is no longer used")
	case l.session != nil && !l.session.IsClosed():
		defer l.mu.Unlock()
		return l.session, nil
	case l.flight == nil && time.Now().Before(l.gate):
		defer l.mu.Unlock()
		return nil, l.lastErr
	}
	f := l.flight
	if f == nil {
		f = &flight{done: make(chan struct{})}
		addresses := l.addresses
		if !l.t.life.start(func(ctx context.Context) { l.fly(ctx, f, addresses) }) {
			l.mu.Unlock()
			return nil, ErrNotRunning
		}
		l.flight = f
	}
	l.mu.Unlock()
	select {
	case <-f.done:
		return f.session, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *link) fly(ctx context.Context, f *flight, addresses []string) {
	session, err := l.dial(ctx, addresses)
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(f.done)
	l.flight = nil
	if err == nil && l.closed {
		session.Close()
		err = errors.New("relay is no longer used")
	}
	if err != nil {
		f.err = err
		l.lastErr = err
		l.gate = time.Now().Add(min(retryFirst<<min(l.failures, 8), gateMax))
		l.failures++
		return
	}
	f.session, l.session, l.failures = session, session, 0
	l.armIdle()
	if !l.t.life.start(func(ctx context.Context) { l.serve(ctx, session) }) {
		session.Close()
	}
}

// dial tries the relay's addresses in turn.
func (l *link) dial(ctx context.Context, addresses []string) (*yamux.Session, error) {
	var errs []error
	for _, address := range addresses {
		session, err := l.dialOne(ctx, address)
		if err == nil {
			l.t.log.Info("session with relay", "relay", l.label(), "address", address)
			return session, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (l *link) dialOne(ctx context.Context, address string) (*yamux.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := dialer().DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("dial relay: %w", err)
	}
	raw = l.t.deps.Track(raw)
	cfg := l.t.deps.Identity.ClientTLS(relaywire.ALPN, identity.Exactly(l.id))
	cfg.ServerName, _, _ = net.SplitHostPort(address) // for whoever routes by name; it dialled, so it parses
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("dial relay %s: %w", address, err)
	}
	if conn.ConnectionState().NegotiatedProtocol != relaywire.ALPN {
		raw.Close()
		return nil, fmt.Errorf("dial relay %s: it does not speak %s", address, relaywire.ALPN)
	}
	session, err := relaywire.Client(conn, l.t.log)
	if err != nil {
		raw.Close()
		return nil, err
	}
	return session, nil
}

func dialer() *net.Dialer {
	return &net.Dialer{KeepAliveConfig: tcp.KeepAlive, Control: tcp.Control}
}

// serve takes the streams that the relay opens until the session ends.
func (l *link) serve(ctx context.Context, session *yamux.Session) {
	stop := context.AfterFunc(ctx, func() { session.Close() })
	defer stop()
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			l.t.log.Info("session with relay ended", "relay", l.label(), "error", err)
			return
		}
		if !l.t.life.start(func(ctx context.Context) { l.incoming(ctx, stream) }) {
			relaywire.Abort(stream)
		}
	}
}

// incoming serves one stream that the relay opened.
func (l *link) incoming(ctx context.Context, stream *yamux.Stream) {
	stream.SetDeadline(time.Now().Add(handshakeTimeout))
	p, err := relaywire.Read(stream)
	if err != nil {
		l.t.log.Debug("stream from relay refused", "relay", l.label(), "error", err)
		relaywire.Abort(stream)
		return
	}
	refuse := func(code relaywire.Code, why string) {
		// The relay may be gone by now; it will find out by itself.
		relaywire.Write(stream, relaywire.Preamble{Kind: relaywire.Failed, Code: code, Text: why})
		relaywire.Abort(stream)
	}
	switch {
	case p.Kind == relaywire.Failed: // the relay says why it ends the session
		if p.Code == relaywire.CodeReplaced {
			l.pause.Store(int64(replacedPause))
		}
		l.t.log.Warn("relay ends the session", "relay", l.label(), "reason", p.Text)
		stream.Close()
		return
	case p.Kind != relaywire.Incoming:
		refuse(relaywire.CodeBadRequest, "host expects INCOMING, got "+p.Kind.String())
		return
	case !l.t.listening():
		refuse(relaywire.CodeRefused, "it accepts no streams: no tap delivers there")
		return
	}
	from, err := wire.ParseIdentity(p.Text)
	if err != nil {
		refuse(relaywire.CodeBadRequest, "INCOMING names no identity")
		return
	}
	select {
	case l.t.pending <- struct{}{}:
	default:
		refuse(relaywire.CodeLimit, "too many streams are in their handshake")
		return
	}
	if err := relaywire.Write(stream, relaywire.Preamble{Kind: relaywire.OK}); err != nil {
		<-l.t.pending
		relaywire.Abort(stream)
		return
	}
	path := Path{Kind: PathRelay, Relay: l.label(), Remote: stream.RemoteAddr().String()}
	l.t.accept(ctx, l.hold(stream), path, identity.Exactly(from))
}

// hold counts a stream as a user of the session for as long as it is open.
func (l *link) hold(stream *yamux.Stream) net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users++
	return &relayedStream{Stream: stream, release: sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.users--
		l.armIdle()
	})}
}

// armIdle closes the session after a while in which nothing needs it. mu is held.
func (l *link) armIdle() {
	if l.users > 0 || l.keeping != nil || l.closed {
		return
	}
	if l.idle != nil {
		l.idle.Stop()
	}
	l.idle = time.AfterFunc(l.t.cfg.SessionIdle, func() {
		l.mu.Lock()
		session := l.session
		idle := session != nil && l.users == 0 && l.keeping == nil
		if idle {
			l.session = nil
		}
		l.mu.Unlock()
		if idle {
			session.Close()
		}
	})
}

// relayedStream is a stream whose Close ends both halves, as that of a socket
// does, and wakes its readers.
type relayedStream struct {
	*yamux.Stream
	release func()
}

func (s *relayedStream) Close() error {
	relaywire.Abort(s.Stream)
	s.release()
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
