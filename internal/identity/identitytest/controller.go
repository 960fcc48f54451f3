// Package identitytest is a controller for tests: real TLS and the real calls
// Join, Renew and Session, over an authority of the caller's choice.
package identitytest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"weft/internal/identity"
	"weft/model"
	"weft/wire"
	"weft/wire/wirepb"
	"weft/wire/wirepb/wirepbconnect"
)

// Authority is what the controller's pki offers.
type Authority interface {
	Sign(csr []byte, id wire.Identity) ([]byte, error)
	Bundle() []byte
	Pin() string
	ServerTLS(names []string) (*tls.Config, error)
}

// Controller is one that runs until the test ends.
type Controller struct {
	URL         string
	TrustDomain string

	authority Authority
	mu        sync.Mutex
	tokens    map[string]int // uses left, by hash
	drawn     int

	// Joins and Renewals count what was answered.
	Joins, Renewals atomic.Int64
	// Refuse, when set, is the answer to every Renew.
	Refuse atomic.Pointer[connect.Error]
	// Reports get what relays report; full, the oldest are lost.
	Reports chan *wirepb.RelayReport
}

// Serve starts a controller on loopback.
func Serve(t testing.TB, trustDomain string, authority Authority) *Controller {
	t.Helper()
	c := &Controller{TrustDomain: trustDomain, authority: authority, tokens: map[string]int{}, Reports: make(chan *wirepb.RelayReport, 64)}
	cfg, err := authority.ServerTLS([]string{"127.0.0.1", "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.URL = "https://" + listener.Addr().String()
	mux := http.NewServeMux()
	mux.Handle(wirepbconnect.NewControllerHandler(c))
	server := &http.Server{Handler: withPeer(mux), TLSConfig: cfg, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.ServeTLS(listener, "", "") // always returns an error: closed
	}()
	t.Cleanup(func() { server.Close(); <-done })
	return c
}

// Token draws a join token for so many uses.
func (c *Controller) Token(uses int) wire.Token {
	token := wire.NewToken(wire.PrefixJoin, "test", c.authority.Pin())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens[token.Hash()] = uses
	return token
}

// Join implements the service.
func (c *Controller) Join(_ context.Context, req *connect.Request[wirepb.JoinRequest]) (*connect.Response[wirepb.JoinResponse], error) {
	token, err := wire.ParseToken(wire.PrefixJoin, req.Msg.Token)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	c.mu.Lock()
	left, known := c.tokens[token.Hash()]
	if left > 0 {
		c.tokens[token.Hash()]--
	}
	c.drawn++
	id := wire.Identity{TrustDomain: c.TrustDomain, Role: model.Role(req.Msg.Role), Name: req.Msg.Name, UID: fmt.Sprintf("u%d", c.drawn)}
	c.mu.Unlock()
	switch {
	case !known:
		return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("token is unknown or has expired; ask for a new one"))
	case left == 0:
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("token is used up; ask for a new one"))
	}
	der, err := c.authority.Sign(req.Msg.Csr, id)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	c.Joins.Add(1)
	return connect.NewResponse(&wirepb.JoinResponse{Name: id.Name, Uid: id.UID, Certificate: der, CaBundle: c.authority.Bundle()}), nil
}

// Renew implements the service.
func (c *Controller) Renew(ctx context.Context, req *connect.Request[wirepb.RenewRequest]) (*connect.Response[wirepb.RenewResponse], error) {
	if refuse := c.Refuse.Load(); refuse != nil {
		return nil, refuse
	}
	id, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	der, err := c.authority.Sign(req.Msg.Csr, id)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	c.Renewals.Add(1)
	return connect.NewResponse(&wirepb.RenewResponse{Certificate: der, CaBundle: c.authority.Bundle()}), nil
}

// Session implements the service as far as a relay needs it.
func (c *Controller) Session(ctx context.Context, stream *connect.BidiStream[wirepb.AgentMessage, wirepb.ControllerMessage]) error {
	id, err := caller(ctx)
	if err != nil {
		return err
	}
	hello, err := stream.Receive()
	if err != nil || hello.GetHello() == nil {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("want hello"))
	}
	err = stream.Send(&wirepb.ControllerMessage{Body: &wirepb.ControllerMessage_Welcome{Welcome: &wirepb.Welcome{
		Protocol: wire.Version, Name: id.Name, UnixNanos: time.Now().UnixNano(), HeartbeatSeconds: 1, TrustDomain: c.TrustDomain, CaBundle: c.authority.Bundle()}}})
	if err != nil {
		return err
	}
	for {
		msg, err := stream.Receive()
		if err != nil {
			return err
		}
		switch body := msg.Body.(type) {
		case *wirepb.AgentMessage_Relay:
			select {
			case c.Reports <- body.Relay:
			default:
			}
		case *wirepb.AgentMessage_Heartbeat:
			err := stream.Send(&wirepb.ControllerMessage{Body: &wirepb.ControllerMessage_Heartbeat{Heartbeat: &wirepb.Heartbeat{UnixNanos: time.Now().UnixNano()}}})
			if err != nil {
				return err
			}
		}
	}
}

type peerKey struct{}

func caller(ctx context.Context) (wire.Identity, error) {
	if state, ok := ctx.Value(peerKey{}).(*tls.ConnectionState); ok && state != nil {
		return identity.PeerIdentity(*state)
	}
	return wire.Identity{}, connect.NewError(connect.CodeUnauthenticated, errors.New("a client certificate is needed"))
}

// withPeer hands the TLS state to the calls.
func withPeer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			r = r.WithContext(context.WithValue(r.Context(), peerKey{}, r.TLS))
		}
		next.ServeHTTP(w, r)
	})
}

// Member joins under a name and returns its identity. Nobody renews it unless
// the caller runs it.
func (c *Controller) Member(t testing.TB, role model.Role, name string) *identity.Identity {
	t.Helper()
	dir := t.TempDir()
	id, err := identity.New(identity.Config{Dir: dir, Controller: c.URL, TokenFile: c.TokenFile(t, c.Token(1)), Role: role, Name: name},
		identity.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	return id
}

// TokenFile writes a token as a person would.
func (c *Controller) TokenFile(t testing.TB, token wire.Token) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
