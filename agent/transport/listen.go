package transport

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"weft/internal/identity"
	"weft/internal/tcp"
	"weft/model"
)

// listen opens the listener for direct streams unless it is open. mu is held.
func (t *Transport) listen() error {
	if t.listener != nil {
		return nil
	}
	running, err := t.life.context()
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{KeepAliveConfig: tcp.KeepAlive, Control: tcp.Control}).Listen(running, "tcp", t.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for direct streams: %w; relays still work", err)
	}
	t.listener = listener
	t.log.Info("direct streams are accepted", "address", listener.Addr().String())
	t.life.start(func(ctx context.Context) { t.acceptDirect(ctx, listener) })
	return nil
}

// ListenAddr is where direct streams are accepted; nil where they are not.
func (t *Transport) ListenAddr() net.Addr {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.listener == nil {
		return nil
	}
	return t.listener.Addr()
}

func (t *Transport) acceptDirect(ctx context.Context, listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			t.mu.Lock()
			open := t.listener == listener
			t.mu.Unlock()
			if !open || ctx.Err() != nil {
				return
			}
			t.log.Warn("accept connection", "error", err) // out of file descriptors, as a rule
			if sleep(ctx, 100*time.Millisecond) != nil {
				return
			}
			continue
		}
		if !t.sources.Allow(conn.RemoteAddr()) {
			t.metrics.refused.WithLabelValues("rate").Inc()
			conn.Close()
			continue
		}
		select {
		case t.pending <- struct{}{}:
		default:
			t.metrics.refused.WithLabelValues("pending").Inc()
			conn.Close()
			continue
		}
		path := Path{Kind: PathDirect, Remote: conn.RemoteAddr().String()}
		raw := newLingering(t.deps.Track(conn), conn.(*net.TCPConn).CloseWrite)
		if !t.life.start(func(ctx context.Context) {
			t.accept(ctx, raw, path, identity.HasRole(model.RoleHost))
			<-raw.ended
		}) {
			<-t.pending
			raw.Close()
			return
		}
	}
}

// accept does TLS with whoever came, over either path, and serves the stream.
// The caller took a place in pending, which is given back after the handshake.
func (t *Transport) accept(ctx context.Context, raw net.Conn, path Path, check identity.Check) {
	conn := tls.Server(raw, t.deps.Identity.ServerTLS([]string{alpnStream, alpnProbe}, check))
	// The goodbye first; a peer that does not take it must not hold us.
	defer context.AfterFunc(ctx, func() {
		time.AfterFunc(lingerFor, func() { raw.Close() })
		conn.Close()
	})()
	err := t.greet(ctx, conn)
	<-t.pending
	if err != nil {
		t.metrics.refused.WithLabelValues("handshake").Inc()
		t.log.Info("stream refused", "remote", path.Remote, "relay", path.Relay, "error", err)
		raw.Close()
		return
	}
	defer conn.Close()
	state := conn.ConnectionState()
	peer, err := identity.PeerIdentity(state)
	if err != nil || state.NegotiatedProtocol == alpnProbe || t.deps.Accept == nil {
		return
	}
	t.metrics.accepted.WithLabelValues(path.Kind).Inc()
	t.deps.Accept(ctx, &Conn{Conn: conn, path: path}, peer)
}

// greet shakes hands and tells the peer that it is accepted.
func (t *Transport) greet(ctx context.Context, conn *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	switch got := conn.ConnectionState().NegotiatedProtocol; got {
	case alpnStream, alpnProbe:
	default:
		return fmt.Errorf("handshake: peer speaks %q", got)
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := conn.Write([]byte{greeting}); err != nil {
		return fmt.Errorf("greet: %w", err)
	}
	return conn.SetDeadline(time.Time{})
}
