package policy

import (
	"encoding/binary"
	"fmt"
	"slices"

	"weft/model"
)

// Set is a compiled world: a ruleset for every identity.
type Set struct {
	identities *Identities
	rulesets   map[Identity]*Ruleset
	distinct   []*Ruleset
}

// For returns the ruleset of an identity, nil for 0 and for an unknown one.
func (s *Set) For(id Identity) *Ruleset { return s.rulesets[id] }

// Rulesets returns the distinct ones, in the order of the first identity of each.
func (s *Set) Rulesets() []*Ruleset { return s.distinct }

// Prepared is one policy with its rules made ready for sharing. Read only.
type Prepared struct {
	Policy *model.Policy
	Rules  [2][]*Rule // by Direction
}

// Prepare reads one policy. It fails where Validate would, and where two of its
// rules have one id; that no other policy has the id is the caller's to see to.
func Prepare(p *model.Policy) (*Prepared, error) {
	c, err := compilePolicy(p, map[RuleID]string{})
	if err != nil {
		return nil, fmt.Errorf("compile policy %s: %w", p.Metadata.Name, err)
	}
	return c, nil
}

// Assemble makes the ruleset of subjects that these policies are about, sorted by
// name. It is what Compile makes for them.
func Assemble(about []*Prepared, mode model.Mode) *Ruleset {
	out := &Ruleset{Mode: mode}
	for _, d := range []Direction{Ingress, Egress} {
		t := out.table(d)
		var isolating []Default
		always := false
		for _, one := range about {
			t.Rules = append(t.Rules, one.Rules[d]...)
			if p := one.Policy; mode == model.ModeSelective && isolates(p, d) {
				isolating = append(isolating, Default{Processes: p.Spec.Subject.Processes, Action: model.ActionDeny})
				always = always || len(p.Spec.Subject.Processes) == 0
			}
		}
		if order := func(a, b *Rule) int { return a.place.compare(b.place) }; !slices.IsSortedFunc(t.Rules, order) {
			slices.SortStableFunc(t.Rules, order)
		}
		switch {
		case mode == model.ModeEnforce || always:
			t.Defaults = []Default{{Action: model.ActionDeny}}
		default:
			t.Defaults = append(isolating, Default{Action: model.ActionAllow})
		}
		t.index()
	}
	return out
}

// Compile makes rulesets of a world. It fails on a policy Validate would refuse,
// and where two rules have one id (two policies of one name, as a rule).
func Compile(w *World) (*Set, error) { return CompileFor(w, w.Identities.All()) }

// CompileFor is Compile for some of the identities: the Set knows no others.
func CompileFor(w *World, ids []Identity) (*Set, error) {
	var list []*Prepared
	seen := map[RuleID]string{}
	bySelector := map[string][]int{}
	var selectors []model.Selector
	for _, p := range w.all() {
		if !w.counts(p) {
			continue
		}
		c, err := compilePolicy(p, seen)
		if err != nil {
			return nil, fmt.Errorf("compile policy %s: %w", p.Metadata.Name, err)
		}
		text := p.Spec.Subject.Selector.String()
		if bySelector[text] == nil {
			selectors = append(selectors, *p.Spec.Subject.Selector)
		}
		bySelector[text] = append(bySelector[text], len(list))
		list = append(list, c)
	}
	matched := map[Identity][]byte{} // subject selectors of an identity, four bytes each
	for i, s := range selectors {
		for it := w.Identities.Members(s).Iterator(); it.HasNext(); {
			id := Identity(it.Next())
			matched[id] = binary.BigEndian.AppendUint32(matched[id], uint32(i))
		}
	}
	out := &Set{identities: w.Identities, rulesets: map[Identity]*Ruleset{}}
	shared := map[string]*Ruleset{}
	for _, id := range ids {
		key := string(w.mode(id)) + "\x00" + string(matched[id])
		if shared[key] == nil {
			var own []int
			for m := matched[id]; len(m) > 0; m = m[4:] {
				own = append(own, bySelector[selectors[binary.BigEndian.Uint32(m)].String()]...)
			}
			slices.Sort(own)
			about := make([]*Prepared, len(own))
			for i, n := range own {
				about[i] = list[n]
			}
			shared[key] = Assemble(about, w.mode(id))
			out.distinct = append(out.distinct, shared[key])
		}
		out.rulesets[id] = shared[key]
	}
	return out, nil
}

func compilePolicy(p *model.Policy, seen map[RuleID]string) (*Prepared, error) {
	c := &Prepared{Policy: p}
	if p.Spec.Subject.Selector == nil {
		return c, fmt.Errorf(`spec.subject.selector is missing; write "*" to take every workload`)
	}
	for _, d := range []Direction{Ingress, Egress} {
		rules := rulesOf(p, d)
		for i := range rules {
			r, err := compileRule(p, d, &rules[i], i)
			if err != nil {
				return c, fmt.Errorf("%s rule %s: %w", d, ruleLabel(&rules[i], i), err)
			}
			at := r.Name + " of policy " + p.Metadata.Name
			if other, dup := seen[r.ID]; dup {
				return c, fmt.Errorf("%s rule %s has the id of %s; rename one of them", d, at, other)
			}
			seen[r.ID] = at
			c.Rules[d] = append(c.Rules[d], r)
		}
	}
	return c, nil
}

func compileRule(p *model.Policy, d Direction, r *model.PolicyRule, index int) (*Rule, error) {
	out := &Rule{ID: MakeRuleID(p, d, index), Tier: p.Spec.TierOrDefault(), Policy: p.Metadata.Name, Name: ruleLabel(r, index),
		Action: r.Action, Stateful: p.Spec.IsStateful(), Processes: p.Spec.Subject.Processes, place: placeOf(p, r, index)}
	for i := range r.Ports {
		number, ok := r.Ports[i].ProtocolNumber()
		if !ok {
			return nil, fmt.Errorf("protocol %q is not known", r.Ports[i].Protocol)
		}
		first, last := r.Ports[i].Range()
		if !model.HasPorts(number) && !model.IsICMP(number) {
			first, last = 0, 65535
		}
		out.Ports = append(out.Ports, Port{number, first, last})
	}
	for _, peer := range peersOf(r, d) {
		c, err := compilePeer(&peer)
		if err != nil {
			return nil, err
		}
		out.Peers = append(out.Peers, c)
	}
	return out, nil
}

func compilePeer(p *model.PolicyPeer) (Peer, error) {
	out := Peer{Selector: p.Selector, Names: p.DomainNames, Processes: p.Processes}
	if p.Selector != nil && len(p.Selector.Requirements) == 0 {
		out.Selector, out.Entities = nil, bitFleet
	}
	for _, e := range p.Entities {
		out.Entities |= EntityBit(e)
	}
	for _, b := range p.IPBlocks {
		prefix, err := model.ParseCIDR(b.CIDR)
		if err != nil {
			return out, err
		}
		block := Block{Prefix: prefix, IncludeManaged: b.IncludeManaged}
		for _, text := range b.Except {
			x, err := model.ParseCIDR(text)
			if err != nil {
				return out, err
			}
			block.Except = append(block.Except, x)
		}
		out.Blocks = append(out.Blocks, block)
	}
	return out, nil
}
