// Package agent keeps one machine in step with the controller: it holds a
// session, reports what is here, and makes the sections it is sent hold by
// handing each to its reconciler. It works by its last-known-good state where
// the controller is away, for as long as that lasts.
package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"weft/wire/wirepb"
	"weft/wire/wirepb/wirepbconnect"
)

// Config of an Agent. Zero durations take the defaults.
type Config struct {
	// Controller is the base URL, such as "https://controller.example.org:7443".
	Controller string
	Version    string // of this program
	// Now is the machine's own clock; time.Now unless given.
	Now func() time.Time
	// BootID of the machine; read from the kernel unless given.
	BootID string
	// BackoffMin and BackoffMax bound the pause between attempts: 500 ms and 30 s.
	BackoffMin, BackoffMax time.Duration
	// Resync is how often every section is applied again, to repair what was
	// changed behind our back; 30 s unless given.
	Resync time.Duration
	// Settle is how long changes of the inventory are gathered before sections
	// are applied again; 20 ms unless given.
	Settle time.Duration
}

// Inventory is what is found on this machine.
type Inventory interface {
	// Snapshot returns the present facts and workloads; nobody changes them.
	Snapshot() (*wirepb.HostFacts, []*wirepb.Workload)
	// Changed is closed when the next Snapshot may differ.
	Changed() <-chan struct{}
	// Complete is closed when the Snapshot holds what every source of it had to
	// say at first. The controller is told of nothing before: it would take the
	// labels that are still missing for gone, and the taps that name them with them.
	Complete() <-chan struct{}
}

// Reconciler makes a section's whole desired state hold: it changes only the
// difference, may be called again with the same, and returns the state of each
// part. It is never called twice at once. It must return when ctx ends.
type Reconciler func(ctx context.Context, s *wirepb.Section) ([]*wirepb.ItemStatus, error)

// Reporter gathers what is to be told, for as long as nobody hears it.
type Reporter interface {
	// Report returns what has gathered, or nil.
	Report() *wirepb.PolicyReport
	// Restore takes back a report that could not be sent.
	Restore(*wirepb.PolicyReport)
	// Conditions are what a person should know.
	Conditions() []*wirepb.Condition
}

// Batches are records of flows that wait for the controller.
type Batches interface {
	// Next returns the batch that follows another, the oldest where that is nil;
	// nil where there is none (yet).
	Next(after *wirepb.FlowAck) (*wirepb.FlowBatch, error)
	// Arrived is closed when there is another.
	Arrived() <-chan struct{}
	// Acknowledge forgets what the controller has kept.
	Acknowledge(*wirepb.FlowAck)
}

// Sampler looks at the machine.
type Sampler interface {
	// Sample is what the machine is doing, with its heaviest so many processes. It
	// has no rates where nobody has looked lately.
	Sample(processes int) (*wirepb.Sample, error)
}

// Captures sends packets of this machine while somebody captures.
type Captures interface {
	// Want begins what is ordered and ends what is not any more.
	Want(*wirepb.CaptureOrders)
	// Acknowledge makes room for what follows.
	Acknowledge(*wirepb.CaptureAck)
	// Pieces are for the session to send.
	Pieces() <-chan *wirepb.CapturePiece
	// HangUp ends all, as the session has.
	HangUp()
}

// Probes asks services while somebody wants it to.
type Probes interface {
	// Want begins what is ordered and ends what is not any more.
	Want(*wirepb.ProbeOrders)
	// Progress is for the session to send.
	Progress() <-chan *wirepb.ProbeProgress
	// HangUp ends all, as the session has.
	HangUp()
}

// Deps of an Agent. Lines, Policy, Flows, Samples, Captures, Probes, Turns, Alerts, CertificateExpires, CallerKey, Problem and Welcome may be nil.
type Deps struct {
	State *State
	// HTTP reaches the controller: HTTP/2 over TLS 1.3 with this machine's
	// certificate. It has no overall timeout, for a session lasts.
	HTTP        *http.Client
	Inventory   Inventory
	Reconcilers map[string]Reconciler
	// Lines is the present state of the lines this host is the source of.
	Lines func() *wirepb.LineReport
	// Policy tells what policy has done.
	Policy Reporter
	// Flows are what connections have done.
	Flows Batches
	// Samples are sent while somebody looks.
	Samples Sampler
	// Captures are what somebody captures here.
	Captures Captures
	// Probes are what somebody probes from here.
	Probes Probes
	// Turns are what came of scheduled probes.
	Turns func() *wirepb.ProbeReport
	// Alerts are conditions that alert rules have made of this machine.
	Alerts func() []*wirepb.Condition
	// CertificateExpires is when this machine's certificate does.
	CertificateExpires func() time.Time
	// CallerKey is the public key by which this machine tells others who calls.
	CallerKey []byte
	// Problem is what is wrong with this machine's identity, nil when nothing is.
	Problem func() error
	// Welcome sees each welcome before anything else is done with the session.
	Welcome func(*wirepb.Welcome)
	Log     *slog.Logger
}

