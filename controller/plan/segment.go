package plan

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"weft/model"
	"weft/policy"
	"weft/wire/wirepb"
)

// Policy says whom a policy is about, and what stands in its way.
type Policy struct {
	UID       string
	Workloads int
	Hosts     []string // by name
	Problem   string   // keeps every policy from being applied
}

// hostSegment is what a host's sections of policy were made from.
type hostSegment struct {
	compiled  *compiled
	addresses []*wirepb.AddressIdentity // the fleet's, shared
	subjects  []subject
	own       []located
	hidden    map[netip.Addr]bool
	// Who tells whom who calls.
	self          *peer // nil where this host takes no part
	peers         []*peer
	selfAddresses []netip.Addr
	bearers       []subject
}

type subject struct {
	workload         string
	identity         policy.Identity
	enforced, staged *policy.Ruleset
}

func (h *hostSegment) same(o *hostSegment) bool {
	return o != nil && h.compiled == o.compiled && slices.Equal(h.addresses, o.addresses) && slices.Equal(h.subjects, o.subjects) &&
		slices.Equal(h.own, o.own) && maps.Equal(h.hidden, o.hidden) &&
		h.self == o.self && slices.Equal(h.peers, o.peers) && slices.Equal(h.selfAddresses, o.selfAddresses) && slices.Equal(h.bearers, o.bearers)
}

// FailsafeOf completes the options with what follows from the relays.
func FailsafeOf(o policy.FailsafeOptions, relays []*model.Relay) policy.FailsafeOptions {
	ports := map[int]bool{}
	for _, r := range relays {
		for _, a := range r.Spec.Addresses {
			if ap, err := strconv.Atoi(portOf(a)); err == nil && !r.Spec.Revoked {
				ports[ap] = true
			}
		}
	}
	o.RelayPorts, o.StreamPort = slices.Sorted(maps.Keys(ports)), DirectPort
	return o
}

func portOf(address string) string {
	for i := len(address) - 1; i >= 0; i-- {
		if address[i] == ':' {
			return address[i+1:]
		}
	}
	return ""
}

// segment plans the sections of policy.
func (c *compute) segment() {
	last := c.Last
	if last == nil {
		last = &Plan{}
	}
	counting := slices.DeleteFunc(slices.Clone(c.Policies), func(p *model.Policy) bool { return p.Spec.StageOrDefault() == model.StageDraft })
	options := FailsafeOf(c.Failsafe, c.Relays)
	w, err := NewWorld(WorldInput{Policies: counting, Failsafe: policy.Failsafe(options), Groups: c.Groups, Workloads: c.workloads, Number: c.Number, Last: last.World})
	var comp *compiled
	if err == nil {
		comp, err = compile(w, fmt.Sprint(options), last.compiled)
	}
	for _, p := range c.Policies {
		c.plan.Policies[p.Metadata.Name] = c.target(p, err)
	}
	if err != nil {
		// Neither open nor shut: hosts go on by what they have.
		c.plan.World, c.plan.compiled, c.plan.fleet, c.plan.peers = last.World, last.compiled, last.fleet, last.peers
		for name, h := range c.plan.Hosts {
			if before := last.Hosts[name]; before != nil {
				h.segment = before.segment
				h.take(before)
			}
		}
		return
	}
	fleet, own := addresses(c.workloads, c.Interfaces, w.ByWorkload)
	c.plan.World, c.plan.compiled, c.plan.fleet = w, comp, newAddressBook(fleet, last.fleet)
	subjects := map[string][]subject{}
	for _, wl := range c.workloads {
		if id := w.ByWorkload[wl.Metadata.Name]; w.Subjects[id] {
			subjects[wl.Spec.Host] = append(subjects[wl.Spec.Host], subject{WorkloadID(wl), id, comp.enforced.For(id), comp.staged.For(id)})
		}
	}
	byHost := map[string][]*model.Workload{}
	for _, wl := range c.workloads {
		byHost[wl.Spec.Host] = append(byHost[wl.Spec.Host], wl)
	}
	c.plan.peers = c.newPeerBook(w.ByWorkload, last.peers)
	pairs := c.plan.peers.asked(comp, subjects)
	for name, h := range c.plan.Hosts {
		h.segment = &hostSegment{compiled: comp, subjects: subjects[name]}
		if pairs[name] != nil {
			h.segment.self, h.segment.peers, h.segment.selfAddresses = c.plan.peers.peers[name], pairs[name], c.plan.peers.own[name]
			h.segment.bearers = bearers(byHost[name], w.ByWorkload, subjects[name])
		}
		if len(h.segment.subjects) > 0 {
			slices.SortFunc(h.segment.subjects, func(a, b subject) int { return cmp.Compare(a.workload, b.workload) })
			h.segment.addresses = c.plan.fleet.wire
			h.segment.own, h.segment.hidden = c.plan.fleet.view(own[name])
		}
		if before := last.Hosts[name]; before != nil && h.segment.same(before.segment) {
			h.take(before)
			continue
		}
		h.encode(c.plan.fleet)
	}
}

