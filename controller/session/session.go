// Package session is the controller's end of the agent protocol: it lets
// machines join, renews their certificates, and holds a session with each, in
// which it learns what is and says what should be. The planner is here too: it
// follows the store and the reports and hands each session its sections.
//
// wire/PROTOCOL.md describes the protocol.
package session

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"weft/controller/identity"
	"weft/controller/observe"
	"weft/controller/plan"
	"weft/controller/store"
	"weft/model"
	"weft/policy"
	"weft/wire"
	"weft/wire/wirepb"
	"weft/wire/wirepb/wirepbconnect"
)

// DefaultHeartbeat is how often both sides of a session give a sign of life.
const DefaultHeartbeat = 5 * time.Second

// missedBeats of silence end a session.
const missedBeats = 3

// maxMessage bounds one message either way. A full report of the most
// workloads that a host may have fits.
const maxMessage = 16 << 20

// compressFrom is the size from which a message is compressed. Sections of most
// hosts are a few kilobytes, of which a change of policy sends thousands: half of
// the controller's work would be compressing what fits into two packets.
const compressFrom = 16 << 10

// Config of the Service. Zero values take the defaults.
type Config struct {
	TrustDomain string
	Version     string // of this program, told to agents
	// Heartbeat is told to agents; at least a second outside tests.
	Heartbeat time.Duration
	// Failsafe says what no policy may take away.
	Failsafe policy.FailsafeOptions
	// Debounce is how long the planner gathers changes; 10 ms unless given.
	Debounce time.Duration
}

// Authority signs certificates.
type Authority interface {
	// Sign issues a certificate for the key in a PKCS#10 request (DER); nothing
	// else in the request counts. An error is the request's fault.
	Sign(csr []byte, id wire.Identity) (certDER []byte, err error)
	// Bundle is the authorities to trust, PEM.
	Bundle() []byte
}

// Deps of the Service.
type Deps struct {
	Store     *store.Store
	Observer  *observe.Observer
	Authority Authority
	// Filter compiles a tap's filter; nil refuses every filter.
	Filter func(expression string) (plan.Filter, error)
	// Flows takes what hosts report of connections, and calls kept once it is kept;
	// nil takes and keeps nothing. A batch that is not taken, and what the session
	// sends after it, the host is to send in another, when again is called.
	Flows func(id wire.Identity, b *wirepb.FlowBatch, kept func(*wirepb.FlowAck), again func()) (taken bool, err error)
	// Samples says who looks at hosts and takes what they say; nil asks for none.
	Samples Samples
	// Captures says what hosts are to capture and takes it; nil has none capture.
	Captures Captures
	// Probes says what hosts are to probe while somebody listens; nil has none probe.
	Probes Probes
	// Number numbers identities for good; nil numbers them for this Service.
	Number plan.Number
	Log    *slog.Logger
}

// Samples is who looks at which host.
type Samples interface {
	// Wanted is what a host is to be asked for now; one of the channels is closed
	// when that changes, except where it only ends.
	Wanted(uid string) (r *wirepb.SampleRequest, host, all <-chan struct{})
	Take(id wire.Identity, m *wirepb.Sample)
}

// Captures is who captures what on which host.
type Captures interface {
	// Wanted is what a host is to be told: orders where they have another version than
	// the one known, and acknowledgements, which are handed out once. The channel is
	// closed when there is more.
	Wanted(uid string, known uint64) (o *wirepb.CaptureOrders, version uint64, acks []*wirepb.CaptureAck, changed <-chan struct{})
	Take(id wire.Identity, p *wirepb.CapturePiece)
}

// Probes is who probes what from which host.
type Probes interface {
	// Wanted is what a host is to be told, where it has another version than the one
	// known. The channel is closed when there is more.
	Wanted(uid string, known uint64) (o *wirepb.ProbeOrders, version uint64, changed <-chan struct{})
	Take(id wire.Identity, m *wirepb.ProbeProgress)
	// Gone says that the host's session has ended.
	Gone(id wire.Identity)
}

// Service answers the agent protocol. Its handler works while Run does.
type Service struct {
	cfg  Config
	deps Deps
	now  func() time.Time

	// Of the goroutine that plans.
	planner *plan.Planner
	planned time.Time // from nothing

	mu       sync.Mutex
	live     map[string]*live // by identity
	plan     *plan.Plan
	revision uint64
	stopped  bool
}

