package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"weft/controller/pki"
	"weft/internal/identity"
	"weft/internal/identity/identitytest"
	"weft/internal/keyfile"
	"weft/model"
	"weft/wire"
)

// setClock is a clock that a test sets, by the offset from the real one.
type setClock struct{ offset atomic.Int64 }

func (c *setClock) now() time.Time          { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *setClock) set(ahead time.Duration) { c.offset.Store(int64(ahead)) }

func serve(t *testing.T, cfg pki.Config) *identitytest.Controller {
	t.Helper()
	cfg.Dir, cfg.TrustDomain = t.TempDir(), "example.org"
	ca, err := pki.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return identitytest.Serve(t, "example.org", ca)
}

func config(t *testing.T, c *identitytest.Controller, token wire.Token) identity.Config {
	return identity.Config{Dir: t.TempDir(), Controller: c.URL, TokenFile: c.TokenFile(t, token), Role: model.RoleHost, Name: "web-1"}
}

func newIdentity(t *testing.T, cfg identity.Config) *identity.Identity {
	t.Helper()
	id, err := identity.New(cfg, identity.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestJoinIsKept(t *testing.T) {
	c := serve(t, pki.Config{})
	cfg := config(t, c, c.Token(1))
	id := newIdentity(t, cfg)
	if id.Joined() || id.ID() != (wire.Identity{}) {
		t.Error("joined before it did")
	}
	if err := id.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := (wire.Identity{TrustDomain: "example.org", Role: model.RoleHost, Name: "web-1", UID: "u1"}); id.ID() != want {
		t.Errorf("is %s, want %s", id.ID(), want)
	}
	path := filepath.Join(cfg.Dir, "identity", "identity.pem")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("identity file: %v, %v", info, err)
	}
	again := newIdentity(t, cfg)
	if again.ID() != id.ID() || !again.Certificate().Equal(id.Certificate()) {
		t.Error("another identity after a restart")
	}
	if err := again.Renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again.Certificate().PublicKey.(*ecdsa.PublicKey).Equal(id.Certificate().PublicKey) {
		t.Error("renewed with the old key")
	}
	cfg.Role = model.RoleRelay
	if _, err := identity.New(cfg, identity.Deps{}); err == nil || !strings.Contains(err.Error(), "not a relay") {
		t.Errorf("as a relay: %v", err)
	}
	cfg.Role = model.RoleHost
	os.Chmod(path, 0o644)
	if _, err := identity.New(cfg, identity.Deps{}); !errors.Is(err, keyfile.ErrExposed) {
		t.Errorf("exposed key: %v", err)
	}
	os.Chmod(path, 0o600)
	os.WriteFile(path, []byte("junk"), 0o600)
	if _, err := identity.New(cfg, identity.Deps{}); err == nil || !strings.Contains(err.Error(), "join again with a new token") {
		t.Errorf("damaged file: %v", err)
	}
}

func TestJoinIsRefused(t *testing.T) {
	c, other := serve(t, pki.Config{}), serve(t, pki.Config{})
	used := c.Token(0)
	foreign := other.Token(1)
	unknown := c.Token(1)
	unknown.Secret = foreign.Secret
	for want, token := range map[string]wire.Token{
		"controller is not the one this token is for": foreign,
		"token is used up; ask for a new one":         used,
		"token is unknown or has expired":             unknown,
	} {
		cfg := config(t, c, token)
		id := newIdentity(t, cfg)
		// Run must not try again what is in vain.
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		err := id.Run(ctx, func() { t.Error("ready") })
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), token.Secret) {
			t.Errorf("got %v, want %q", err, want)
		}
		if _, err := os.Stat(filepath.Join(cfg.Dir, "identity", "identity.pem")); err == nil {
			t.Error("an identity was left behind")
		}
	}
	if got := c.Joins.Load() + other.Joins.Load(); got != 0 {
		t.Errorf("%d joins", got)
	}
	cfg := config(t, c, used)
	cfg.TokenFile = ""
	if err := newIdentity(t, cfg).Run(t.Context(), func() {}); !errors.Is(err, identity.ErrNotJoined) {
		t.Errorf("no token: %v", err)
	}
}

