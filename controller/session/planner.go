package session

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"weft/controller/observe"
	"weft/controller/plan"
	"weft/controller/store"
	"weft/model"
	"weft/wire"
	"weft/wire/wirepb"
)

// planned are the kinds that a plan is made of.
var planned = []model.Kind{model.KindHost, model.KindRelay, model.KindGroup, model.KindPolicy, model.KindTap, model.KindAlertRule, model.KindProbe}

// wholePlan is how often a plan is made from nothing, all the same: numbers of
// identities count as used when they are asked for.
const wholePlan = 24 * time.Hour

// Run plans until ctx ends, then ends every session. It is ready when the
// first plan is made; before that, sessions are told nothing.
func (s *Service) Run(ctx context.Context, ready func()) error {
	defer s.endAll(refuse(connect.CodeUnavailable, wire.ReasonStopping, "the controller is stopping"))
	var notes sync.WaitGroup
	defer notes.Wait()
	notes.Go(func() { s.noteSilence(ctx) })
	for ctx.Err() == nil {
		err := s.follow(ctx, ready)
		if ctx.Err() != nil {
			break
		}
		s.deps.Log.Warn("watch broke off; list everything again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}

// follow lists everything, then keeps to the watch until it breaks.
func (s *Service) follow(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	have, listed, oldest := &intent{}, map[model.Kind]int64{}, int64(0)
	for _, kind := range planned {
		list, rev, err := s.deps.Store.List(ctx, kind)
		if err != nil {
			return fmt.Errorf("list for the planner: %w", err)
		}
		have.fill(kind, list)
		listed[kind] = rev
		if oldest == 0 || rev < oldest {
			oldest = rev
		}
	}
	events := s.deps.Store.Watch(ctx, "", oldest)
	inventory := s.deps.Observer.InventoryChanged()
	s.replan(have)
	ready()
	// One dirty flag: the timer that runs while there is something to plan.
	dirty := time.NewTimer(time.Hour)
	dirty.Stop()
	pending := false
	mark := func() {
		if !pending {
			pending = true
			dirty.Reset(s.cfg.Debounce)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, open := <-events:
			if !open {
				return fmt.Errorf("watch of the store was closed")
			}
			kind := e.Resource.GetKind()
			if _, is := listed[kind]; !is || e.Revision <= listed[kind] {
				continue
			}
			s.apply(have, e)
			mark()
		case <-inventory:
			inventory = s.deps.Observer.InventoryChanged()
			mark()
		case <-dirty.C:
			pending = false
			s.replan(have)
		}
	}
}

// apply takes one change over, and cuts the sessions of the revoked at once.
func (s *Service) apply(have *intent, e store.Event) {
	kind, name, now := e.Resource.GetKind(), e.Resource.Meta().Name, e.Resource
	if e.Type == store.Deleted {
		now = nil
	}
	have.set(kind, name, now)
	if kind == model.KindHost || kind == model.KindRelay {
		s.cut(kind, name, now)
	}
}

// cut ends the sessions of a name that are not (or no longer) admitted.
func (s *Service) cut(kind model.Kind, name string, now model.Resource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.live {
		if k, _ := kindOf(l.id.Role); k != kind || l.id.Name != name {
			continue
		}
		switch {
		case now == nil || now.Meta().UID != l.id.UID:
			l.end(refuse(connect.CodePermissionDenied, wire.ReasonUnknown, "%s %q was deleted; %s", l.id.Role, name, again(l.id.Role)))
		case revoked(now):
			l.end(refuse(connect.CodePermissionDenied, wire.ReasonRevoked, "%s %q is revoked; %s", l.id.Role, name, again(l.id.Role)))
		}
	}
}

// replan computes the plan and hands every session its part.
func (s *Service) replan(have *intent) {
	i := observe.Intent{Hosts: have.hosts, Relays: have.relays, Groups: have.groups, Taps: have.taps, Policies: have.policies}
	s.deps.Observer.SetIntent(i)
	if s.planner == nil || s.now().Sub(s.planned) > wholePlan {
		s.planner, s.planned = &plan.Planner{}, s.now()
	}
	p := s.planner.Plan(plan.State{
		TrustDomain: s.cfg.TrustDomain, Hosts: i.Hosts, Relays: i.Relays, Groups: i.Groups, Policies: i.Policies, Taps: i.Taps, Rules: have.rules, Probes: have.probes,
		Workloads: s.deps.Observer.Workloads(), Interfaces: s.deps.Observer.Interfaces(), Filter: s.deps.Filter,
		Failsafe: s.cfg.Failsafe, Number: s.deps.Number, CallerKeys: s.deps.Observer.CallerKeys(),
	})
	changed := make(map[string]bool, len(p.Changed))
	for _, name := range p.Changed {
		changed[name] = true
	}
	s.mu.Lock()
	s.number(p)
	s.plan = p
	for _, l := range s.live {
		if l.id.Role == model.RoleHost && changed[l.id.Name] {
			l.want(s.sections(l.id))
		}
	}
	s.mu.Unlock()
	s.deps.Observer.Set(i, p)
}

// number gives every section its revision: that of the plan in which it last
// changed. Revisions are times, so that they grow across restarts too. Sections
// that are as before are the same as before, and have theirs.
func (s *Service) number(p *plan.Plan) {
	s.revision = max(s.revision+1, uint64(s.now().UnixMilli()))
	for _, name := range p.Changed {
		h := p.Hosts.Get(name)
		if h == nil {
			continue
		}
		for section, next := range h.Sections {
			if next.Revision != 0 {
				continue
			}
			next.Revision = s.revision
			if before := s.plan; before != nil && before.Hosts.Get(name) != nil {
				if last := before.Hosts.Get(name).Sections[section]; last != nil && last.Digest == next.Digest {
					next.Revision = last.Revision // a plan from nothing
				}
			}
		}
	}
}

// sections returns what an identity should have; nil before the first plan and
// for relays, which have none. The lock is held.
func (s *Service) sections(id wire.Identity) map[string]*wirepb.Section {
	if s.plan == nil || id.Role != model.RoleHost {
		return nil
	}
	if h := s.plan.Hosts.Get(id.Name); h != nil {
		return h.Sections
	}
	return nil
}

func (s *Service) endAll(why error) {
	s.mu.Lock()
	s.stopped = true
	sessions := slices.Collect(maps.Values(s.live))
	s.mu.Unlock()
	for _, l := range sessions {
		l.end(why)
	}
	for _, l := range sessions {
		<-l.done
	}
}
