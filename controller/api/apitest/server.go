package apitest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"time"

	"weft/controller/access"
	"weft/controller/api"
	"weft/controller/flowstore"
	"weft/controller/store"
	"weft/model"
	"weft/policy"
	"weft/wire"
)

// ControllerAddress is where the controller is reached, as far as guards know: a
// host with it is the controller's machine.
var ControllerAddress = netip.MustParseAddr("10.9.9.9")

// Server is a controller's API on a Unix socket and on HTTPS, both at once.
type Server struct {
	World  *World
	Store  *store.Store
	Flows  *flowstore.Store // in memory
	API    *api.API
	Socket string // path; use the URL unix://PATH
	URL    string // https://127.0.0.1:PORT
	Token  string // of role admin
	CA     *x509.Certificate

	cancel context.CancelFunc
	http   []*http.Server
	ingest chan error // what running it ended with
}

// Start runs a server that keeps everything in dir.
func Start(ctx context.Context, dir string) (*Server, error) {
	st, err := store.Open(ctx, store.Config{Dir: filepath.Join(dir, "data")})
	if err != nil {
		return nil, err
	}
	flows, err := flowstore.Open(ctx, flowstore.Config{Groups: func(ctx context.Context) ([]*model.Group, error) {
		list, _, err := st.List(ctx, model.KindGroup)
		out := make([]*model.Group, len(list))
		for i, r := range list {
			out[i] = r.(*model.Group)
		}
		return out, err
	}})
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	s := &Server{Store: st, Flows: flows, World: newWorld(st), Socket: filepath.Join(dir, "api.sock")}
	if err := s.listen(ctx); err != nil {
		return nil, errors.Join(err, flows.Close(), st.Close())
	}
	return s, nil
}

func (s *Server) listen(ctx context.Context) error {
	ca, cert, err := Authority(string(wire.RoleController))
	if err != nil {
		return err
	}
	s.CA = ca
	pin := wire.CAPin(ca)
	if s.Token, _, err = access.Bootstrap(ctx, s.Store, pin); err != nil {
		return err
	}
	take := flowstore.NewIngest(s.Flows, s.World, nil, slog.New(slog.DiscardHandler))
	if s.API, err = api.New(api.Config{CAPin: pin, Heartbeat: time.Second, Failsafe: policy.FailsafeOptions{ControllerPort: 7443}, Addresses: func() []netip.Addr { return []netip.Addr{ControllerAddress} }}, api.Deps{Store: s.Store, Observer: s.World, Flows: s.Flows, Take: take, Log: slog.New(slog.DiscardHandler)}); err != nil {
		return err
	}
	unix, err := net.Listen("unix", s.Socket)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s.URL = "https://" + tcp.Addr().String()
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	s.ingest = make(chan error, 1)
	go func() { s.ingest <- take.Run(base, func() {}) }()
	go s.API.Run(base, func() {}) //nolint:errcheck // ends with Close, and has no error
	// One http.Server each: Serve before ServeTLS on the same one leaves HTTP/2
	// offered and not served.
	for _, l := range []net.Listener{unix, tcp} {
		h := &http.Server{Handler: s.API.Handler(), ConnContext: access.ConnContext, ReadHeaderTimeout: 10 * time.Second,
			BaseContext: func(net.Listener) context.Context { return base }}
		s.http = append(s.http, h)
		if l == unix {
			go h.Serve(l) //nolint:errcheck // ends with Close
			continue
		}
		h.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
		go h.ServeTLS(l, "", "") //nolint:errcheck // ends with Close
	}
	return nil
}

// Close stops everything.
func (s *Server) Close() error {
	s.cancel()
	errs := []error{<-s.ingest}
	for _, h := range s.http {
		errs = append(errs, h.Close())
	}
	return errors.Join(append(errs, s.Flows.Close(), s.Store.Close())...)
}

// Authority makes a certificate authority and a certificate of one role by it,
// with the authority in its chain.
func Authority(role string) (*x509.Certificate, tls.Certificate, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	now := time.Now()
	caDER, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "weft test authority"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "weft test authority"}}, &caKey.PublicKey, caKey)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	ca, err := x509.ParseCertificate(caDER)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		URIs:     []*url.URL{{Scheme: "spiffe", Host: "weft.test", Path: "/" + role + "/c1/u1"}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, ca, &key.PublicKey, caKey)
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	return ca, tls.Certificate{Certificate: [][]byte{der, caDER}, PrivateKey: key}, nil
}
