package plan

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"unsafe"

	"weft/model"
	"weft/policy"
	"weft/wire/wirepb"
)

// Planner makes one plan after another, and does again only what a change
// touches. What it makes does not depend on that: a new Planner would make the
// same of the same state, except where policies do not compile, when hosts keep
// what the plan before gave them. The zero value is ready. Not safe for
// concurrent use; the plans are.
type Planner struct {
	state    State // sorted
	live     map[string]bool
	resolver *Resolver // of groups alone
	failsafe []*model.Policy
	options  string
	segments *segments
	plan     *Plan
}

// Compute makes a plan of a state alone.
func Compute(s State) *Plan { return new(Planner).Plan(s) }

// Plan makes the plan of a state.
func (p *Planner) Plan(s State) *Plan {
	last, first := p.state, p.plan == nil
	if first {
		p.plan = &Plan{}
	}
	var hosts difference[*model.Host]
	var relays difference[*model.Relay]
	var groups difference[*model.Group]
	var taps difference[*model.Tap]
	var rules difference[*model.AlertRule]
	var probes difference[*model.Probe]
	var c change
	s.Hosts, hosts = compare(last.Hosts, s.Hosts)
	s.Relays, relays = compare(last.Relays, s.Relays)
	s.Groups, groups = compare(last.Groups, s.Groups)
	s.Taps, taps = compare(last.Taps, s.Taps)
	s.Rules, rules = compare(last.Rules, s.Rules)
	s.Probes, probes = compare(last.Probes, s.Probes)
	s.Policies, c.policies = compare(last.Policies, s.Policies)
	s.Workloads, c.workloads = compare(last.Workloads, s.Workloads)
	c.keys = s.CallerKeys
	rekeyed := !sameKeys(last.CallerKeys, s.CallerKeys)
	c.interfaces, c.rewired = s.Interfaces, rewired(last.Interfaces, s.Interfaces)
	was := p.live
	if first || !hosts.empty() {
		p.live = map[string]bool{}
		for _, h := range s.Hosts {
			if !h.Spec.Revoked {
				p.live[h.Metadata.Name] = true
			}
		}
		if !maps.Equal(was, p.live) {
			c.hosts = p.live
		}
	}
	if rekeyed || !hosts.empty() {
		c.named = s.Hosts
	}
	if c.hosts != nil {
		_, c.workloads = compare(alive(last.Workloads, was), alive(s.Workloads, p.live))
	} else {
		c.workloads.gone, c.workloads.come = alive(c.workloads.gone, p.live), alive(c.workloads.come, p.live)
	}
	if first || !groups.empty() {
		p.resolver = NewResolver(s.Groups, nil)
	}
	p.state = s
	next := *p.plan
	next.Changed = nil
	sections := map[string][]*wirepb.Section{}
	lines := first || !hosts.empty() || !relays.empty() || !taps.empty() || len(s.Taps) > 0 && (!groups.empty() || len(c.rewired) > 0 || p.tapped(&c.workloads)) || p.quieted(&groups, &c.workloads) || !rules.empty() || !probes.empty() || p.relabelled(&c.workloads)
	if lines {
		base := compute{State: s, resolver: NewResolver(s.Groups, alive(s.Workloads, p.live))}
		next.Taps, sections = base.lines()
	}
	p.segment(&next, &c, sections, first, &groups)
	p.hand(&next, sections, c.hosts)
	p.plan = &next
	return &next
}

// alive leaves out what is on hosts that are revoked or unknown.
func alive(list []*model.Workload, live map[string]bool) []*model.Workload {
	i := slices.IndexFunc(list, func(w *model.Workload) bool { return !live[w.Spec.Host] })
	if i < 0 {
		return list
	}
	out := slices.Clone(list[:i])
	for _, w := range list[i:] {
		if live[w.Spec.Host] {
			out = append(out, w)
		}
	}
	return out
}

// rewired lists the hosts whose interfaces are others than before.
func rewired(last, next map[string][]model.Interface) []string {
	if reflect.ValueOf(last).Pointer() == reflect.ValueOf(next).Pointer() && len(last) == len(next) {
		return nil
	}
	var out []string
	for name, n := range next {
		if l := last[name]; len(l) != len(n) || unsafe.SliceData(l) != unsafe.SliceData(n) {
			out = append(out, name)
		}
	}
	for name := range last {
		if _, is := next[name]; !is {
			out = append(out, name)
		}
	}
	return out
}

// sameKeys says whether hosts have the same keys; a map that is the same is not
// looked through.
func sameKeys(last, next map[string][]byte) bool {
	return len(last) == len(next) && (reflect.ValueOf(last).Pointer() == reflect.ValueOf(next).Pointer() || maps.EqualFunc(last, next, bytes.Equal))
}