// take takes the sections of policy over from an earlier plan. The revision is
// the section's own, so each plan has a section of its own.
func (h *Host) take(before *Host) {
	for _, name := range []string{SectionPolicy, SectionIdentity} {
		if s := before.Sections[name]; s != nil {
			h.Sections[name] = &wirepb.Section{Name: s.Name, Digest: s.Digest, Body: s.Body}
		}
	}
}

func (c *compute) target(p *model.Policy, err error) *Policy {
	out := &Policy{UID: p.Metadata.UID}
	if err != nil {
		out.Problem = err.Error()
	}
	hosts := map[string]bool{}
	for _, w := range c.workloads {
		if p.Spec.Subject.Selector.Matches(w.Metadata.Labels) {
			out.Workloads++
			hosts[w.Spec.Host] = true
		}
	}
	out.Hosts = slices.Sorted(maps.Keys(hosts))
	return out
}

// encode writes the sections of policy.
func (h *Host) encode(fleet *addressBook) {
	s := h.segment
	rulesets, selectors, everybody := map[string]*wirepb.Ruleset{}, map[string]model.Selector{}, false
	use := func(r *policy.Ruleset) string {
		e := s.compiled.ruleset(r)
		rulesets[e.wire.Key] = e.wire
		everybody = everybody || e.everybody
		for _, sel := range e.selectors {
			selectors[sel.String()] = sel
		}
		return e.wire.Key
	}
	who := &wirepb.IdentitySection{}
	for _, one := range s.subjects {
		out := &wirepb.PolicySubject{Workload: one.workload, Identity: uint32(one.identity), Ruleset: use(one.enforced)}
		if key := use(one.staged); key != out.Ruleset {
			out.Staged = key
		}
		who.Subjects = append(who.Subjects, out)
	}
	wanted := map[uint32]bool{}
	for _, text := range slices.Sorted(maps.Keys(selectors)) {
		m := &wirepb.SelectorMembers{Selector: text, Identities: s.compiled.of(selectors[text])}
		who.Selectors = append(who.Selectors, m)
		for _, id := range m.Identities {
			wanted[id] = true
		}
	}
	who.Addresses = s.book(fleet, func(id policy.Identity) bool { return everybody || wanted[uint32(id)] })
	s.encodePeers(who)
	rules := &wirepb.PolicySection{}
	for _, key := range slices.Sorted(maps.Keys(rulesets)) {
		rules.Rulesets = append(rules.Rulesets, rulesets[key])
	}
	h.Sections[SectionPolicy] = seal(SectionPolicy, &wirepb.Section{Body: &wirepb.Section_Policy{Policy: rules}})
	h.Sections[SectionIdentity] = seal(SectionIdentity, &wirepb.Section{Body: &wirepb.Section_Identity{Identity: who}})
}

// book lists the addresses that a host needs, ascending.
func (h *hostSegment) book(fleet *addressBook, wanted func(policy.Identity) bool) []*wirepb.AddressIdentity {
	if len(h.subjects) == 0 {
		return nil
	}
	own := encodeAddresses(h.own)
	var out []*wirepb.AddressIdentity
	add := func(l located, w *wirepb.AddressIdentity) {
		if !h.hidden[l.addr] && wanted(l.id) {
			out = append(out, w)
		}
	}
	i, k := 0, 0
	for i < len(fleet.list) || k < len(h.own) {
		if k == len(h.own) || i < len(fleet.list) && byAddress(fleet.list[i], h.own[k]) < 0 {
			add(fleet.list[i], fleet.wire[i])
			i++
		} else {
			add(h.own[k], own[k])
			k++
		}
	}
	return out
}
