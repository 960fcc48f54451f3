package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"weft/wire/wirepb"
)

// lanes are sections that do not wait for those of another lane: to load the
// programs of policy takes a while, and a tap should not. Within a lane they are
// applied in this order: a stream needs a way to travel and somebody who accepts it
// before it is opened.
var lanes = [...][]string{{"transport", "deliver", "capture"}, {"flow", "policy", "identity"}, {"monitor", "probe"}}

// laneOf is a section's lane, and its place in there. Of those that nobody knows
// somebody has to say so.
func laneOf(name string) (lane, place int) {
	for lane, names := range lanes {
		if i := slices.Index(names, name); i >= 0 {
			return lane, i
		}
	}
	return 0, len(lanes[0])
}

// retryMin and retryMax bound the pause before a failed section is tried again.
const (
	retryMin = time.Second
	retryMax = 30 * time.Second
)

// applier hands sections to their reconcilers, those of a lane one after another.
// Of several versions of a section only the last is applied.
type applier struct {
	cfg       Config
	deps      Deps
	condition func(typ, message string)

	mu      sync.Mutex
	desired map[string]*wirepb.Section
	dirty   map[string]bool
	unsaved map[string]bool
	status  map[string]*wirepb.SectionStatus
	changed chan struct{}             // closed when a status changes
	wake    [len(lanes)]chan struct{} // each holds one
}

func newApplier(cfg Config, deps Deps, condition func(typ, message string)) *applier {
	p := &applier{cfg: cfg, deps: deps, condition: condition, desired: map[string]*wirepb.Section{}, dirty: map[string]bool{},
		unsaved: map[string]bool{}, status: map[string]*wirepb.SectionStatus{}, changed: make(chan struct{})}
	for lane := range p.wake {
		p.wake[lane] = make(chan struct{}, 1)
	}
	return p
}

// want makes a section the desired one. It never blocks on a reconciler.
func (p *applier) want(s *wirepb.Section) {
	p.mu.Lock()
	p.desired[s.Name] = s
	p.dirty[s.Name] = true
	p.mu.Unlock()
	p.poke()
}

// receive is want for a section that came from the controller and is not on
// disk yet.
func (p *applier) receive(s *wirepb.Section) {
	p.mu.Lock()
	p.unsaved[s.Name] = true
	p.mu.Unlock()
	p.want(s)
}

// clear empties every section and forgets it: this machine was put out.
func (p *applier) clear() {
	p.mu.Lock()
	names := slices.Collect(maps.Keys(p.desired))
	p.mu.Unlock()
	for _, name := range names {
		if err := p.deps.State.Forget(name); err != nil {
			p.deps.Log.Warn("forget last-known-good section", "error", err)
		}
		p.want(emptySection(name))
	}
}

func emptySection(name string) *wirepb.Section {
	s := &wirepb.Section{Name: name}
	switch name {
	case "transport":
		s.Body = &wirepb.Section_Transport{Transport: &wirepb.TransportSection{}}
	case "deliver":
		s.Body = &wirepb.Section_Deliver{Deliver: &wirepb.DeliverSection{}}
	case "capture":
		s.Body = &wirepb.Section_Capture{Capture: &wirepb.CaptureSection{}}
	case "monitor":
		s.Body = &wirepb.Section_Monitor{Monitor: &wirepb.MonitorSection{}}
	case "probe":
		s.Body = &wirepb.Section_Probe{Probe: &wirepb.ProbeSection{}}
	case "flow":
		s.Body = &wirepb.Section_Flow{Flow: &wirepb.FlowSection{}}
	case "policy":
		s.Body = &wirepb.Section_Policy{Policy: &wirepb.PolicySection{}}
	case "identity":
		s.Body = &wirepb.Section_Identity{Identity: &wirepb.IdentitySection{}}
	}
	return s
}

