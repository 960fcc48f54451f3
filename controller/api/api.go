// Package api serves the resources to people: REST under /api/v1 with an OpenAPI
// description, a page that shows it, and watches. It decides who may do what,
// refuses what is wrong with every fault at once, and keeps what nobody may
// write (status, identity, generation).
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"weft/controller/access"
	"weft/controller/captures"
	"weft/controller/flowstore"
	"weft/controller/notify"
	"weft/controller/observe"
	"weft/controller/probes"
	"weft/controller/samples"
	"weft/controller/store"
	"weft/internal/version"
	"weft/model"
	"weft/policy"
)

// Limits of the API.
const (
	MaxBody     = 1 << 20 // bytes of one request
	bodyTimeout = 30 * time.Second
	maxWatches  = 256    // at one time
	maxAudit    = 10_000 // entries in one answer
	minInterval = 100 * time.Millisecond
)

// Config of an API.
type Config struct {
	// CAPin names the authority in the tokens that are made; see wire.CAPin.
	CAPin string
	// Heartbeat is how often a quiet watch says that it lives; 30 s unless given.
	Heartbeat time.Duration
	// SocketUser is let in over the Unix socket besides root and the
	// controller's own user; 0 is nobody else.
	SocketUser int
	// Failsafe is what no policy may take away, as the planner has it.
	Failsafe policy.FailsafeOptions
	// Addresses are those at which the controller is reached; those of this
	// machine unless given.
	Addresses func() []netip.Addr
}

// Deps is what an API works with.
type Deps struct {
	Store    *store.Store
	Observer Observer
	Flows    Flows // nil for none
	// Take keeps flows that are imported; nil for no imports.
	Take    FlowTaker
	Samples Samples // nil for none
	// Captures is who captures packets; nil for none.
	Captures *captures.Captures
	// Probes is who probes from hosts; nil for nobody.
	Probes *probes.Probes
	// History returns changes of alerts, the newest first; nil for none.
	History func(limit int) []notify.Change
	Log     *slog.Logger
}

// Flows answers questions about what connections did.
type Flows interface {
	Sums(context.Context, flowstore.Query) (flowstore.Sums, error)
	List(context.Context, flowstore.Query, flowstore.Cursor) ([]flowstore.Flow, flowstore.Cursor, error)
	Explain(ctx context.Context, id uint64) (*flowstore.Connection, error)
	Disagreements(context.Context, flowstore.Query) ([]flowstore.Disagreement, error)
	Lost() uint64
	Has(hostUID string, epoch, number uint64) bool
}

// Samples is what hosts are doing, for as long as somebody asks.
type Samples interface {
	Look(uid string, x samples.Look)
	LookAtAll(x samples.Look)
	Last(uid string) samples.Sample
	// Next waits for a sample after a number, until ctx ends.
	Next(ctx context.Context, uid string, after uint64) samples.Sample
}

// Observer answers with what the agents report now. All results are the
// caller's to keep.
type Observer interface {
	Workloads() []*model.Workload // sorted by name
	Alerts() []*model.Alert       // sorted by name
	HostStatus(h *model.Host) model.HostStatus
	RelayStatus(r *model.Relay) model.RelayStatus
	// Members resolves nested groups; the error names an unknown or circular group.
	Members(spec model.GroupSpec) ([]*model.Workload, error)
	GroupStatus(g *model.Group) model.GroupStatus
	TapStatus(t *model.Tap) model.TapStatus // of a stored tap
	PolicyStatus(p *model.Policy) model.PolicyStatus
	ProbeStatus(p *model.Probe) model.ProbeStatus
	Interfaces() map[string][]model.Interface // by host name
	Conversations(since time.Time) observe.Recorded
	PreviewTap(spec model.TapSpec) (sources, tools []*model.Workload, err error)
	Changed() <-chan struct{} // closed at the next change of anything observed
}

// API is an http.Handler's maker. Its one goroutine is Run.
type API struct {
	cfg      Config
	store    *store.Store
	seen     Observer
	flows    Flows
	take     FlowTaker
	samples  Samples
	captures *captures.Captures
	probes   *probes.Probes
	history  func(limit int) []notify.Change
	log      *slog.Logger
	guard    *access.Guard
	watches  chan struct{}
	huma     huma.API
	handler  http.Handler
	// pending is held while what waits for confirmation is read and changed.
	pending sync.Mutex
	// quiet is Run's own, by the policy's name.
	quiet map[string]*quiet
}

// New builds the API.
func New(cfg Config, deps Deps) (*API, error) {
	if deps.Store == nil || deps.Observer == nil || deps.Log == nil {
		return nil, errors.New("api needs a store, an observer and a log")
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 30 * time.Second
	}
	if cfg.Addresses == nil {
		cfg.Addresses = localAddresses
	}
	a := &API{
		cfg: cfg, store: deps.Store, seen: deps.Observer, flows: deps.Flows, take: deps.Take, samples: deps.Samples, captures: deps.Captures, probes: deps.Probes, history: deps.History, log: deps.Log,
		guard:   access.NewGuard(deps.Store, os.Geteuid(), cfg.SocketUser),
		watches: make(chan struct{}, maxWatches),
	}
	mux := http.NewServeMux()
	a.huma = humago.New(mux, humaConfig())
	a.register()
	describeSchemas(a.huma.OpenAPI().Components.Schemas.Map())
	mux.HandleFunc("GET /healthz", a.health)
	mux.HandleFunc("GET /docs", docsPage)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, &Problem{Status: http.StatusNotFound, Detail: "there is no " + r.Method + " " + r.URL.Path + "; /docs shows what there is"})
	})
	a.handler = a.admit(mux)
	return a, nil
}

// Handler serves /api/v1, /openapi.json, /openapi.yaml, /docs and /healthz. A
// server on a Unix socket must set ConnContext to access.ConnContext. Watches
// last until their request's context ends: end it (http.Server.BaseContext)
// before a graceful shutdown.
func (a *API) Handler() http.Handler { return a.handler }

// OpenAPI returns the description in YAML.
func (a *API) OpenAPI() ([]byte, error) { return a.huma.OpenAPI().YAML() }

func (a *API) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if _, err := a.store.Audit(ctx, 1); err != nil {
		a.log.Error("health check", "error", err)
		writeProblem(w, &Problem{Status: http.StatusServiceUnavailable, Detail: "the store does not answer; see the controller's log"})
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Write([]byte("ok " + version.Version + "\n"))
}
