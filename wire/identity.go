package wire

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"weft/model"
)

// RoleController is the role of a controller's own certificate. Hosts and
// relays have the roles of model.Role.
const RoleController model.Role = "controller"

// Identity is who a certificate speaks for, written as the SPIFFE id
//
//	spiffe://TRUST-DOMAIN/ROLE/NAME/UID
//
// The UID is that of the Host or Relay, drawn when it joins: a machine that is
// revoked and joins again under its old name is another identity.
type Identity struct {
	TrustDomain string
	Role        model.Role
	Name        string
	UID         string
}

func (id Identity) String() string {
	return "spiffe://" + id.TrustDomain + "/" + string(id.Role) + "/" + id.Name + "/" + id.UID
}

// URL returns the id as the URI that a certificate carries.
func (id Identity) URL() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: id.TrustDomain, Path: "/" + string(id.Role) + "/" + id.Name + "/" + id.UID}
}

// ParseIdentity reads what String writes.
func ParseIdentity(text string) (Identity, error) {
	id, err := spiffeid.FromString(text)
	if err != nil {
		return Identity{}, fmt.Errorf("identity %q: %w", text, err)
	}
	parts := strings.Split(strings.TrimPrefix(id.Path(), "/"), "/")
	if len(parts) != 3 {
		return Identity{}, fmt.Errorf("identity %q: want spiffe://TRUST-DOMAIN/ROLE/NAME/UID", text)
	}
	switch role := model.Role(parts[0]); role {
	case model.RoleHost, model.RoleRelay, RoleController:
		return Identity{TrustDomain: id.TrustDomain().Name(), Role: role, Name: parts[1], UID: parts[2]}, nil
	default:
		return Identity{}, fmt.Errorf("identity %q: role %q is none of host, relay, controller", text, parts[0])
	}
}

// CertificateIdentity reads the identity of a verified certificate. It must
// carry exactly one URI name.
func CertificateIdentity(cert *x509.Certificate) (Identity, error) {
	if len(cert.URIs) != 1 {
		return Identity{}, fmt.Errorf("certificate %s has %d URI names, want one", cert.SerialNumber, len(cert.URIs))
	}
	return ParseIdentity(cert.URIs[0].String())
}
