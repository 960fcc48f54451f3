package plan

import (
	"maps"
	"slices"

	"weft/model"
)

// Policy says whom a policy is about, and what stands in its way.
type Policy struct {
	UID       string
	Workloads int
	Hosts     []string // by name; not to be changed
	Problem   string   // keeps every policy from being applied
}

// planned is a policy as plans keep it: many have one target.
type planned struct {
	policy *model.Policy
	target string
}

func plannedOf(p *model.Policy) planned {
	if p.Spec.StageOrDefault() == model.StageDraft {
		return planned{p, draftKey(p)}
	}
	return planned{p, p.Spec.Subject.Selector.String()}
}

// Policy returns what is planned for a policy, nil where the plan has none of
// that name.
func (p *Plan) Policy(name string) *Policy {
	one := p.policies.Get(name)
	if one.policy == nil {
		return nil
	}
	out := &Policy{UID: one.policy.Metadata.UID, Problem: p.problem}
	if p.problem == "" {
		if f := p.targets.Get(one.target); f != nil {
			out.Workloads, out.Hosts = f.workloads, f.hosts
		}
		return out
	}
	// Nothing is kept of policies that do not compile.
	hosts := map[string]bool{}
	for _, w := range p.workloads {
		if one.policy.Spec.Subject.Selector.Matches(w.Metadata.Labels) {
			out.Workloads++
			hosts[w.Spec.Host] = true
		}
	}
	out.Hosts = slices.Sorted(maps.Keys(hosts))
	return out
}
