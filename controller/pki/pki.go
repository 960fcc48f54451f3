// Package pki is the controller's certificate authority: it names hosts,
// relays and the controller itself by SPIFFE id, for a day at a time.
//
// One file, DIR/pki/ca.pem (mode 0600), holds the root's private key and its
// certificate, so that the two can never disagree after a crash. DIR/pki/ca.crt
// is a copy of the certificate for people; nothing reads it.
package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"weft/internal/keyfile"
	"weft/wire"
)

const (
	rootLife = 10 * 365 * 24 * time.Hour
	// backdate lets a machine whose clock is a little slow use its
	// certificate at once.
	backdate = 5 * time.Minute

	defaultLife = 24 * time.Hour
)

// Config says where the authority lives and what it names.
type Config struct {
	Dir         string // the controller's data directory; files go to Dir/pki
	TrustDomain string // of every SPIFFE id, such as "example.org"
	// Life of the certificates it signs; 24 h unless given.
	Life time.Duration
	// Name of this controller in its own SPIFFE id; "controller" unless given.
	Name string
	// Now is the clock; time.Now unless given.
	Now func() time.Time
}

// Authority signs. It is safe for concurrent use and never changes.
type Authority struct {
	cfg  Config
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

// Open reads the authority in cfg.Dir, or makes one where there is none.
func Open(cfg Config) (*Authority, error) {
	if _, err := spiffeid.TrustDomainFromString(cfg.TrustDomain); err != nil {
		return nil, fmt.Errorf("trust domain %q: %w", cfg.TrustDomain, err)
	}
	if cfg.Life == 0 {
		cfg.Life = defaultLife
	}
	if cfg.Name == "" {
		cfg.Name = "controller"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	a := &Authority{cfg: cfg, pool: x509.NewCertPool()}
	path := filepath.Join(cfg.Dir, "pki", "ca.pem")
	data, err := keyfile.ReadSecret(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := a.create(path); err != nil {
			return nil, fmt.Errorf("make certificate authority: %w", err)
		}
	case err != nil:
		return nil, fmt.Errorf("read certificate authority: %w", err)
	default:
		if err := a.load(data); err != nil {
			return nil, fmt.Errorf("read certificate authority %s: %w", path, err)
		}
	}
	a.pool.AddCert(a.cert)
	// For people only; an old or missing copy does no harm but confuse.
	// Written only where it differs: a full disk must not keep a controller from starting.
	copied := filepath.Join(cfg.Dir, "pki", "ca.crt")
	if old, err := os.ReadFile(copied); err == nil && bytes.Equal(old, a.Bundle()) {
		return a, nil
	}
	if err := keyfile.Write(copied, a.Bundle(), 0o644); err != nil {
		return nil, fmt.Errorf("write certificate of the authority: %w", err)
	}
	return a, nil
}

func (a *Authority) create(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := a.cfg.Now()
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "weft authority of " + a.cfg.TrustDomain},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		// It may name nobody outside its trust domain (RFC 5280, 4.2.1.10).
		// DNS and IP names stay free: the controller's are not known here.
		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         []string{a.cfg.TrustDomain},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	a.key = key
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	return keyfile.Write(path, append(data, a.Bundle()...), 0o600)
}

func (a *Authority) load(data []byte) error {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "PRIVATE KEY":
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return fmt.Errorf("private key: %w", err)
			}
			ec, ok := key.(*ecdsa.PrivateKey)
			if !ok {
				return fmt.Errorf("private key is a %T, want ECDSA", key)
			}
			a.key = ec
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return fmt.Errorf("certificate: %w", err)
			}
			a.cert = cert
		}
	}
	switch {
	case a.key == nil || a.cert == nil:
		return errors.New("want a PRIVATE KEY and a CERTIFICATE block; restore it from a backup, or remove it and let every machine join again")
	case !a.key.PublicKey.Equal(a.cert.PublicKey):
		return errors.New("its key and its certificate do not belong together; restore it from a backup")
	case len(a.cert.PermittedURIDomains) != 1 || a.cert.PermittedURIDomains[0] != a.cfg.TrustDomain:
		return fmt.Errorf("it is for trust domain %q, not %q; start with the domain it was made for, or use another data directory",
			a.cert.PermittedURIDomains, a.cfg.TrustDomain)
	case a.cfg.Now().After(a.cert.NotAfter):
		return fmt.Errorf("it expired at %s; is this machine's clock right?", a.cert.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// Bundle returns the certificates that verify what the authority signs, in PEM.
func (a *Authority) Bundle() []byte {
	var b bytes.Buffer
	pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}) // a bytes.Buffer takes all
	return b.Bytes()
}

// Pin is what join tokens carry; see wire.CAPin.
func (a *Authority) Pin() string { return wire.CAPin(a.cert) }

// serial draws 127 random bits: positive, and 16 bytes at most (RFC 5280 allows 20).
func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}
