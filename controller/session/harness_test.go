package session

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"weft/controller/observe"
	"weft/controller/plan"
	"weft/controller/store"
	"weft/model"
	"weft/wire"
	"weft/wire/wirepb"
	"weft/wire/wirepb/wirepbconnect"
)

const domain = "weft.test"

var tester = store.Change{Actor: "test"}

// authority is a certificate authority for tests.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	life time.Duration
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{key: newKey(t), life: time.Hour}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, err = x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) Bundle() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *authority) Sign(csr []byte, id wire.Identity) ([]byte, error) {
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, err
	}
	return a.issue(req.PublicKey, id.URL(), nil)
}

func (a *authority) issue(key any, id *url.URL, names []string) ([]byte, error) {
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(a.life), DNSNames: names,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	if id != nil {
		tmpl.URIs = []*url.URL{id}
	}
	return x509.CreateCertificate(rand.Reader, tmpl, a.cert, key, a.key)
}

func csr(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// house is a controller's session service with a real store behind real TLS.
type house struct {
	*Service
	t     *testing.T
	ca    *authority
	url   string
	pool  *x509.CertPool
	store *store.Store
	obs   *observe.Observer
}

func newHouse(t *testing.T, cfg Config) *house {
	t.Helper()
	return newHouseWith(t, cfg, Deps{})
}

// newHouseWith takes what else the service works with.
func newHouseWith(t *testing.T, cfg Config, deps Deps) *house {
	t.Helper()
	st, err := store.Open(t.Context(), store.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	obs := observe.New(observe.Config{}, observe.Deps{})
	ca := newAuthority(t)
	cfg.TrustDomain, cfg.Version = domain, "test"
	deps.Store, deps.Observer, deps.Authority = st, obs, ca
	deps.Filter = func(string) (plan.Filter, error) { return plan.Filter{}, errors.New("bad filter") }
	s := New(cfg, deps)
	h := &house{Service: s, t: t, ca: ca, store: st, obs: obs, pool: x509.NewCertPool()}
	h.pool.AddCert(ca.cert)
	h.listen()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); s.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() { cancel(); <-done })
	<-ready
	return h
}

func (h *house) listen() {
	mux := http.NewServeMux()
	mux.Handle(h.Handler())
	server := httptest.NewUnstartedServer(mux)
	key := newKey(h.t)
	der, err := h.ca.issue(key.Public(), nil, []string{"controller"})
	if err != nil {
		h.t.Fatal(err)
	}
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: h.pool,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.EnableHTTP2 = true
	server.StartTLS()
	h.t.Cleanup(server.CloseClientConnections)
	h.t.Cleanup(server.Close)
	h.url = server.URL
}

// client speaks as whoever the certificate says; as nobody without one.
func (h *house) client(cert *tls.Certificate) wirepbconnect.ControllerClient {
	cfg := &tls.Config{RootCAs: h.pool, ServerName: "controller"}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	transport := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	h.t.Cleanup(transport.CloseIdleConnections)
	return wirepbconnect.NewControllerClient(&http.Client{Transport: transport}, h.url)
}

// token makes a join token and returns its text.
func (h *house) token(name string, spec model.JoinTokenSpec) string {
	h.t.Helper()
	token := wire.NewToken(wire.PrefixJoin, name, wire.CAPin(h.ca.cert))
	r := model.MustKind(model.KindJoinToken).New().(*model.JoinToken)
	r.Metadata.Name, r.Spec = name, spec
	if err := h.store.Create(h.t.Context(), tester, r, []byte(token.Hash())); err != nil {
		h.t.Fatal(err)
	}
	return token.String()
}

func (h *house) join(token, role, name string, key *ecdsa.PrivateKey) (*wirepb.JoinResponse, error) {
	m := &wirepb.JoinRequest{Token: token, Role: role, Name: name, Csr: csr(h.t, key)}
	if role == "relay" {
		m.Addresses = []string{"relay.example:443"}
	}
	resp, err := h.client(nil).Join(h.t.Context(), connect.NewRequest(m))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

// member joins and returns a client that speaks as the new host or relay.
func (h *house) member(role, name string) (wirepbconnect.ControllerClient, string) {
	h.t.Helper()
	key := newKey(h.t)
	resp, err := h.join(h.token("for-"+name, model.JoinTokenSpec{Role: model.Role(role), Labels: map[string]string{"from": "token"}}), role, name, key)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.client(&tls.Certificate{Certificate: [][]byte{resp.Certificate}, PrivateKey: key}), resp.Uid
}

type clientStream = connect.BidiStreamForClient[wirepb.AgentMessage, wirepb.ControllerMessage]

func hello(instance string) *wirepb.Hello {
	return &wirepb.Hello{Protocol: wire.Version, MinProtocol: wire.MinVersion, Version: "t", Instance: instance, BootId: "boot-" + instance, UnixNanos: time.Now().UnixNano()}
}

// open sends Hello and returns the first answer.
func (h *house) open(c wirepbconnect.ControllerClient, m *wirepb.Hello) (*clientStream, *wirepb.Welcome, error) {
	st := c.Session(h.t.Context())
	_ = st.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Hello{Hello: m}})
	first, err := st.Receive()
	if err != nil {
		return st, nil, err
	}
	return st, first.GetWelcome(), nil
}

func (h *house) mustOpen(c wirepbconnect.ControllerClient, instance string) *clientStream {
	h.t.Helper()
	st, w, err := h.open(c, hello(instance))
	if err != nil || w == nil {
		h.t.Fatalf("open session: %v, %v", w, err)
	}
	return st
}

// sections receives until every name has come with what the test wants.
func (h *house) section(st *clientStream, name string, ok func(*wirepb.Section) bool) *wirepb.Section {
	h.t.Helper()
	found := make(chan *wirepb.Section, 1)
	go func() {
		for {
			m, err := st.Receive()
			if err != nil {
				close(found)
				return
			}
			if s := m.GetSection(); s.GetName() == name && ok(s) {
				found <- s
				return
			}
		}
	}()
	select {
	case s := <-found:
		if s == nil {
			h.t.Fatalf("session ended before section %s came", name)
		}
		return s
	case <-time.After(5 * time.Second):
		h.t.Fatalf("no section %s as wanted within 5 s", name)
	}
	return nil
}

func workloads(ws ...*wirepb.Workload) *wirepb.AgentMessage {
	return &wirepb.AgentMessage{Body: &wirepb.AgentMessage_Workloads{Workloads: &wirepb.WorkloadUpdate{Full: true, Upserts: ws}}}
}

func hostWorkload(labels map[string]string) *wirepb.Workload {
	return &wirepb.Workload{Id: "host", Kind: "host", Labels: labels}
}

func wantRefusal(t *testing.T, err error, code connect.Code, reason, text string) {
	t.Helper()
	var refusal *connect.Error
	if !errors.As(err, &refusal) {
		t.Fatalf("got %v, want a refusal %s %s", err, code, reason)
	}
	if refusal.Code() != code || refusal.Meta().Get(wire.HeaderReason) != reason || !strings.Contains(refusal.Message(), text) {
		t.Errorf("got %v (%s), want %s (%s) with %q", refusal, refusal.Meta().Get(wire.HeaderReason), code, reason, text)
	}
}

func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within %s: %s", within, what)
}