// Agent is the sync loop.
type Agent struct {
	cfg      Config
	deps     Deps
	client   wirepbconnect.ControllerClient
	instance string
	applier  *applier
	offset   atomic.Int64

	mu         sync.Mutex
	conditions map[string]*wirepb.Condition
	status     Status
	changed    chan struct{} // a condition changed
}

// Status is what the agent says of itself to a person on the machine.
type Status struct {
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"`
	// Error is why the last attempt or session ended.
	Error      string         `json:"error,omitempty"`
	Controller string         `json:"controller"`
	Sections   []SectionState `json:"sections,omitempty"`
}

// SectionState is how far one section is.
type SectionState struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Error  string `json:"error,omitempty"`
}

// New makes an inert Agent.
func New(cfg Config, deps Deps) (*Agent, error) {
	if cfg.BootID == "" {
		raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return nil, fmt.Errorf("read boot id: %w", err)
		}
		cfg.BootID = strings.TrimSpace(string(raw))
	}
	if deps.State == nil || deps.HTTP == nil || deps.Inventory == nil {
		return nil, errors.New("agent needs a state directory, an HTTP client and an inventory")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	setDefault(&cfg.BackoffMin, 500*time.Millisecond)
	setDefault(&cfg.BackoffMax, 30*time.Second)
	setDefault(&cfg.Resync, 30*time.Second)
	setDefault(&cfg.Settle, 20*time.Millisecond)
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	var b [16]byte
	rand.Read(b[:])
	a := &Agent{cfg: cfg, deps: deps, client: wirepbconnect.NewControllerClient(deps.HTTP, cfg.Controller, clientOptions()...),
		instance: hex.EncodeToString(b[:]), conditions: map[string]*wirepb.Condition{}, changed: make(chan struct{})}
	a.status = Status{Controller: cfg.Controller, Since: time.Now()}
	a.applier = newApplier(cfg, deps, a.condition)
	return a, nil
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// Run applies the last-known-good sections at once and then keeps a session
// with the controller until ctx ends. Nothing the controller does or fails to
// do makes it return.
func (a *Agent) Run(ctx context.Context, ready func()) error {
	sections, faults := a.deps.State.Sections()
	for name, err := range faults {
		a.condition(ConditionStateDamaged, fmt.Sprintf("the last-known-good section %q was unreadable and has been set aside: %v; the section is empty until the controller sends it", name, err))
	}
	for _, s := range sections {
		a.applier.want(s)
	}
	a.deps.Log.Info("agent starts", "controller", a.cfg.Controller, "sections", len(sections), "instance", a.instance)
	applied := make(chan struct{})
	go func() {
		defer close(applied)
		a.applier.run(ctx)
	}()
	ready()
	a.keepSession(ctx)
	<-applied
	return nil
}

// Offset is how far the controller's clock is ahead of this machine's, as
// measured at the last welcome; zero before the first.
func (a *Agent) Offset() time.Duration { return time.Duration(a.offset.Load()) }

// Status returns what to tell a person.
func (a *Agent) Status() Status {
	a.mu.Lock()
	st := a.status
	a.mu.Unlock()
	for _, s := range a.applier.statuses() {
		st.Sections = append(st.Sections, SectionState{Name: s.Name, Digest: s.Digest, Error: s.Error})
	}
	return st
}

func (a *Agent) setStatus(connected bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.status.Connected != connected {
		a.status.Since = time.Now()
	}
	a.status.Connected, a.status.Error = connected, ""
	if err != nil {
		a.status.Error = err.Error()
	}
}

// The conditions that the agent itself reports.
const (
	// ConditionStateDamaged is set where last-known-good state could not be read.
	ConditionStateDamaged = "StateDamaged"
	// ConditionStateNotSaved is set while last-known-good state cannot be
	// written: the agent works on, but would start without it.
	ConditionStateNotSaved = "StateNotSaved"
	// ConditionIdentity is set where the certificate cannot be renewed.
	ConditionIdentity = "Identity"
)

// condition sets a condition, or clears it where the message is empty.
func (a *Agent) condition(typ, message string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.conditions[typ]
	switch {
	case old.GetMessage() == message:
		return
	case message == "":
		delete(a.conditions, typ)
		a.deps.Log.Info("condition over", "type", typ)
	default:
		since := a.cfg.Now().Unix()
		if old != nil {
			since = old.Since
		}
		a.conditions[typ] = &wirepb.Condition{Type: typ, Status: "True", Message: message, Since: since}
		a.deps.Log.Error("condition", "type", typ, "message", message)
	}
	close(a.changed)
	a.changed = make(chan struct{})
}
