package wire

import (
	"strings"
	"testing"

	"weft/model"
)

func TestTokenRoundTrip(t *testing.T) {
	tok := NewToken(PrefixJoin, "eu-1.web", strings.Repeat("ab", 32))
	back, err := ParseToken(PrefixJoin, tok.String()+"\n")
	if err != nil || back != tok {
		t.Fatalf("got %+v, %v", back, err)
	}
	if !back.HashEqual(tok.Hash()) || back.HashEqual(NewToken(PrefixJoin, "x", "").Hash()) {
		t.Error("HashEqual is wrong")
	}
	if _, err := ParseToken(PrefixAccess, tok.String()); err == nil || !strings.Contains(err.Error(), "another kind") {
		t.Errorf("wrong prefix: %v", err)
	}
}

func TestIdentityRoundTrip(t *testing.T) {
	id := Identity{"example.org", model.RoleHost, "web-1.internal", "5f2a"}
	back, err := ParseIdentity(id.String())
	if err != nil || back != id {
		t.Fatalf("got %+v, %v", back, err)
	}
	if got := id.URL().String(); got != id.String() {
		t.Errorf("URL is %s, String %s", got, id)
	}
	for _, bad := range []string{"", "spiffe://x/host/a", "https://x/host/a/b", "spiffe://x/admin/a/b"} {
		if _, err := ParseIdentity(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(NewToken(PrefixJoin, "a", strings.Repeat("00", 32)).String())
	f.Fuzz(func(t *testing.T, text string) {
		if tok, err := ParseToken(PrefixJoin, text); err == nil && tok.String() != strings.TrimSpace(text) {
			t.Errorf("%q reads as %q", text, tok)
		}
	})
}
