package main

import (
	"crypto/tls"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/yamux"

	"weft/internal/identity"
	"weft/model"
	"weft/wire"
	"weft/wire/relaywire"
)

// spy is a relay with a true certificate and bad intent: it keeps what it
// pipes, and may introduce agents to others than they asked for.
type spy struct {
	relayNode
	kept   lockedBuffer
	lie    string // send every CONNECT there
	from   string // say that this one asks
	mu     sync.Mutex
	agents map[string]*yamux.Session
}

func newSpy(t *testing.T, f *fleet) *spy {
	t.Helper()
	s := &spy{relayNode: relayNode{id: f.Member(t, model.RoleRelay, "spy")}, agents: map[string]*yamux.Session{}}
	l, err := tls.Listen("tcp", "127.0.0.1:0", s.id.ServerTLS([]string{relaywire.ALPN}, identity.HasRole(model.RoleHost)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s.addr = l.Addr().String()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(conn.(*tls.Conn))
		}
	}()
	return s
}

func (s *spy) deceive(lie, from string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lie, s.from = lie, from
}

func (s *spy) serve(conn *tls.Conn) {
	if conn.Handshake() != nil {
		return
	}
	id, _ := identity.PeerIdentity(conn.ConnectionState())
	session, err := relaywire.Server(conn, testLog())
	if err != nil {
		return
	}
	s.mu.Lock()
	s.agents[id.String()] = session
	s.mu.Unlock()
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			return
		}
		go s.pipe(stream, id)
	}
}

func (s *spy) pipe(a *yamux.Stream, from wire.Identity) {
	defer a.Close()
	ask, err := relaywire.Read(a)
	if err != nil {
		return
	}
	target, says := ask.Text, from.String()
	s.mu.Lock()
	if s.lie != "" {
		target = s.lie
	}
	if s.from != "" {
		says = s.from
	}
	session := s.agents[target]
	s.mu.Unlock()
	if session == nil {
		relaywire.Write(a, relaywire.Preamble{Kind: relaywire.Failed, Code: relaywire.CodeUnknown, Text: "unknown"})
		return
	}
	b, err := session.OpenStream()
	if err != nil {
		return
	}
	defer b.Close()
	relaywire.Write(b, relaywire.Preamble{Kind: relaywire.Incoming, Text: says})
	relaywire.Read(b)
	relaywire.Write(a, relaywire.Preamble{Kind: relaywire.OK})
	// Kept before it is passed on: whoever has received a byte finds it kept.
	go io.Copy(io.MultiWriter(&s.kept, a), b)
	io.Copy(io.MultiWriter(&s.kept, b), a)
}

func TestRelaySeesOnlyCiphertext(t *testing.T) {
	f := newFleet(t)
	s := newSpy(t, f)
	tool := f.agent(t, "ids", fast, echo)
	web := f.agent(t, "web", fast, nil)
	tool.apply(t, true, &s.relayNode)
	web.apply(t, false, &s.relayNode)
	secret := strings.Repeat("the quick brown fox: a secret of the workload; ", 100)
	if err := roundTrip(dial(t, web, tool), secret); err != nil {
		t.Fatal(err)
	}
	kept := s.kept.String()
	if len(kept) < 2*len(secret) {
		t.Fatalf("the relay kept %d bytes, less than was sent", len(kept))
	}
	for _, piece := range []string{"quick brown", "secret of the workload"} {
		if strings.Contains(kept, piece) {
			t.Errorf("the relay sees %q", piece)
		}
	}
	if !strings.HasPrefix(kept, "\x16\x03") { // a TLS record: handshake, 3.x
		t.Errorf("the stream begins with %q", kept[:2])
	}
}

func TestLyingRelayIsFoundOut(t *testing.T) {
	f := newFleet(t)
	s := newSpy(t, f)
	tool := f.agent(t, "ids", fast, echo)
	evil := f.agent(t, "evil", fast, echo)
	web := f.agent(t, "web", fast, nil)
	tool.apply(t, true, &s.relayNode)
	evil.apply(t, true, &s.relayNode)
	web.apply(t, false, &s.relayNode)
	dial(t, web, tool).Close()
	dial(t, web, evil).Close()

	s.deceive(evil.id.ID().String(), "")
	if _, err := web.Dial(t.Context(), "line", tool.peer()); err == nil || !strings.Contains(err.Error(), "peer is "+evil.id.ID().String()) {
		t.Errorf("introduced to another: %v", err)
	}
	s.deceive("", evil.id.ID().String())
	if _, err := web.Dial(t.Context(), "line", tool.peer()); err == nil || !strings.Contains(err.Error(), "does not accept us") {
		t.Errorf("introduced as another: %v", err)
	}
}
