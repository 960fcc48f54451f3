package datapath

import (
	"slices"

	"github.com/RoaringBitmap/roaring/v2"

	"weft/model"
	"weft/policy"
	"weft/policy/classify"
	"weft/wire/policywire"
	"weft/wire/wirepb"
)

// rulesets are those of a policy section, made into tables, by key.
type rulesets map[string]*builtRuleset

// builtRuleset is a ruleset and what its tables were made from, so that they are
// made again only where the members of one of its selectors have changed.
type builtRuleset struct {
	Ruleset
	source    *policy.Ruleset
	selectors []model.Selector
	members   []*roaring.Bitmap
	lacks     string // a selector whose members are not known
}

// readRulesets makes the tables of a section; those of before are kept where
// they still hold.
func readRulesets(s *wirepb.PolicySection, f fleet, before rulesets) (rulesets, error) {
	out := rulesets{}
	for _, m := range s.GetRulesets() {
		old := before[m.GetKey()]
		x := &builtRuleset{}
		if old != nil {
			x.source, x.selectors = old.source, old.selectors
		} else {
			source, err := policywire.Decode(m)
			if err != nil {
				return nil, err
			}
			x.source = source
			x.selectors = slices.Concat(source.Ingress.Selectors(), source.Egress.Selectors())
		}
		for _, sel := range x.selectors {
			b := f.members[sel.String()]
			if b == nil {
				x.lacks = "the list of members of " + sel.String()
			}
			x.members = append(x.members, b)
		}
		out[m.GetKey()] = x
		switch {
		case x.lacks != "":
		case old != nil && old.lacks == "" && slices.Equal(old.members, x.members):
			x.Ruleset = old.Ruleset
		default:
			members := func(s model.Selector) *roaring.Bitmap { return f.members[s.String()] }
			x.Ruleset = Ruleset{Key: m.GetKey(), Mode: x.source.Mode, Ingress: classify.Build(&x.source.Ingress, members), Egress: classify.Build(&x.source.Egress, members)}
		}
	}
	return out, nil
}

// of returns a ruleset by key, nil where there is none.
func (r rulesets) of(key string) *Ruleset {
	if x := r[key]; x != nil {
		return &x.Ruleset
	}
	return nil
}

// missing says what the subjects of a section need and the rulesets lack.
func (r rulesets) missing(s *wirepb.IdentitySection) string {
	for _, x := range s.GetSubjects() {
		for _, key := range []string{x.GetRuleset(), x.GetStaged()} {
			switch {
			case key == "":
			case r[key] == nil:
				return "ruleset " + key
			case r[key].lacks != "":
				return r[key].lacks
			}
		}
	}
	return ""
}
