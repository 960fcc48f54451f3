// Package observe holds what is true right now: which hosts and relays have a
// session, what their agents report, and what follows for the resources'
// status. It is memory; the little that a controller must still know after a
// restart (what each host last reported) is kept in a file, so that a plan made
// before every agent is back is the plan of before.
package observe

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
	"unsafe"

	"google.golang.org/protobuf/proto"

	"weft/controller/plan"
	"weft/model"
	"weft/wire"
	"weft/wire/wirepb"
)

// Config of an Observer.
type Config struct {
	// File keeps the last reports across restarts; none are kept where it is empty.
	File string
	// Conversations is the file that keeps rule counters and conversations.
	Conversations string
	// Claims are the labels that agents may claim where neither the host nor its
	// join token says; empty is any.
	Claims model.Claims
}

// Deps of an Observer. Both may be nil.
type Deps struct {
	// Groups reads the groups as stored at this moment. Members and PreviewTap
	// use it so that they see a group the very moment its write has returned,
	// and not when the planner has; where it is nil they see the planner's.
	Groups func(ctx context.Context) ([]*model.Group, error)
	Log    *slog.Logger
}

// Observer is safe for concurrent use. What it returns is the caller's, except
// the workloads, which nobody changes.
type Observer struct {
	cfg  Config
	deps Deps
	now  func() time.Time
	// began is when this controller did.
	began time.Time

	mu           sync.Mutex
	hosts        map[string]*host  // by UID
	relays       map[string]*relay // by UID
	intent       Intent
	plan         *plan.Plan
	inventoried  inventory
	uids         map[string]string // of the hosts stored, by name
	unsaved      bool
	people       *people // built on demand; nil is stale
	talk         *conversations
	totals       map[uint64]Hits // of rules, by id
	staged       map[string]Hits // built on demand; nil is stale
	unread, lost uint64          // conversations
	// unsavedTalk says that the file of conversations is behind.
	unsavedTalk bool
	changed     chan struct{}
	inventory   chan struct{}
	own         map[own]model.Condition // the controller's
}

// Intent is what is stored, as far as status depends on it.
type Intent struct {
	Hosts    []*model.Host
	Relays   []*model.Relay
	Groups   []*model.Group
	Taps     []*model.Tap
	Policies []*model.Policy
}

// Peer describes the far end of a session.
type Peer struct {
	Version string // of the program
	BootID  string
	Remote  string        // where the connection comes from, "ADDRESS:PORT"
	Skew    time.Duration // its clock minus ours
}

type host struct {
	online    bool
	peer      Peer
	lastSeen  time.Time
	gone      time.Time // when the last session ended, as far as this controller saw
	facts     *wirepb.HostFacts
	workloads map[string]*wirepb.Workload // by id
	sections  map[string]*wirepb.SectionStatus
	lines     map[string]*wirepb.LineStatus
	probes    map[string]*wirepb.ProbeTurn // scheduled ones, by name
	probed    uint64                       // questions, of all its probes
	rings     []*wirepb.RingStatus
	drops     map[string]uint64 // packets, by reason
	skewSince time.Time
	policy    *counters // nil before the first report
}

type relay struct {
	online   bool
	peer     Peer
	lastSeen time.Time
	report   *wirepb.RelayReport
}

// New reads the file of last reports, where there is one. A damaged file is
// logged and passed over: the agents will report again.
func New(cfg Config, deps Deps) *Observer {
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	o := &Observer{cfg: cfg, deps: deps, now: time.Now, hosts: map[string]*host{}, relays: map[string]*relay{}, talk: newConversations(), totals: map[uint64]Hits{},
		changed: make(chan struct{}), inventory: make(chan struct{}), own: map[own]model.Condition{}}
	o.began = o.now()
	o.load()
	o.loadTalk()
	return o
}

// Changed is closed at the next change of anything.
func (o *Observer) Changed() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.changed
}

// InventoryChanged is closed at the next change that a plan depends on: of
// workloads or of facts.
func (o *Observer) InventoryChanged() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.inventory
}

// touch wakes those who wait; the lock is held.
func (o *Observer) touch(inventory bool) {
	close(o.changed)
	o.changed = make(chan struct{})
	if inventory {
		o.people, o.unsaved = nil, true
		close(o.inventory)
		o.inventory = make(chan struct{})
	}
}

func (o *Observer) host(uid string) *host {
	h := o.hosts[uid]
	if h == nil {
		h = &host{workloads: map[string]*wirepb.Workload{}, sections: map[string]*wirepb.SectionStatus{}, lines: map[string]*wirepb.LineStatus{}}
		o.hosts[uid] = h
	}
	return h
}

// Connected records a session's begin; sections are what its agent works by.
func (o *Observer) Connected(id wire.Identity, p Peer, sections []*wirepb.SectionStatus) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if id.Role == model.RoleRelay {
		r := o.relays[id.UID]
		if r == nil {
			r = &relay{}
			o.relays[id.UID] = r
		}
		r.online, r.peer, r.lastSeen = true, p, o.now()
	} else {
		h := o.host(id.UID)
		h.online, h.lastSeen = true, o.now()
		o.setPeer(h, p)
		h.sections = map[string]*wirepb.SectionStatus{}
		for _, s := range sections {
			h.sections[s.Name] = s
		}
	}
	o.touch(false)
}

func (o *Observer) setPeer(h *host, p Peer) {
	if skewed(p.Skew) && !skewed(h.peer.Skew) {
		h.skewSince = o.now()
	}
	h.peer = p
}

