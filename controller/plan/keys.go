package plan

import (
	"maps"
	"slices"

	"weft/model"
)

// IdentityKeys lists the labels that tell identities apart.
func IdentityKeys(policies []*model.Policy, list []*model.Group) []string {
	keys := groupKeys(list)
	keys[LabelKind] = true
	for _, p := range policies {
		policyKeys(p, func(k string) { keys[k] = true })
	}
	return slices.Sorted(maps.Keys(keys))
}

// policyKeys visits the labels that a policy asks about, some more than once.
func policyKeys(p *model.Policy, visit func(string)) {
	add := func(s *model.Selector) {
		if s != nil {
			for _, r := range s.Requirements {
				visit(r.Key)
			}
		}
	}
	add(p.Spec.Subject.Selector)
	for _, rules := range [][]model.PolicyRule{p.Spec.Ingress, p.Spec.Egress} {
		for i := range rules {
			for _, peers := range [][]model.PolicyPeer{rules[i].From, rules[i].To} {
				for j := range peers {
					add(peers[j].Selector)
				}
			}
		}
	}
}

// groupKeys are the labels that groups with a mode ask about.
func groupKeys(list []*model.Group) map[string]bool {
	groups, keys, seen := NewResolver(list, nil), map[string]bool{}, map[string]bool{}
	var nested func(g *model.Group)
	nested = func(g *model.Group) {
		if g == nil || seen[g.Metadata.Name] {
			return
		}
		seen[g.Metadata.Name] = true
		if g.Spec.Selector != nil {
			for _, r := range g.Spec.Selector.Requirements {
				keys[r.Key] = true
			}
		}
		for _, name := range g.Spec.Groups {
			nested(groups.groups[name])
		}
	}
	for _, g := range groups.groups {
		if g.Spec.Mode != "" {
			nested(g)
		}
	}
	return keys
}

// keysAfter says whether other labels tell identities apart after a change of
// policies: then every workload must be looked at again. Drafts do not count,
// nor, as everywhere, do weft's own policies, which ask for the kind alone.
func (s *segments) keysAfter(d *difference[*model.Policy]) (change bool) {
	turned := map[string]int{}
	count := func(list []*model.Policy, n int) {
		for _, p := range list {
			if p.Spec.StageOrDefault() != model.StageDraft {
				policyKeys(p, func(k string) { turned[k] += n })
			}
		}
	}
	count(d.gone, -1)
	count(d.come, 1)
	for k, n := range turned {
		if (s.keys[k] == 0) != (s.keys[k]+n == 0) {
			return true
		}
	}
	return false
}

func (s *segments) countKeys(p *model.Policy, n int) {
	if p.Spec.StageOrDefault() == model.StageDraft {
		return
	}
	policyKeys(p, func(k string) {
		if s.keys[k] += n; s.keys[k] == 0 {
			delete(s.keys, k)
		}
	})
}
