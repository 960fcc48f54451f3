package plan

import (
	"maps"
	"slices"

	"weft/model"
	"weft/policy"
	"weft/wire/policywire"
	"weft/wire/wirepb"
)

// compiled is a world's policy in the form hosts load, kept from plan to plan for
// as long as policies, modes and identities are the same.
type compiled struct {
	world    *World
	options  string // of the failsafe policies
	enforced *policy.Set
	staged   *policy.Set // the same as enforced where nothing is staged
	encoded  map[*policy.Ruleset]*ruleset
	members  map[string][]uint32 // by selector
}

// ruleset is one in the form for the wire, and what it needs to know of peers.
type ruleset struct {
	wire      *wirepb.Ruleset
	selectors []model.Selector
	// everybody is set where a rule asks whether a peer is of the fleet at all.
	everybody bool
}

// compile compiles a world, or takes the last over.
func compile(w *World, options string, last *compiled) (*compiled, error) {
	if last != nil && last.options == options && last.world.Identities == w.Identities && slices.Equal(last.world.Policies, w.Policies) && maps.Equal(last.world.Modes, w.Modes) {
		last.world = w
		return last, nil
	}
	c := &compiled{world: w, options: options, encoded: map[*policy.Ruleset]*ruleset{}, members: map[string][]uint32{}}
	var err error
	if c.enforced, err = policy.Compile(w.At(model.StageActive)); err != nil {
		return nil, err
	}
	c.staged = c.enforced
	if slices.ContainsFunc(w.Policies, func(p *model.Policy) bool { return p.Spec.StageOrDefault() == model.StageStaged }) {
		if c.staged, err = policy.Compile(w.At(model.StageStaged)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// ruleset encodes one, once.
func (c *compiled) ruleset(r *policy.Ruleset) *ruleset {
	if done := c.encoded[r]; done != nil {
		return done
	}
	out := &ruleset{wire: policywire.Encode(r)}
	fleet := policy.EntityBit(model.EntityFleet) | policy.EntityBit(model.EntityWorld)
	for _, t := range []*policy.Table{&r.Ingress, &r.Egress} {
		out.selectors = append(out.selectors, t.Selectors...)
		for _, rule := range t.Rules {
			for _, p := range rule.Peers {
				out.everybody = out.everybody || len(p.Blocks) > 0 || p.Entities&fleet != 0
			}
		}
	}
	c.encoded[r] = out
	return out
}

// of returns the identities that a selector matches, ascending.
func (c *compiled) of(s model.Selector) []uint32 {
	text := s.String()
	list, done := c.members[text]
	if !done {
		list = c.world.Identities.Members(s).ToArray()
		c.members[text] = list
	}
	return list
}