// New makes an inert Service.
func New(cfg Config, deps Deps) *Service {
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = DefaultHeartbeat
	}
	if cfg.Debounce == 0 {
		cfg.Debounce = 10 * time.Millisecond
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Number == nil {
		deps.Number = identity.Open(identity.Config{}).Number
	}
	return &Service{cfg: cfg, deps: deps, now: time.Now, live: map[string]*live{}}
}

// Handler returns the path to mount at and the handler. The listener must use
// HTTP/2 and TLS, ask for a client certificate and verify it where one is given;
// only Join works without.
func (s *Service) Handler() (string, http.Handler) {
	path, h := wirepbconnect.NewControllerHandler(s, connect.WithReadMaxBytes(maxMessage), connect.WithSendMaxBytes(maxMessage), connect.WithCompressMinBytes(compressFrom))
	return path, identify(h)
}

type contextKey int

const (
	keyIdentity contextKey = iota
	keyRequest
)

// WithIdentity puts a verified identity into the context of a request that
// came over no TLS connection: a Unix socket, or a test.
func WithIdentity(ctx context.Context, id wire.Identity) context.Context {
	return context.WithValue(ctx, keyIdentity, id)
}

// request is what Session needs of the HTTP exchange beneath it.
type request struct {
	remote string
	cut    *http.ResponseController
	// expires is when the client's certificate does; zero without one.
	expires time.Time
}

// identify reads the identity from the verified client certificate.
func identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		exchange, ctx := request{remote: r.RemoteAddr, cut: http.NewResponseController(w)}, r.Context()
		// VerifiedChains and not PeerCertificates alone: a listener that was set
		// up to ask without verifying must not let anybody in.
		if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
			if id, err := wire.CertificateIdentity(r.TLS.PeerCertificates[0]); err == nil {
				ctx = WithIdentity(ctx, id)
				exchange.expires = r.TLS.PeerCertificates[0].NotAfter
			}
		}
		ctx = context.WithValue(ctx, keyRequest, exchange)
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func identityOf(ctx context.Context) (wire.Identity, bool) {
	id, ok := ctx.Value(keyIdentity).(wire.Identity)
	return id, ok
}

func requestOf(ctx context.Context) request {
	r, _ := ctx.Value(keyRequest).(request)
	return r
}

// admit checks that an identity may speak at this moment: of this trust domain,
// a Host or Relay that exists under that UID, and not revoked.
func (s *Service) admit(ctx context.Context) (wire.Identity, model.Resource, error) {
	id, ok := identityOf(ctx)
	if !ok {
		return id, nil, refuse(connect.CodeUnauthenticated, wire.ReasonNoCertificate, "no verified client certificate; join first: weft-agent join")
	}
	// The handshake may have been long ago: the connection outlives its session.
	if r := requestOf(ctx); !r.expires.IsZero() && s.now().After(r.expires) {
		return id, nil, refuse(connect.CodeUnauthenticated, wire.ReasonExpired, "the certificate of %s expired at %s; connect anew with a renewed one", id, r.expires.UTC().Format(time.RFC3339))
	}
	kind, known := kindOf(id.Role)
	if id.TrustDomain != s.cfg.TrustDomain || !known {
		return id, nil, refuse(connect.CodePermissionDenied, wire.ReasonUnknown, "%s is no identity of trust domain %s", id, s.cfg.TrustDomain)
	}
	r, err := s.deps.Store.Get(ctx, kind, id.Name)
	switch {
	case isNotFound(err), err == nil && r.Meta().UID != id.UID:
		return id, nil, refuse(connect.CodePermissionDenied, wire.ReasonUnknown, "%s %q with this certificate is not (or no longer) known here; %s", id.Role, id.Name, again(id.Role))
	case err != nil:
		return id, nil, connect.NewError(connect.CodeUnavailable, err)
	case revoked(r):
		return id, nil, refuse(connect.CodePermissionDenied, wire.ReasonRevoked, "%s %q is revoked; %s", id.Role, id.Name, again(id.Role))
	}
	return id, r, nil
}

func kindOf(role model.Role) (model.Kind, bool) {
	switch role {
	case model.RoleHost:
		return model.KindHost, true
	case model.RoleRelay:
		return model.KindRelay, true
	}
	return "", false
}

func revoked(r model.Resource) bool {
	switch r := r.(type) {
	case *model.Host:
		return r.Spec.Revoked
	case *model.Relay:
		return r.Spec.Revoked
	}
	return false
}
