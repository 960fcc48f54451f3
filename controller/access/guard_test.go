package access

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/controller/store"
	"weft/model"
	"weft/wire"
)

var pin = strings.Repeat("ab", 32)

func open(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func request(t *testing.T, token string) *http.Request {
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/api/v1/taps", nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func TestBootstrapMakesOneAdminAndOnlyWhenThereIsNone(t *testing.T) {
	s := open(t)
	first, created, err := Bootstrap(t.Context(), s, pin)
	if err != nil || !created || !strings.HasPrefix(first, "weft-access.admin~") {
		t.Fatalf("got %q, %t, %v", first, created, err)
	}
	if _, created, err = Bootstrap(t.Context(), s, pin); created || err != nil {
		t.Errorf("second start: %t, %v", created, err)
	}
	g := NewGuard(s, 12345)
	if u, err := g.Authenticate(request(t, first)); err != nil || u.Role != model.AccessAdmin || u.Actor != "token/admin" {
		t.Errorf("got %+v, %v", u, err)
	}
	if err := s.Delete(t.Context(), store.Change{}, model.KindAccessToken, "admin", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Authenticate(request(t, first)); err == nil {
		t.Error("a deleted token still opens")
	}
	if second, created, err := Bootstrap(t.Context(), s, pin); err != nil || !created || second == first {
		t.Errorf("after deleting: %t, %v", created, err)
	}
}

func TestTokensEndAndAreRefusedAlike(t *testing.T) {
	s := open(t)
	g := NewGuard(s, 12345)
	now := time.Now()
	g.now = func() time.Time { return now }
	tok := model.MustKind(model.KindAccessToken).New().(*model.AccessToken)
	tok.Metadata.Name, tok.Spec.TTL = "ci", "1h"
	if err := CreateAccessToken(t.Context(), s, store.Change{}, tok, pin); err != nil {
		t.Fatal(err)
	}
	if u, err := g.Authenticate(request(t, tok.Status.Token)); err != nil || u.Role != model.AccessViewer {
		t.Errorf("got %+v, %v", u, err)
	}
	_, unknown := g.Authenticate(request(t, wire.NewToken(wire.PrefixAccess, "nobody", pin).String()))
	_, wrong := g.Authenticate(request(t, wire.NewToken(wire.PrefixAccess, "ci", pin).String()))
	if unknown == nil || wrong == nil || strings.ReplaceAll(unknown.Error(), "nobody", "ci") != wrong.Error() {
		t.Errorf("whether a name exists can be told: %v, %v", unknown, wrong)
	}
	for _, bad := range []string{"x", "weft-join.ci~a~b", strings.Replace(tok.Status.Token, ".ci~", "./../ci~", 1)} {
		if _, err := g.Authenticate(request(t, bad)); err == nil {
			t.Errorf("%q opens", bad)
		}
	}
	now = now.Add(2 * time.Hour)
	_, err := g.Authenticate(request(t, tok.Status.Token))
	var refused *Refusal
	if !errors.As(err, &refused) || refused.Status != 401 || !strings.Contains(refused.Reason, `"ci" ran out at`) {
		t.Errorf("expired: %v", err)
	}
}

func TestFailuresAreSlowedAndTheRightTokenIsNot(t *testing.T) {
	s := open(t)
	right, _, err := Bootstrap(t.Context(), s, pin)
	if err != nil {
		t.Fatal(err)
	}
	g := NewGuard(s, 12345)
	now := time.Now()
	g.now = func() time.Time { return now }
	wrong := wire.NewToken(wire.PrefixAccess, "admin", pin).String()
	status := func(r *http.Request) int {
		_, err := g.Authenticate(r)
		var refused *Refusal
		if err == nil {
			return 200
		} else if errors.As(err, &refused) {
			return refused.Status
		}
		return 500
	}
	for range failuresPerMinute {
		if got := status(request(t, wrong)); got != 401 {
			t.Fatalf("got %d", got)
		}
	}
	if got := status(request(t, wrong)); got != 429 {
		t.Errorf("one more: %d", got)
	}
	if got := status(request(t, right)); got != 200 {
		t.Errorf("the right one: %d", got)
	}
	other := request(t, wrong)
	other.RemoteAddr = "198.51.100.9:1"
	if got := status(other); got != 401 {
		t.Errorf("another address: %d", got)
	}
	now = now.Add(time.Minute)
	if got := status(request(t, wrong)); got != 401 {
		t.Errorf("a minute later: %d", got)
	}
}

// The kernel says who is at the other end of a Unix socket.
func TestUnixPeers(t *testing.T) {
	s := open(t)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var g *Guard
	srv := &http.Server{ConnContext: ConnContext, ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, err := g.Authenticate(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		w.Write([]byte(u.Actor))
	})}
	go srv.Serve(l)
	defer srv.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	g = NewGuard(s, os.Geteuid())
	resp, err := client.Get("http://weft/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("the controller's own user: %s", resp.Status)
	}
	// A request that did not come over a socket has no user.
	if _, err := g.Authenticate(request(t, "")); err == nil {
		t.Error("no token and no socket opens")
	}
	// Somebody who is neither root nor the controller.
	ctx := context.WithValue(t.Context(), peerKey{}, uint32(4242))
	_, err = NewGuard(s, 12345).Authenticate(request(t, "").WithContext(ctx))
	var refused *Refusal
	if !errors.As(err, &refused) || refused.Status != 403 || !strings.Contains(refused.Reason, "uid 4242") {
		t.Errorf("a stranger: %v", err)
	}
}
