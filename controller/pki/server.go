package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"regexp"
	"sync"

	"weft/wire"
)

// hostnameRE admits DNS names as certificates carry them, "*." in front allowed.
var hostnameRE = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?)*$`)

// server is the controller's own certificate, kept fresh in memory.
type server struct {
	a     *Authority
	names []string

	mu   sync.Mutex
	cert *tls.Certificate
}

// ServerCertificate returns a tls.Config.GetCertificate for the controller,
// valid for the given DNS names and IP addresses and as a SPIFFE id of role
// controller. Its key lives in memory alone, and it is renewed when a
// handshake finds two thirds of its life gone. The chain it presents ends with
// the authority itself, which a client that knows only the pin needs to see.
func (a *Authority) ServerCertificate(names []string) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	for _, name := range names {
		if net.ParseIP(name) == nil && !hostnameRE.MatchString(name) {
			return nil, fmt.Errorf("certificate name %q is neither a DNS name nor an IP address", name)
		}
	}
	s := &server{a: a, names: names}
	if _, err := s.get(nil); err != nil {
		return nil, err
	}
	return s.get, nil
}

// Identity is the controller's own. Its UID is taken from the authority's key.
func (a *Authority) Identity() wire.Identity {
	return wire.Identity{TrustDomain: a.cfg.TrustDomain, Role: wire.RoleController, Name: a.cfg.Name, UID: a.Pin()[:16]}
}

func (s *server) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A clock that was set back makes the present one "not yet valid".
	if now := s.a.cfg.Now(); s.cert != nil && now.After(s.cert.Leaf.NotBefore) && now.Before(renewAt(s.cert.Leaf.NotAfter, s.a.cfg.Life)) {
		return s.cert, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := s.a.issue(key.Public(), s.a.Identity(), s.names)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	s.cert = &tls.Certificate{Certificate: [][]byte{der, s.a.cert.Raw}, PrivateKey: key, Leaf: leaf}
	return s.cert, nil
}

// ServerTLS returns the configuration of the controller's listener: TLS 1.3
// alone, HTTP/2 preferred, and a client certificate verified where one is
// given. Whoever serves a request must still ask for one where it matters, and
// check its role and that it is not revoked.
func (a *Authority) ServerTLS(names []string) (*tls.Config, error) {
	get, err := a.ServerCertificate(names)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: get,
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      a.pool,
		Time:           a.cfg.Now,
		// A resumed session would outlive the check of the certificate.
		SessionTicketsDisabled: true,
	}, nil
}
