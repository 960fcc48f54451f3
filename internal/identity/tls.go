package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"weft/model"
	"weft/wire"
)

// Check says whether a verified peer is the wanted one.
type Check func(wire.Identity) error

// Exactly wants one identity, down to its UID.
func Exactly(want wire.Identity) Check {
	return func(got wire.Identity) error {
		if got != want {
			return fmt.Errorf("peer is %s, want %s", got, want)
		}
		return nil
	}
}

// HasRole wants anyone of a role.
func HasRole(role model.Role) Check {
	return func(got wire.Identity) error {
		if got.Role != role {
			return fmt.Errorf("peer is %s, want a %s", got, role)
		}
		return nil
	}
}

// ClientTLS is for dialling another joined program: TLS 1.3, our certificate,
// and a peer of the same authorities that passes check. A renewed certificate
// and new authorities count from the next handshake on.
func (i *Identity) ClientTLS(alpn string, check Check) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{alpn},
		// These connections carry bulk, never a page to be drawn early.
		DynamicRecordSizingDisabled: true,
		Time:                        i.Now,
		GetClientCertificate:        i.getClientCertificate,
		// Peers are named by SPIFFE id and not by DNS: the chain is verified
		// in VerifyConnection, against authorities that may change.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			return i.verifyPeer(cs, x509.ExtKeyUsageServerAuth, check)
		},
	}
}

// ServerTLS is for accepting other joined programs, as ClientTLS is for
// dialling them.
func (i *Identity) ServerTLS(alpn []string, check Check) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  alpn,
		DynamicRecordSizingDisabled: true,
		Time:                        i.Now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return i.certificate()
		},
		// Verified in VerifyConnection, as above.
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true, // a resumed session would outlive a renewal
		VerifyConnection: func(cs tls.ConnectionState) error {
			return i.verifyPeer(cs, x509.ExtKeyUsageClientAuth, check)
		},
	}
}

// PeerIdentity reads who is at the other end of a verified connection.
func PeerIdentity(cs tls.ConnectionState) (wire.Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return wire.Identity{}, errors.New("peer gave no certificate")
	}
	return wire.CertificateIdentity(cs.PeerCertificates[0])
}

func (i *Identity) certificate() (*tls.Certificate, error) {
	st := i.state.Load()
	if st == nil {
		return nil, ErrNotJoined
	}
	return &st.cert, nil
}

func (i *Identity) getClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return i.certificate()
}

func (i *Identity) verifyPeer(cs tls.ConnectionState, usage x509.ExtKeyUsage, check Check) error {
	st := i.state.Load()
	if st == nil {
		return ErrNotJoined
	}
	id, err := PeerIdentity(cs)
	if err != nil {
		return err
	}
	leaf, now := cs.PeerCertificates[0], i.Now()
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: st.roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
			return fmt.Errorf("certificate of %s is valid from %s to %s and it is %s here; check the clocks of both machines: %w",
				id, leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339), err)
		}
		return fmt.Errorf("verify certificate of %s: %w", id, err)
	}
	if id.TrustDomain != st.id.TrustDomain {
		return fmt.Errorf("peer %s is outside trust domain %s", id, st.id.TrustDomain)
	}
	return check(id)
}

// maxSkew bounds how long after its end a controller's certificate is still
// taken for a fault of this machine's clock.
const maxSkew = 7 * 24 * time.Hour

// verifyController checks the controller's certificate by its authority's
// signature and by its role. Its dates are not checked strictly: a machine
// whose clock is hours off (a dead battery, a restored snapshot, a virtual
// machine that slept) must be able to reach the one who can tell it the time.
//
// What that gives away: whoever steals a controller's certificate AND its key,
// which never leave that process' memory, can play the controller for up to
// maxSkew after it expired instead of not at all. A clock that is behind costs
// nothing: the certificate was issued, so its time has come.
func (i *Identity) verifyController(chain []*x509.Certificate, roots *x509.CertPool, firstContact bool) error {
	leaf := chain[0]
	now := i.Now()
	var skewed error
	switch {
	case now.Before(leaf.NotBefore):
		skewed = fmt.Errorf("this machine's clock says %s, before the controller's certificate was made (%s): it is slow by %s or more; set it",
			now.UTC().Format(time.RFC3339), leaf.NotBefore.Format(time.RFC3339), leaf.NotBefore.Sub(now).Round(time.Second))
	case now.After(leaf.NotAfter):
		skewed = fmt.Errorf("this machine's clock says %s, after the controller's certificate ended (%s): if the controller's clock is right, it is fast by %s or more; set it",
			now.UTC().Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339), now.Sub(leaf.NotAfter).Round(time.Second))
		// At first contact nothing says what the time is, and the token is
		// shown to nobody but the authority that it names.
		if !firstContact && now.Sub(leaf.NotAfter) > maxSkew {
			return skewed
		}
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: middle(leaf), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err != nil {
		return &untrustedError{fmt.Errorf("verify the controller's certificate: %w; was its authority replaced? then join again with a new token", err)}
	}
	id, err := wire.CertificateIdentity(leaf)
	if err != nil {
		return fmt.Errorf("verify the controller's certificate: %w", err)
	}
	if err := HasRole(wire.RoleController)(id); err != nil {
		return err
	}
	if skewed != nil {
		i.log.Warn("clock is far off", "error", skewed)
	}
	return nil
}