// Disconnected records a session's end.
func (o *Observer) Disconnected(id wire.Identity) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := o.relays[id.UID]; r != nil {
		r.online, r.lastSeen = false, o.now()
	}
	if h := o.hosts[id.UID]; h != nil {
		h.online, h.gone = false, o.now()
		o.unsaved = true
	}
	o.touch(false)
}

// Seen records a sign of life and the clock's distance. It wakes nobody unless
// the clock went wrong or right.
func (o *Observer) Seen(id wire.Identity, skew time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := o.relays[id.UID]; r != nil {
		r.lastSeen = o.now()
	}
	if h := o.hosts[id.UID]; h != nil {
		h.lastSeen = o.now()
		p, turned := h.peer, skewed(skew) != skewed(h.peer.Skew)
		p.Skew = skew
		o.setPeer(h, p)
		if turned {
			o.touch(false)
		}
	}
}

// Facts records what a host's agent says of the machine.
func (o *Observer) Facts(id wire.Identity, f *wirepb.HostFacts) {
	f = cleanFacts(f)
	o.mu.Lock()
	defer o.mu.Unlock()
	h := o.host(id.UID)
	inventory := !proto.Equal(inventoryFacts(h.facts), inventoryFacts(f))
	h.facts = f
	if inventory {
		o.inventoried.dirty(id.UID)
	}
	o.touch(inventory)
}

// inventoryFacts is the part of the facts that plans and labels depend on.
func inventoryFacts(f *wirepb.HostFacts) *wirepb.HostFacts {
	return &wirepb.HostFacts{Interfaces: f.GetInterfaces(), Labels: f.GetLabels(), CallerKey: f.GetCallerKey()}
}

// Workloads records a full or partial report of a host's workloads. The error
// is the reporter's fault: more than a host may have.
func (o *Observer) ReportWorkloads(id wire.Identity, u *wirepb.WorkloadUpdate) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	h := o.host(id.UID)
	next := map[string]*wirepb.Workload{}
	if !u.Full {
		maps.Copy(next, h.workloads)
	}
	for _, w := range u.Upserts {
		if w = cleanWorkload(w); w != nil {
			next[w.Id] = w
		}
	}
	for _, gone := range u.Deletes {
		delete(next, gone)
	}
	if len(next) > MaxWorkloads {
		return fmt.Errorf("%d workloads on one host; %d at most", len(next), MaxWorkloads)
	}
	if !maps.EqualFunc(h.workloads, next, func(a, b *wirepb.Workload) bool { return proto.Equal(a, b) }) {
		h.workloads = next
		o.inventoried.dirty(id.UID)
		o.touch(true)
	}
	return nil
}

// Section records an acknowledgement.
func (o *Observer) Section(id wire.Identity, s *wirepb.SectionStatus) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.host(id.UID).sections[s.Name] = s
	o.touch(false)
}

// Lines records the present state of a host's lines.
func (o *Observer) Lines(id wire.Identity, r *wirepb.LineReport) {
	o.mu.Lock()
	defer o.mu.Unlock()
	lines := make(map[string]*wirepb.LineStatus, len(r.Lines))
	for _, l := range r.Lines {
		lines[l.Line] = l
	}
	h := o.host(id.UID)
	h.lines, h.rings = lines, cleanRings(r.Rings)
	o.touch(false)
}

// Probes records what has come of a host's scheduled probes.
func (o *Observer) Probes(id wire.Identity, r *wirepb.ProbeReport) {
	turns := make(map[string]*wirepb.ProbeTurn, min(len(r.GetTurns()), model.MaxProbes))
	for _, t := range r.GetTurns()[:min(len(r.GetTurns()), model.MaxProbes)] {
		if proto.Size(t) <= maxTurn {
			turns[t.GetName()] = t
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	h := o.host(id.UID)
	h.probes, h.probed = turns, r.GetAsked()
	o.touch(false)
}

// Relay records what a relay says of itself.
func (o *Observer) Relay(id wire.Identity, r *wirepb.RelayReport) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if known := o.relays[id.UID]; known != nil {
		known.report = r
		o.touch(false)
	}
}

// Set records what is stored and what was planned from it.
func (o *Observer) Set(i Intent, p *plan.Plan) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.setIntent(i)
	o.plan = p
	o.forget()
	o.touch(false)
}

// SetIntent records what is stored, ahead of the plan that will follow: the
// labels of workloads come partly from it.
func (o *Observer) SetIntent(i Intent) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.setIntent(i)
}

func (o *Observer) setIntent(i Intent) {
	if o.uids == nil || !sameList(o.intent.Hosts, i.Hosts) {
		o.inventoried.stale, o.people, o.uids = true, nil, make(map[string]string, len(i.Hosts))
		for _, h := range i.Hosts {
			o.uids[h.Metadata.Name] = h.Metadata.UID
		}
	}
	o.intent = i
}

// sameList says whether two lists hold the same resources; none is ever changed.
func sameList[R comparable](a, b []R) bool {
	return len(a) == len(b) && (unsafe.SliceData(a) == unsafe.SliceData(b) || slices.Equal(a, b))
}

// forget drops reports of hosts and relays that exist no more.
func (o *Observer) forget() {
	known := map[string]bool{}
	for _, h := range o.intent.Hosts {
		known[h.Metadata.UID] = true
	}
	for _, r := range o.intent.Relays {
		known[r.Metadata.UID] = true
	}
	for uid, h := range o.hosts {
		if !known[uid] && !h.online {
			delete(o.hosts, uid)
			o.unsaved = true
		}
	}
	for uid, r := range o.relays {
		if !known[uid] && !r.online {
			delete(o.relays, uid)
		}
	}
}
