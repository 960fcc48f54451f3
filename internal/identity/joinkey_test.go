package identity

import (
	"crypto/ecdsa"
	"crypto/x509"
	"log/slog"
	"os"
	"testing"

	"weft/model"
)

// A machine whose answer was lost asks again with the same key, also after a
// restart; the key goes when it has joined.
func TestUnfinishedJoinKeepsItsKey(t *testing.T) {
	dir := t.TempDir()
	fresh := func() *Identity {
		i, err := New(Config{Dir: dir, Controller: "https://127.0.0.1:1", Role: model.RoleHost, Name: "web-1"}, Deps{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	first, _, err := fresh().joinKey()
	if err != nil {
		t.Fatal(err)
	}
	i := fresh()
	again, csr, err := i.joinKey()
	if err != nil {
		t.Fatal(err)
	}
	if !first.Public().(*ecdsa.PublicKey).Equal(again.Public()) {
		t.Error("the second try has another key")
	}
	if req, err := x509.ParseCertificateRequest(csr); err != nil || req.CheckSignature() != nil {
		t.Errorf("request: %v", err)
	}
	if info, err := os.Stat(i.joinKeyPath()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info, err)
	}
	if err := os.WriteFile(i.joinKeyPath(), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := i.joinKey(); err != nil {
		t.Errorf("a damaged key is not replaced: %v", err)
	}
}
