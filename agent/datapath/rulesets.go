package datapath

import (
	"cmp"

	"github.com/RoaringBitmap/roaring/v2"

	"weft/model"
	"weft/policy"
	"weft/policy/classify"
	"weft/wire/policywire"
	"weft/wire/wirepb"
)

// rulesets are those of a policy section, made into tables, by key.
type rulesets map[string]*builtRuleset

// builtRuleset is a ruleset and what its tables were made from.
type builtRuleset struct {
	Ruleset
	source *policy.Ruleset
}

// lacks is a selector whose members are not known, "" where there is none.
func (r *builtRuleset) lacks() string { return cmp.Or(r.Ingress.Lacks, r.Egress.Lacks) }

// readRulesets makes the tables of a section from those of before, so that it
// costs what has changed.
func readRulesets(s *wirepb.PolicySection, f fleet, before rulesets) (rulesets, error) {
	members := func(s model.Selector) *roaring.Bitmap { return f.members[s.String()] }
	keys := map[string]bool{}
	for _, m := range s.GetRulesets() {
		keys[m.GetKey()] = true
	}
	out := rulesets{}
	for _, m := range s.GetRulesets() {
		x := &builtRuleset{}
		old := before[m.GetKey()]
		if old != nil {
			x.source = old.source
		} else {
			var err error
			if x.source, err = policywire.Decode(m); err != nil {
				return nil, err
			}
			old = before.ancestor(x.source, keys)
		}
		x.Ruleset = Ruleset{Key: m.GetKey(), Mode: x.source.Mode, Ingress: classify.Update(old.Ingress, &x.source.Ingress, members), Egress: classify.Update(old.Egress, &x.source.Egress, members)}
		out[m.GetKey()] = x
	}
	return out, nil
}

// ancestor is the ruleset, of those that are not among the keys any more, that has
// the most rules at its beginnings and ends in common with another: that is the one
// that was edited, as a rule. Where it is not, tables cost more to make.
func (r rulesets) ancestor(of *policy.Ruleset, keys map[string]bool) *builtRuleset {
	best, most := &builtRuleset{}, 0
	for key, x := range r {
		if keys[key] {
			continue
		}
		n := inCommon(x.source.Ingress.Rules, of.Ingress.Rules) + inCommon(x.source.Egress.Rules, of.Egress.Rules)
		if n > most {
			best, most = x, n
		}
	}
	return best
}

func inCommon(a, b []*policy.Rule) (n int) {
	for len(a) > 0 && len(b) > 0 && a[0].ID == b[0].ID {
		a, b, n = a[1:], b[1:], n+1
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1].ID == b[len(b)-1].ID {
		a, b, n = a[:len(a)-1], b[:len(b)-1], n+1
	}
	return n
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
			case r[key].lacks() != "":
				return "the list of members of " + r[key].lacks()
			}
		}
	}
	return ""
}
