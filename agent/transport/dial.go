package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"weft/internal/identity"
	"weft/model"
	"weft/wire"
	"weft/wire/relaywire"
	"weft/wire/wirepb"
)

// attempt is the outcome of one of the two ways.
type attempt struct {
	direct bool
	conn   *Conn
	err    error
}

// Dial connects to the agent that the peer names, down to its UID; line is for
// logs. It returns a direct connection if one is proven while the relay
// answers, else a relayed one.
func (t *Transport) Dial(ctx context.Context, line string, peer *wirepb.Peer) (*Conn, error) {
	id, err := wire.ParseIdentity(peer.GetSpiffeId())
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", peer.GetName(), err)
	}
	if id.Role != model.RoleHost {
		return nil, fmt.Errorf("dial %s: %s is no host", peer.GetName(), id)
	}
	running, err := t.life.context()
	if err != nil {
		return nil, err
	}
	conn, err := t.race(ctx, running, id, peer)
	if err != nil {
		t.metrics.dials.WithLabelValues("failed").Inc()
		return nil, fmt.Errorf("dial %s for line %s: %w", id.Name, line, err)
	}
	t.metrics.dials.WithLabelValues(conn.path.Kind).Inc()
	t.log.Debug("stream dialled", "line", line, "peer", id.Name, "path", conn.path.Kind, "relay", conn.path.Relay, "remote", conn.path.Remote)
	return conn, nil
}

func (t *Transport) race(ctx, running context.Context, id wire.Identity, peer *wirepb.Peer) (*Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(running, cancel)()

	results := make(chan attempt, 2)
	links := t.order()
	pending := 0
	if len(links) > 0 {
		pending++
		go func() {
			conn, err := t.dialRelays(ctx, links, id)
			results <- attempt{false, conn, err}
		}()
	}
	proven := t.paths.isProven(id)
	tryDirect := func() {
		pending++
		go func() {
			conn, err := t.dialDirect(ctx, peer.GetAddresses(), id)
			results <- attempt{true, conn, err}
		}()
	}
	// A direct path that broke soon is left alone, but only while there is
	// another: without one it is the best there is.
	direct := len(peer.GetAddresses()) > 0 && (len(links) == 0 || !t.paths.avoided(id))
	if direct {
		tryDirect()
	}
	if pending == 0 {
		return nil, errNoRelay
	}
	// Whatever comes after the return is closed.
	late := func(n int) {
		cancel()
		go func() {
			for range n {
				if r := <-results; r.conn != nil {
					r.conn.Close()
				}
			}
		}()
	}
	grace := t.cfg.Grace
	if proven {
		// The relayed connection was given up for this one.
		grace = dialTimeout
	}
	var relayed *Conn
	var enough <-chan time.Time
	var errs []error
	for pending > 0 {
		select {
		case r := <-results:
			pending--
			switch {
			case r.err != nil:
				errs = append(errs, r.err)
				if !r.direct && !direct && len(peer.GetAddresses()) > 0 {
					direct = true
					tryDirect()
				}
			case r.direct:
				if relayed != nil {
					relayed.Close()
				}
				late(pending)
				t.paths.opened(id, r.conn, t.cfg)
				return r.conn, nil
			default:
				relayed = r.conn
				timer := time.NewTimer(grace)
				defer timer.Stop()
				enough = timer.C
			}
		case <-enough:
			late(pending)
			pending = 0
		case <-ctx.Done():
			late(pending)
			if relayed != nil {
				relayed.Close()
			}
			return nil, errors.Join(append(errs, ctx.Err())...)
		}
	}
	if relayed == nil {
		return nil, errors.Join(errs...)
	}
	if proven {
		t.paths.punish(id, t.cfg.Penalty) // two probes passed and yet it failed
	}
	if len(peer.GetAddresses()) > 0 {
		t.watch(id, peer.GetAddresses(), relayed)
	}
	return relayed, nil
}

// dialRelays tries the relays by preference.
func (t *Transport) dialRelays(ctx context.Context, links []*link, id wire.Identity) (*Conn, error) {
	var errs []error
	for _, l := range links {
		conn, err := t.dialRelay(ctx, l, id)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("relay %s: %w", l.label(), err))
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (t *Transport) dialRelay(ctx context.Context, l *link, id wire.Identity) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*handshakeTimeout)
	defer cancel()
	session, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	stream, err := relaywire.Open(ctx, session)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	held := l.hold(stream)
	stop := context.AfterFunc(ctx, func() { held.Close() })
	err = relaywire.Write(stream, relaywire.Preamble{Kind: relaywire.Connect, Text: id.String()})
	var answer relaywire.Preamble
	if err == nil {
		answer, err = relaywire.Read(stream)
	}
	if err == nil && answer.Kind != relaywire.OK {
		err = fmt.Errorf("relay answers %s", answer.Kind)
		if answer.Kind == relaywire.Failed {
			err = &relaywire.Error{Code: answer.Code, Text: answer.Text}
		}
	}
	if err != nil {
		stop()
		held.Close()
		return nil, errors.Join(err, ctx.Err())
	}
	conn, err := t.secure(ctx, held, id, alpnStream)
	if !stop() || err != nil {
		held.Close()
		return nil, errors.Join(err, ctx.Err())
	}
	return &Conn{Conn: conn, path: Path{Kind: PathRelay, Relay: l.label(), Remote: session.RemoteAddr().String()}}, nil
}

// secure does TLS with the one peer that is wanted, and waits to be accepted.
func (t *Transport) secure(ctx context.Context, raw net.Conn, id wire.Identity, alpn string) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	conn := tls.Client(raw, t.deps.Identity.ClientTLS(alpn, identity.Exactly(id)))
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("handshake with %s: %w", id.Name, err)
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != alpn {
		return nil, fmt.Errorf("handshake with %s: it does not speak %s", id.Name, alpn)
	}
	var hello [1]byte
	if _, err := io.ReadFull(conn, hello[:]); err != nil {
		return nil, fmt.Errorf("handshake with %s: it does not accept us: %w", id.Name, err)
	}
	if hello[0] != greeting {
		return nil, fmt.Errorf("handshake with %s: it greets with %#x", id.Name, hello[0])
	}
	return conn, nil
}

// dialDirect tries the addresses, each a little after the one before, and
// returns the first that proves to be the peer.
func (t *Transport) dialDirect(ctx context.Context, addresses []string, id wire.Identity) (*Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan attempt, len(addresses))
	for i, address := range addresses {
		go func() {
			if err := sleep(ctx, time.Duration(i)*stagger); err != nil {
				results <- attempt{err: err}
				return
			}
			conn, err := t.dialAddress(ctx, address, id, alpnStream)
			if err != nil {
				results <- attempt{err: err}
				return
			}
			results <- attempt{conn: &Conn{Conn: conn, path: Path{Kind: PathDirect, Remote: address}}}
		}()
	}
	var errs []error
	for i := range addresses {
		r := <-results
		if r.err != nil {
			errs = append(errs, r.err)
			continue
		}
		cancel()
		go func() {
			for range len(addresses) - i - 1 {
				if r := <-results; r.conn != nil {
					r.conn.Close()
				}
			}
		}()
		return r.conn, nil
	}
	return nil, errors.Join(errs...)
}

func (t *Transport) dialAddress(ctx context.Context, address string, id wire.Identity, alpn string) (*tls.Conn, error) {
	dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := dialer().DialContext(dialCtx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("dial directly: %w", err)
	}
	raw = t.deps.Track(raw)
	conn, err := t.secure(ctx, raw, id, alpn)
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("dial directly %s: %w", address, err)
	}
	return conn, nil
}
