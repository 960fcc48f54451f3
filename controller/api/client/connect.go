package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"weft/wire"
)

// Config says where a controller is and how to know it.
type Config struct {
	// Server is "https://HOST[:PORT]" or "unix:///PATH".
	Server string
	// Token is the access token; it may be empty over a Unix socket.
	Token string
	// CA holds the controller's authorities in PEM. Where it is empty, the pin in
	// the token says which authority to believe.
	CA []byte
	// OnAuthority is given the authority that the pin named, in PEM.
	OnAuthority func(pem []byte)
}

// New makes a client; it does not connect yet.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.Server)
	if err != nil {
		return nil, fmt.Errorf("server %q: %w", cfg.Server, err)
	}
	c := &Client{server: cfg.Server, token: cfg.Token}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	t := &http.Transport{DialContext: dialer.DialContext, TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 60 * time.Second}
	switch {
	case u.Scheme == "unix" && u.Path != "":
		c.base = "http://weft"
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", u.Path)
		}
	case u.Scheme == "https" && u.Host != "":
		c.base = "https://" + u.Host + strings.TrimRight(u.Path, "/")
		t.ForceAttemptHTTP2 = true
		t.Proxy = http.ProxyFromEnvironment
		if t.TLSClientConfig, err = tlsConfig(cfg); err != nil {
			return nil, err
		}
	case u.Scheme == "http":
		return nil, fmt.Errorf("server %s: a token must not cross a network in clear text; use https://", cfg.Server)
	default:
		return nil, fmt.Errorf("server %q: want https://HOST[:PORT] or unix:///PATH", cfg.Server)
	}
	c.http = &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c, nil
}

// tlsConfig believes a certificate for the role controller by the right
// authority, whatever name or address the controller is reached by: NAT and
// tunnels change those, the identity stays. A host's certificate, which the same
// authority signed, is refused.
func tlsConfig(cfg Config) (*tls.Config, error) {
	var roots *x509.CertPool
	pin := ""
	if len(cfg.CA) > 0 {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(cfg.CA) {
			return nil, errors.New("the saved authority is no certificate in PEM; log in again: weft login")
		}
	} else {
		token, err := wire.ParseToken(wire.PrefixAccess, cfg.Token)
		if err != nil {
			return nil, fmt.Errorf("access token: %w", err)
		}
		pin = token.Pin
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // replaced by VerifyConnection, which always runs
		VerifyConnection: func(s tls.ConnectionState) error {
			pool := roots
			if pin != "" {
				ca := pinned(s.PeerCertificates, pin)
				if ca == nil {
					return errIdentity{"the server does not present the authority that the token names; it is another controller, or somebody is in between"}
				}
				pool = x509.NewCertPool()
				pool.AddCert(ca)
				if cfg.OnAuthority != nil {
					defer cfg.OnAuthority(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}))
				}
			}
			return verify(s.PeerCertificates, pool)
		},
	}, nil
}

func pinned(chain []*x509.Certificate, pin string) *x509.Certificate {
	for _, c := range chain {
		if c.IsCA && wire.CAPin(c) == pin {
			return c
		}
	}
	return nil
}

func verify(chain []*x509.Certificate, roots *x509.CertPool) error {
	if len(chain) == 0 {
		return errIdentity{"the server shows no certificate"}
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
			return errIdentity{fmt.Sprintf("the controller's certificate is good from %s to %s and this machine's clock says %s; set the clock, or look at the controller's",
				chain[0].NotBefore.UTC().Format(time.RFC3339), chain[0].NotAfter.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339))}
		}
		return errIdentity{"the server's certificate is not by the authority this context knows: " + err.Error() + "; if the controller was set up anew, log in again: weft login"}
	}
	id, err := wire.CertificateIdentity(chain[0])
	if err != nil {
		return errIdentity{"the server is no controller: " + err.Error()}
	}
	if id.Role != wire.RoleController {
		return errIdentity{fmt.Sprintf("the server is %s, not a controller", id)}
	}
	return nil
}

// errIdentity is a server that is not who it should be.
type errIdentity struct{ why string }

func (e errIdentity) Error() string { return e.why }

// unreachable turns the errors of a connection into what a person can act on.
func (c *Client) unreachable(err error) error {
	var id errIdentity
	if errors.As(err, &id) {
		return fmt.Errorf("%s: %w", c.server, id)
	}
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	var inner *url.Error
	if errors.As(err, &inner) {
		err = inner.Err
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w; run the command as root, or log in over HTTPS: weft login URL --token-file FILE", c.server, err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: %w; is the controller running there?", c.server, err)
	}
	return fmt.Errorf("reach %s: %w", c.server, err)
}