func (p *applier) poke() {
	for _, wake := range p.wake {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

// run applies until ctx ends.
func (p *applier) run(ctx context.Context) {
	var all sync.WaitGroup
	for lane := range lanes {
		all.Go(func() { p.runLane(ctx, lane) })
	}
	all.Wait()
}

func (p *applier) runLane(ctx context.Context, lane int) {
	resync := time.NewTicker(p.cfg.Resync)
	defer resync.Stop()
	retry := time.NewTimer(time.Hour)
	retry.Stop()
	pause := retryMin
	inventory := p.deps.Inventory.Changed()
	for {
		if failed := p.applyDirty(ctx, lane); failed {
			retry.Reset(pause)
			pause = min(2*pause, retryMax)
		} else {
			pause = retryMin
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake[lane]:
		case <-retry.C:
			p.mark(lane, func(s *wirepb.SectionStatus) bool { return s.GetError() != "" })
		case <-resync.C:
			p.mark(lane, func(*wirepb.SectionStatus) bool { return true })
		case <-inventory:
			// What a section names may have come, gone or moved.
			sleep(ctx, p.cfg.Settle)
			inventory = p.deps.Inventory.Changed()
			p.mark(lane, func(*wirepb.SectionStatus) bool { return true })
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// mark makes sections of a lane be applied again.
func (p *applier) mark(lane int, which func(*wirepb.SectionStatus) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.desired {
		if at, _ := laneOf(name); at == lane && which(p.status[name]) {
			p.dirty[name] = true
		}
	}
}

// applyDirty works until no section of a lane waits, and says whether any failed.
func (p *applier) applyDirty(ctx context.Context, lane int) (failed bool) {
	for ctx.Err() == nil {
		section, save := p.take(lane)
		if section == nil {
			return failed
		}
		if save {
			p.save(section)
		}
		failed = p.apply(ctx, section) || failed
	}
	return failed
}

func (p *applier) take(lane int) (section *wirepb.Section, save bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name, first := "", 0
	for n := range p.dirty {
		at, place := laneOf(n)
		if at == lane && (name == "" || place < first || place == first && n < name) {
			name, first = n, place
		}
	}
	if name == "" {
		return nil, false
	}
	save = p.unsaved[name]
	delete(p.dirty, name)
	delete(p.unsaved, name)
	return p.desired[name], save
}

// save keeps a section before it is applied. Where that cannot be, a condition
// says so and the agent goes on: a full disk must not stop a tap.
func (p *applier) save(s *wirepb.Section) {
	err := p.deps.State.Save(s)
	p.mu.Lock()
	if err != nil {
		p.unsaved[s.Name] = true // tried again at the next resync
	} else {
		for name := range p.unsaved {
			p.dirty[name] = true // there is room again for this one, and so perhaps for others
		}
	}
	clean := len(p.unsaved) == 0
	p.mu.Unlock()
	if err == nil && !clean {
		p.poke()
	}
	switch {
	case err != nil:
		p.condition(ConditionStateNotSaved, fmt.Sprintf("%v; the agent works on, and would start from the older state: free space in %s", err, p.deps.State.Dir()))
	case clean:
		p.condition(ConditionStateNotSaved, "")
	}
}

func (p *applier) apply(ctx context.Context, s *wirepb.Section) (failed bool) {
	var items []*wirepb.ItemStatus
	var err error
	if r := p.deps.Reconcilers[s.Name]; r != nil {
		items, err = r(ctx, s)
	} else {
		err = errors.New("this agent knows no such section; upgrade it")
	}
	if ctx.Err() != nil {
		return false // stopping: an error says nothing about the state
	}
	st := &wirepb.SectionStatus{Name: s.Name, Revision: s.Revision, Digest: s.Digest, Items: items}
	if err != nil {
		st.Error = err.Error()
	}
	p.mu.Lock()
	old := p.status[s.Name]
	if !proto.Equal(old, st) {
		p.status[s.Name] = st
		close(p.changed)
		p.changed = make(chan struct{})
	}
	p.mu.Unlock()
	switch {
	case err != nil && old.GetError() != st.Error:
		p.deps.Log.Error("apply section", "section", s.Name, "digest", s.Digest, "error", err)
	case old.GetDigest() != st.Digest:
		p.deps.Log.Info("section applied", "section", s.Name, "digest", s.Digest, "revision", s.Revision)
	}
	return err != nil
}

// statuses returns the state of every section, by name.
func (p *applier) statuses() []*wirepb.SectionStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*wirepb.SectionStatus, 0, len(p.status))
	for _, name := range slices.Sorted(maps.Keys(p.status)) {
		out = append(out, p.status[name])
	}
	return out
}

// works are the sections that are held or about to be: what Hello names, so
// that the controller sends none of them again.
func (p *applier) works() []*wirepb.SectionStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*wirepb.SectionStatus
	for _, name := range slices.Sorted(maps.Keys(p.desired)) {
		s := p.desired[name]
		if s.Digest == "" {
			continue // emptied by us: the controller's own has a digest
		}
		if st := p.status[name]; st.GetDigest() == s.Digest {
			out = append(out, st)
		} else {
			out = append(out, &wirepb.SectionStatus{Name: name, Revision: s.Revision, Digest: s.Digest, Error: "being applied"})
		}
	}
	return out
}

func (p *applier) changes() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}
