package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"weft/model"
	"weft/wire"
)

// Sign issues a certificate in DER for the public key of a PKCS#10 request
// whose own signature proves that the asker holds the private key. Nothing
// else in the request counts: names and extensions come from id alone.
func (a *Authority) Sign(csrDER []byte, id wire.Identity) ([]byte, error) {
	if id.Role != model.RoleHost && id.Role != model.RoleRelay {
		return nil, fmt.Errorf("sign certificate: role %q cannot be asked for", id.Role)
	}
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, fmt.Errorf("parse certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request is not signed by its own key: %w", err)
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return a.issue(csr.PublicKey, id, nil)
}

// checkKey admits what a weft program makes, which keeps handshakes cheap.
func checkKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize >= 256 {
			return nil
		}
	}
	return errors.New("use an ECDSA key of 256 bits or more, or Ed25519")
}

// issue makes a leaf. names are DNS names and IP addresses.
func (a *Authority) issue(key crypto.PublicKey, id wire.Identity, names []string) ([]byte, error) {
	if id.TrustDomain != a.cfg.TrustDomain {
		return nil, fmt.Errorf("sign certificate: %s is outside trust domain %s", id, a.cfg.TrustDomain)
	}
	if back, err := wire.ParseIdentity(id.String()); err != nil || back != id {
		return nil, fmt.Errorf("sign certificate: %s is no valid identity", id)
	}
	now := a.cfg.Now()
	template := &x509.Certificate{
		SerialNumber:          serial(),
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(a.cfg.Life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{id.URL()},
	}
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate for %s: %w", id, err)
	}
	return der, nil
}

// renewAt is when two thirds of a certificate's life are over.
func renewAt(notAfter time.Time, life time.Duration) time.Time {
	return notAfter.Add(-life / 3)
}