// tapped says whether a workload that has come or gone is at an end of a tap.
func (p *Planner) tapped(d *difference[*model.Workload]) bool {
	for _, list := range [][]*model.Workload{d.gone, d.come} {
		for _, w := range list {
			for _, t := range p.state.Taps {
				if p.resolver.touches(t, w.Metadata.Labels) {
					return true
				}
			}
		}
	}
	return false
}

// segment plans the sections of policy.
func (p *Planner) segment(next *Plan, c *change, sections map[string][]*wirepb.Section, first bool, groups *difference[*model.Group]) {
	options := FailsafeOf(p.state.Failsafe, p.state.Relays)
	if text := fmt.Sprint(options); first || text != p.options {
		p.options, p.failsafe, p.segments = text, policy.Failsafe(options), nil
	}
	moded := func(g *model.Group) bool { return g.Spec.Mode != "" }
	if !groups.empty() && (slices.ContainsFunc(p.state.Groups, moded) || slices.ContainsFunc(groups.gone, moded)) || p.state.Number == nil || p.segments != nil && p.segments.keysAfter(&c.policies) {
		p.segments = nil
	}
	policies := edit(next.policies)
	for _, x := range c.policies.gone {
		policies.delete(x.Metadata.Name)
	}
	for _, x := range c.policies.come {
		policies.set(x.Metadata.Name, plannedOf(x))
	}
	next.policies = policies.done()
	targets, identities, labels := next.targets, next.identities, next.labels
	if p.segments == nil {
		p.segments = newSegments(p.state.Number, p.resolver, p.state.Groups)
		targets, identities, labels = nil, nil, nil
		c.policies = difference[*model.Policy]{come: slices.Concat(p.failsafe, p.state.Policies)}
		c.workloads = difference[*model.Workload]{come: alive(p.state.Workloads, p.live)}
		c.hosts, c.rewired, c.named = p.live, nil, p.state.Hosts
	}
	g := p.segments
	g.targets, g.workloads, g.labels = edit(targets), edit(identities), edit(labels)
	g.put = func(host, name string, s *wirepb.Section) { sections[host] = append(sections[host], s) }
	err := g.apply(c)
	if errors.Is(err, errTwice) {
		err = p.explain(err)
	}
	if err != nil {
		// Neither open nor shut: hosts go on by what they have.
		p.segments = nil
		next.problem, next.workloads = err.Error(), alive(p.state.Workloads, p.live)
		for name, list := range sections {
			sections[name] = slices.DeleteFunc(list, func(s *wirepb.Section) bool { return s.Name == SectionPolicy || s.Name == SectionIdentity })
		}
		return
	}
	next.problem, next.workloads = "", nil
	next.targets, next.identities, next.labels = g.result()
}

// explain finds out what keeps policies from compiling, the slow way.
func (p *Planner) explain(err error) error {
	w := &policy.World{Failsafe: p.failsafe, Policies: p.state.Policies, Identities: policy.NewIdentities()}
	for _, w.Through = range []model.Stage{model.StageActive, model.StageStaged} {
		if _, why := policy.Compile(w); why != nil {
			return why
		}
	}
	return err
}

// hand gives hosts their sections; what is as before is what it was before.
func (p *Planner) hand(next *Plan, sections map[string][]*wirepb.Section, hosts map[string]bool) {
	table := edit(next.Hosts)
	if hosts != nil {
		for name := range p.plan.Hosts.All() {
			if !hosts[name] {
				table.delete(name)
				next.Changed = append(next.Changed, name)
			}
		}
	}
	for name, list := range sections {
		before := table.get(name)
		var after *Host
		for _, s := range list {
			if before != nil && before.Sections[s.Name].GetDigest() == s.Digest {
				continue
			}
			if after == nil {
				after = &Host{Sections: make(map[string]*wirepb.Section, len(Sections))}
				if before != nil {
					maps.Copy(after.Sections, before.Sections)
				}
			}
			if s.Name != SectionPolicy && s.Name != SectionIdentity {
				s = &wirepb.Section{Name: s.Name, Digest: s.Digest, Body: s.Body} // the revision is the host's own
			}
			after.Sections[s.Name] = s
		}
		if after != nil {
			table.set(name, after)
			next.Changed = append(next.Changed, name)
		} else if before == nil {
			table.set(name, &Host{Sections: map[string]*wirepb.Section{}})
		}
	}
	next.Hosts = table.done()
	slices.Sort(next.Changed)
}
