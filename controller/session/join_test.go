package session

import (
	"crypto/x509"
	"fmt"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"weft/model"
	"weft/wire"
	"weft/wire/wirepb"
)

func TestJoinMakesTheResourceAndTheCertificate(t *testing.T) {
	h := newHouse(t, Config{})
	token := h.token("prod", model.JoinTokenSpec{Labels: map[string]string{"env": "prod"}})
	resp, err := h.join(token, "host", "web-1", newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(resp.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	id, err := wire.CertificateIdentity(leaf)
	if want := (wire.Identity{TrustDomain: domain, Role: model.RoleHost, Name: "web-1", UID: resp.Uid}); err != nil || id != want {
		t.Errorf("certificate is of %v (%v), want %v", id, err, want)
	}
	r, err := h.store.Get(t.Context(), model.KindHost, "web-1")
	if err != nil || r.Meta().UID != resp.Uid || r.Meta().Labels["env"] != "prod" {
		t.Errorf("host: %+v, %v", r, err)
	}
	if string(resp.CaBundle) != string(h.ca.Bundle()) {
		t.Error("no authorities in the answer")
	}
	entries, err := h.store.Audit(t.Context(), 10)
	if err != nil || entries[0].Actor != "jointoken/prod" || entries[0].Object != "host/web-1" || entries[0].Remote == "" {
		t.Errorf("audit: %+v, %v", entries[0], err)
	}
}

func TestJoinRefusals(t *testing.T) {
	h := newHouse(t, Config{})
	good := h.token("good", model.JoinTokenSpec{Uses: 100})
	once := h.token("once", model.JoinTokenSpec{})
	relay := h.token("relay", model.JoinTokenSpec{Role: model.RoleRelay})
	stranger := wire.NewToken(wire.PrefixJoin, "stranger", wire.CAPin(h.ca.cert)).String()
	forged := wire.NewToken(wire.PrefixJoin, "good", wire.CAPin(h.ca.cert)).String()
	short := wire.NewToken(wire.PrefixJoin, "late", wire.CAPin(h.ca.cert))
	late := model.MustKind(model.KindJoinToken).New().(*model.JoinToken)
	past := time.Now().Add(-time.Minute)
	late.Metadata.Name, late.Status.Expires = "late", &past
	if err := h.store.Create(t.Context(), tester, late, []byte(short.Hash())); err != nil {
		t.Fatal(err)
	}
	if _, err := h.join(once, "host", "first", newKey(t)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		what, token, role, name string
		code                    connect.Code
		reason, text            string
	}{
		{"damaged token", "weft-join.x~y", "host", "a", connect.CodeUnauthenticated, wire.ReasonToken, "damaged"},
		{"unknown token", stranger, "host", "a", connect.CodeUnauthenticated, wire.ReasonToken, "not known here"},
		{"wrong secret", forged, "host", "a", connect.CodeUnauthenticated, wire.ReasonToken, "not known here"},
		{"expired", short.String(), "host", "a", connect.CodePermissionDenied, wire.ReasonTokenExpired, "expired at"},
		{"used up", once, "host", "a", connect.CodePermissionDenied, wire.ReasonTokenUsedUp, "1 of 1"},
		{"host with relay's", relay, "host", "a", connect.CodePermissionDenied, wire.ReasonTokenRole, "admits a relay"},
		{"relay with host's", good, "relay", "a", connect.CodePermissionDenied, wire.ReasonTokenRole, "admits a host"},
		{"no role", good, "controller", "a", connect.CodePermissionDenied, wire.ReasonTokenRole, "admits a host"},
		{"bad name", good, "host", "Web_1", connect.CodeInvalidArgument, wire.ReasonName, "--name"},
		{"taken", good, "host", "first", connect.CodeAlreadyExists, wire.ReasonNameTaken, "weft delete host first"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			before, _ := h.store.Audit(t.Context(), 1000)
			_, err := h.join(tc.token, tc.role, tc.name, newKey(t))
			wantRefusal(t, err, tc.code, tc.reason, tc.text)
			if after, _ := h.store.Audit(t.Context(), 1000); len(after) != len(before) {
				t.Errorf("a refused join changed the store: %+v", after[0])
			}
		})
	}
	_, err := h.client(nil).Join(t.Context(), connect.NewRequest(&wirepb.JoinRequest{Token: good, Role: "host", Name: "a", Csr: []byte("no")}))
	wantRefusal(t, err, connect.CodeInvalidArgument, wire.ReasonRequest, "certificate request")
}

// The first answer was lost: the same machine asks again.
func TestJoinAgainWithTheSameKeyUsesNothingUp(t *testing.T) {
	h := newHouse(t, Config{})
	token, key := h.token("once", model.JoinTokenSpec{}), newKey(t)
	first, err := h.join(token, "host", "web-1", key)
	if err != nil {
		t.Fatal(err)
	}
	second, err := h.join(token, "host", "web-1", key)
	if err != nil || second.Uid != first.Uid {
		t.Errorf("again: %v, %v; want UID %s", second, err, first.Uid)
	}
	_, err = h.join(token, "host", "web-1", newKey(t))
	wantRefusal(t, err, connect.CodeAlreadyExists, wire.ReasonNameTaken, "taken")
}

func TestJoinAfterRevokingIsAnotherHost(t *testing.T) {
	h := newHouse(t, Config{})
	first, err := h.join(h.token("one", model.JoinTokenSpec{}), "host", "web-1", newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	h.setHost("web-1", func(r *model.Host) { r.Spec.Revoked = true })
	second, err := h.join(h.token("two", model.JoinTokenSpec{}), "host", "web-1", newKey(t))
	if err != nil || second.Uid == first.Uid {
		t.Fatalf("rejoin: %v, %v", second, err)
	}
	r, err := h.store.Get(t.Context(), model.KindHost, "web-1")
	if err != nil || r.(*model.Host).Spec.Revoked {
		t.Errorf("host: %+v, %v", r, err)
	}
}

// Twenty machines at once with a token for five: five get in.
func TestJoinCountsUsesUnderContention(t *testing.T) {
	h := newHouse(t, Config{})
	token := h.token("five", model.JoinTokenSpec{Uses: 5})
	var mu sync.Mutex
	var all sync.WaitGroup
	in := 0
	for i := range 20 {
		key := newKey(t)
		all.Go(func() {
			if _, err := h.join(token, "host", fmt.Sprintf("h%d", i), key); err == nil {
				mu.Lock()
				in++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	hosts, _, err := h.store.List(t.Context(), model.KindHost)
	r, _ := h.store.Get(t.Context(), model.KindJoinToken, "five")
	if used := r.(*model.JoinToken).Status.Used; err != nil || in != 5 || len(hosts) != 5 || used != 5 {
		t.Errorf("%d joined, %d hosts, %d uses (%v); want 5 each", in, len(hosts), used, err)
	}
}

// Two machines under one name at once: one gets in, and the other's use of the
// token is given back.
func TestJoinUnderOneNameAtOnce(t *testing.T) {
	h := newHouse(t, Config{})
	token := h.token("many", model.JoinTokenSpec{Uses: 50})
	var all sync.WaitGroup
	var mu sync.Mutex
	in := 0
	for range 8 {
		key := newKey(t)
		all.Go(func() {
			if _, err := h.join(token, "host", "same", key); err == nil {
				mu.Lock()
				in++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	r, err := h.store.Get(t.Context(), model.KindJoinToken, "many")
	if err != nil || in != 1 || r.(*model.JoinToken).Status.Used != 1 {
		t.Errorf("%d joined, used %d (%v); want one", in, r.(*model.JoinToken).Status.Used, err)
	}
}

func TestRenewKeepsTheIdentity(t *testing.T) {
	h := newHouse(t, Config{})
	c, uid := h.member("host", "web-1")
	resp, err := c.Renew(t.Context(), connect.NewRequest(&wirepb.RenewRequest{Csr: csr(t, newKey(t))}))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(resp.Msg.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := wire.CertificateIdentity(leaf); err != nil || id.UID != uid || id.Name != "web-1" {
		t.Errorf("renewed certificate is of %v, %v", id, err)
	}
	_, err = c.Renew(t.Context(), connect.NewRequest(&wirepb.RenewRequest{Csr: []byte("no")}))
	wantRefusal(t, err, connect.CodeInvalidArgument, wire.ReasonRequest, "")
}

func TestTokensClaimsStayWithTheHost(t *testing.T) {
	h := newHouse(t, Config{})
	token := h.token("locked", model.JoinTokenSpec{Claims: model.Claims{"os.*", "env"}})
	if _, err := h.join(token, "host", "web-1", newKey(t)); err != nil {
		t.Fatal(err)
	}
	r, err := h.store.Get(t.Context(), model.KindHost, "web-1")
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Meta().Annotations[model.AnnotationClaims]; got != "os.*,env" {
		t.Errorf("the host has %q", got)
	}
	if _, err := h.join(h.token("open", model.JoinTokenSpec{}), "host", "web-2", newKey(t)); err != nil {
		t.Fatal(err)
	}
	r, err = h.store.Get(t.Context(), model.KindHost, "web-2")
	if _, there := r.Meta().Annotations[model.AnnotationClaims]; err != nil || there {
		t.Errorf("a token that says nothing leaves %v, %v", r.Meta().Annotations, err)
	}
}
