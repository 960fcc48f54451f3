package pki

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/internal/keyfile"
	"weft/model"
	"weft/wire"
)

var host = wire.Identity{TrustDomain: "example.org", Role: model.RoleHost, Name: "web-1.internal", UID: "u1"}

func open(t testing.TB, cfg Config) *Authority {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	cfg.TrustDomain = "example.org"
	a, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func request(t testing.TB, template x509.CertificateRequest) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func TestAuthorityOutlivesRestart(t *testing.T) {
	dir := t.TempDir()
	first := open(t, Config{Dir: dir})
	second := open(t, Config{Dir: dir})
	if first.Pin() != second.Pin() || string(first.Bundle()) != string(second.Bundle()) {
		t.Error("another authority after a restart")
	}
	info, err := os.Stat(filepath.Join(dir, "pki", "ca.pem"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info.Mode(), err)
	}
	if exported, err := os.ReadFile(filepath.Join(dir, "pki", "ca.crt")); err != nil || string(exported) != string(first.Bundle()) {
		t.Errorf("exported certificate: %q, %v", exported, err)
	}
	if strings.Contains(string(first.Bundle()), "PRIVATE") {
		t.Error("the bundle holds the key")
	}
}

func TestOpenRefuses(t *testing.T) {
	spoil := func(f func(path string)) string {
		dir := t.TempDir()
		open(t, Config{Dir: dir})
		f(filepath.Join(dir, "pki", "ca.pem"))
		return dir
	}
	exposed := spoil(func(path string) { os.Chmod(path, 0o644) })
	if _, err := Open(Config{Dir: exposed, TrustDomain: "example.org"}); !errors.Is(err, keyfile.ErrExposed) || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("exposed key: %v", err)
	}
	for want, dir := range map[string]string{
		"want a PRIVATE KEY":       spoil(func(path string) { os.WriteFile(path, []byte("junk"), 0o600) }),
		"do not belong together":   spoil(func(path string) { mix(t, path) }),
		`not "example.org"; start`: func() string { d := t.TempDir(); Open(Config{Dir: d, TrustDomain: "other.org"}); return d }(),
		"is this machine's clock ri": func() string {
			d := t.TempDir()
			open(t, Config{Dir: d, Now: func() time.Time { return time.Now().Add(-11 * 365 * 24 * time.Hour) }})
			return d
		}(),
	} {
		if _, err := Open(Config{Dir: dir, TrustDomain: "example.org"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := Open(Config{Dir: t.TempDir(), TrustDomain: "not a domain"}); err == nil {
		t.Error("a bad trust domain was taken")
	}
}

// mix puts another authority's key in front of the certificate.
func mix(t *testing.T, path string) {
	dir := t.TempDir()
	open(t, Config{Dir: dir})
	other, err := os.ReadFile(filepath.Join(dir, "pki", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	key, _ := pem.Decode(other)
	mine, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, cert := pem.Decode(mine)
	os.WriteFile(path, append(pem.EncodeToMemory(key), cert...), 0o600)
}

func TestSignTakesNothingButTheKey(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	a := open(t, Config{Now: func() time.Time { return now }})
	evil, _ := url.Parse("spiffe://example.org/controller/evil/1")
	der, err := a.Sign(request(t, x509.CertificateRequest{Subject: pkix.Name{CommonName: "evil"}, DNSNames: []string{"controller.example.org"}, URIs: []*url.URL{evil}}), host)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := wire.CertificateIdentity(cert); err != nil || id != host {
		t.Errorf("names %v, %v", id, err)
	}
	if len(cert.DNSNames) != 0 || cert.Subject.CommonName != "" || cert.IsCA {
		t.Errorf("took %v, %q, CA %v from the request", cert.DNSNames, cert.Subject.CommonName, cert.IsCA)
	}
	if !cert.NotBefore.Equal(now.Add(-5*time.Minute)) || !cert.NotAfter.Equal(now.Add(24*time.Hour)) {
		t.Errorf("valid %s to %s", cert.NotBefore, cert.NotAfter)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: a.pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Errorf("usage %d: %v", usage, err)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	a := open(t, Config{})
	good := request(t, x509.CertificateRequest{})
	forged := append([]byte(nil), good...)
	forged[len(forged)-1] ^= 1
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaCSR, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, weak)
	if err != nil {
		t.Fatal(err)
	}
	with := func(f func(*wire.Identity)) wire.Identity { id := host; f(&id); return id }
	for _, c := range []struct {
		want string
		csr  []byte
		id   wire.Identity
	}{
		{"parse certificate request", nil, host},
		{"not signed by its own key", forged, host},
		{"use an ECDSA key", rsaCSR, host},
		{"outside trust domain", good, with(func(id *wire.Identity) { id.TrustDomain = "evil.org" })},
		{`role "controller" cannot be asked for`, good, with(func(id *wire.Identity) { id.Role = wire.RoleController })},
		{"no valid identity", good, with(func(id *wire.Identity) { id.Name = "a/b" })},
		{"no valid identity", good, with(func(id *wire.Identity) { id.UID = "" })},
	} {
		if _, err := a.Sign(c.csr, c.id); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, ed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sign(csr, host); err != nil {
		t.Errorf("an Ed25519 key is refused: %v", err)
	}
}

// TestAuthorityIsConfinedToItsDomain signs what Sign never would, with the
// authority's own key: verifiers must refuse it by the name constraint.
func TestAuthorityIsConfinedToItsDomain(t *testing.T) {
	a := open(t, Config{})
	foreign, _ := url.Parse("spiffe://other.org/host/a/1")
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: serial(), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{foreign}}, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: a.pool}); err == nil || !strings.Contains(err.Error(), "not permitted") {
		t.Errorf("got %v", err)
	}
}

func TestServerCertificate(t *testing.T) {
	now := time.Now()
	a := open(t, Config{Now: func() time.Time { return now }})
	if _, err := a.ServerCertificate([]string{"a b"}); err == nil {
		t.Error("a bad name was taken")
	}
	get, err := a.ServerCertificate([]string{"weft.example.org", "192.0.2.1", "::1"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := get(nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(first.Certificate) != 2 || string(first.Certificate[1]) != string(a.cert.Raw) {
		t.Error("the chain does not end with the authority")
	}
	for _, name := range []string{"weft.example.org", "192.0.2.1", "::1"} {
		if err := first.Leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if id, err := wire.CertificateIdentity(first.Leaf); err != nil || id.Role != wire.RoleController || id != a.Identity() {
		t.Errorf("names %v, %v", id, err)
	}
	now = now.Add(15 * time.Hour)
	if again, _ := get(nil); again != first {
		t.Error("renewed before two thirds of its life")
	}
	now = now.Add(2 * time.Hour)
	renewed, err := get(nil)
	if err != nil || renewed == first || !renewed.Leaf.NotAfter.Equal(now.Add(24*time.Hour).UTC().Truncate(time.Second)) {
		t.Errorf("not renewed after two thirds of its life: %v", err)
	}
	now = now.Add(-48 * time.Hour) // the clock is set back
	if back, err := get(nil); err != nil || back.Leaf.NotBefore.After(now) {
		t.Errorf("a certificate of the future after the clock was set back: %v", err)
	}
}

func TestServerTLS(t *testing.T) {
	a := open(t, Config{})
	cfg, err := a.ServerTLS([]string{"localhost"})
	if err != nil {
		t.Fatal(err)
	}
	handshake := func(client *tls.Config) error {
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
			served <- tls.Server(conn, cfg).Handshake()
		}()
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		return errors.Join(tls.Client(conn, client).Handshake(), <-served)
	}
	if err := handshake(&tls.Config{RootCAs: a.pool, ServerName: "localhost"}); err != nil {
		t.Errorf("no client certificate: %v", err)
	}
	if err := handshake(&tls.Config{RootCAs: a.pool, ServerName: "localhost", MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 was spoken")
	}
	stranger := open(t, Config{})
	get, err := stranger.ServerCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := get(nil)
	// GetClientCertificate offers it although the server names its authority.
	err = handshake(&tls.Config{RootCAs: a.pool, ServerName: "localhost", GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }})
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a stranger's certificate: %v", err)
	}
}
