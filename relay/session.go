package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/time/rate"

	"weft/internal/identity"
	"weft/wire"
	"weft/wire/relaywire"
)

// session is one agent's connection.
type session struct {
	id     wire.Identity
	remote string
	mux    *yamux.Session
	opens  *rate.Limiter
	// opened and led count the pipes that this agent opened, and those that
	// lead to it.
	opened, led atomic.Int64
}

// bye says why, then closes. It does not wait long for an agent that hangs.
func (s *session) bye(code relaywire.Code, why string) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if stream, err := relaywire.Open(ctx, s.mux); err == nil {
		stream.SetDeadline(time.Now().Add(stopTimeout))
		if relaywire.Write(stream, relaywire.Preamble{Kind: relaywire.Failed, Code: code, Text: why}) == nil {
			stream.Close()
			stream.Read(make([]byte, 1)) // the agent closes its half when it has read
		}
	}
	s.mux.Close()
}

// registry knows the session of each identity. Only an agent's own
// certificate puts it here.
type registry struct {
	mu       sync.Mutex
	sessions map[string]*session // by SPIFFE id
}

// add registers a session and returns the one it replaces, if any. It fails
// where there are max already.
func (g *registry) add(s *session, max int) (replaced *session, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := s.id.String()
	replaced = g.sessions[key]
	if replaced == nil && len(g.sessions) >= max {
		return nil, errors.New("relay has as many agents as it may")
	}
	g.sessions[key] = s
	return replaced, nil
}

func (g *registry) remove(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if key := s.id.String(); g.sessions[key] == s {
		delete(g.sessions, key)
	}
}

func (g *registry) find(id string) *session {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sessions[id]
}

func (g *registry) len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.sessions)
}

// serve runs one agent's session until it ends.
func (r *Relay) serve(ctx context.Context, conn *tls.Conn) {
	log := r.log.With("remote", conn.RemoteAddr().String())
	id, err := identity.PeerIdentity(conn.ConnectionState())
	if err != nil { // cannot be: the handshake verified it
		conn.Close()
		return
	}
	log = log.With("agent", id.Name)
	mux, err := relaywire.Server(conn, log)
	if err != nil {
		log.Error("begin session", "error", err)
		conn.Close()
		return
	}
	s := &session{id: id, remote: conn.RemoteAddr().String(), mux: mux,
		opens: rate.NewLimiter(rate.Limit(r.cfg.OpensPerSecond), int(4*r.cfg.OpensPerSecond)+1)}
	replaced, err := r.registry.add(s, r.cfg.MaxSessions)
	if err != nil {
		log.Warn("agent refused", "error", err)
		s.bye(relaywire.CodeLimit, err.Error())
		return
	}
	if replaced != nil {
		log.Info("session replaced by a newer one of the same identity", "old_remote", replaced.remote)
		go replaced.bye(relaywire.CodeReplaced, "replaced by a newer session of the same identity, from "+s.remote)
	}
	stop := context.AfterFunc(ctx, func() { s.bye(relaywire.CodeShutdown, "relay is stopping") })
	defer stop()
	log.Debug("agent connected")
	var wg sync.WaitGroup
	for {
		stream, err := mux.AcceptStream()
		if err != nil {
			break
		}
		if !s.opens.Allow() {
			r.metrics.connects.WithLabelValues("rate").Inc()
			// An answer costs as much as a pipe; who floods gets none.
			relaywire.Abort(stream)
			continue
		}
		wg.Go(func() { r.connect(ctx, s, stream) })
	}
	r.registry.remove(s)
	mux.Close()
	wg.Wait()
	log.Debug("agent disconnected")
}