func TestStateDirectoryIsNotShared(t *testing.T) {
	c := serve(t, pki.Config{})
	cfg := config(t, c, c.Token(2))
	ctx, cancel := context.WithCancel(t.Context())
	done, ready := make(chan error, 1), make(chan struct{})
	go func() { done <- newIdentity(t, cfg).Run(ctx, func() { close(ready) }) }()
	<-ready
	if err := newIdentity(t, cfg).Run(ctx, func() {}); err == nil || !strings.Contains(err.Error(), "in use by another program") {
		t.Errorf("got %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestRenewalSwapsWhileInUse lets certificates live three seconds and shakes
// hands all the time.
func TestRenewalSwapsWhileInUse(t *testing.T) {
	c := serve(t, pki.Config{Life: 3 * time.Second})
	id := newIdentity(t, config(t, c, c.Token(1)))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done, ready := make(chan error, 1), make(chan struct{})
	go func() { done <- id.Run(ctx, func() { close(ready) }) }()
	<-ready
	serials := map[string]bool{}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		serial, err := handshake(t, id, id, identity.HasRole(model.RoleHost), identity.Exactly(id.ID()))
		if err != nil {
			t.Fatalf("after %d certificates: %v", len(serials), err)
		}
		serials[serial] = true
	}
	if len(serials) < 3 || c.Renewals.Load() < 2 || id.Problem() != nil {
		t.Errorf("%d certificates, %d renewals, problem %v", len(serials), c.Renewals.Load(), id.Problem())
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// handshake lets two identities meet and returns the server's serial number.
func handshake(t *testing.T, client, server *identity.Identity, clientMust, serverMust identity.Check) (string, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		served <- tls.Server(conn, server.ServerTLS([]string{"test"}, clientMust)).Handshake()
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(5 * time.Second))
	conn := tls.Client(raw, client.ClientTLS("test", serverMust))
	if err := errors.Join(conn.Handshake(), <-served); err != nil {
		return "", err
	}
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

func TestPeersAreChecked(t *testing.T) {
	c, other := serve(t, pki.Config{}), serve(t, pki.Config{})
	clock := &setClock{}
	cfg := config(t, c, c.Token(1))
	cfg.Now = clock.now
	web := newIdentity(t, cfg)
	if err := web.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	ids := c.Member(t, model.RoleHost, "ids")
	relay := c.Member(t, model.RoleRelay, "r1")
	stranger := other.Member(t, model.RoleHost, "ids")
	host := identity.HasRole(model.RoleHost)
	if _, err := handshake(t, web, ids, identity.Exactly(web.ID()), identity.Exactly(ids.ID())); err != nil {
		t.Errorf("right peers: %v", err)
	}
	for want, try := range map[string]func() error{
		"want spiffe://example.org/host/web-1/u1": func() error {
			_, err := handshake(t, web, ids, host, identity.Exactly(web.ID()))
			return err
		},
		"want a host":       func() error { _, err := handshake(t, relay, ids, host, host); return err },
		"unknown authority": func() error { _, err := handshake(t, web, stranger, host, host); return err },
		"check the clocks of both machines": func() error {
			clock.set(-2 * time.Hour) // the peer's certificate is not yet valid
			_, err := handshake(t, web, ids, host, host)
			return err
		},
		"certificate has expired or is not yet valid": func() error {
			clock.set(48 * time.Hour)
			_, err := handshake(t, web, ids, host, host)
			return err
		},
	} {
		if err := try(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		clock.set(0)
	}
	// Once the controller has told the time, a wrong clock does no harm.
	clock.set(-2 * time.Hour)
	web.ObserveTime(time.Now())
	if _, err := handshake(t, web, ids, host, host); err != nil {
		t.Errorf("with a corrected clock: %v", err)
	}
	if got := web.Skew().Round(time.Minute); got != 2*time.Hour {
		t.Errorf("skew is %s", got)
	}
}

// TestClockHoursOff joins, renews and meets peers on machines whose clock is
// wrong by hours and more.
func TestClockHoursOff(t *testing.T) {
	c := serve(t, pki.Config{})
	ids := c.Member(t, model.RoleHost, "ids")
	for _, ahead := range []time.Duration{-50 * 365 * 24 * time.Hour, -7 * time.Hour, 7 * time.Hour, 36 * time.Hour} {
		clock := &setClock{}
		clock.set(ahead)
		cfg := config(t, c, c.Token(1))
		cfg.Now = clock.now
		id := newIdentity(t, cfg)
		if err := id.Join(t.Context()); err != nil {
			t.Errorf("clock ahead by %s: %v", ahead, err)
			continue
		}
		if got := (id.Skew() + ahead).Abs(); got > 5*time.Second {
			t.Errorf("clock ahead by %s: skew is seen as %s", ahead, id.Skew())
		}
		again := newIdentity(t, cfg) // has forgotten the skew
		if err := again.Renew(t.Context()); err != nil {
			t.Errorf("clock ahead by %s: %v", ahead, err)
		}
		if _, err := handshake(t, again, ids, identity.HasRole(model.RoleHost), identity.Exactly(ids.ID())); err != nil {
			t.Errorf("clock ahead by %s: %v", ahead, err)
		}
	}
}

// TestExpiredCertificate lets a certificate end while its machine sleeps.
func TestExpiredCertificate(t *testing.T) {
	c := serve(t, pki.Config{Life: time.Second})
	cfg := config(t, c, c.Token(1))
	id := newIdentity(t, cfg)
	if err := id.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2100 * time.Millisecond) // certificates count whole seconds
	err := id.Renew(t.Context())
	if !errors.Is(err, identity.ErrExpired) || !strings.Contains(err.Error(), "join again with a new token") {
		t.Errorf("got %v", err)
	}
	// A new token in the file brings it back without a restart.
	data := c.Token(1).String()
	if err := os.WriteFile(cfg.TokenFile, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	before := id.ID()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- id.Run(ctx, func() {}) }()
	for ctx.Err() == nil && id.ID() == before {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil || id.ID() == before {
		t.Errorf("is still %s, %v", id.ID(), err)
	}
}

func TestRefusedRenewalIsShownAndTriedAgain(t *testing.T) {
	c := serve(t, pki.Config{Life: 2 * time.Second})
	id := newIdentity(t, config(t, c, c.Token(1)))
	c.Refuse.Store(connect.NewError(connect.CodePermissionDenied, errors.New("host web-1 is revoked")))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- id.Run(ctx, func() {}) }()
	for ctx.Err() == nil && id.Problem() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	if err := id.Problem(); err == nil || !strings.Contains(err.Error(), "host web-1 is revoked") {
		t.Errorf("problem is %v", err)
	}
	if c.Joins.Load() != 1 {
		t.Error("a refused machine joined again by itself")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
