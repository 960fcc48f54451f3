package api

import (
	"context"
	"fmt"

	"weft/model"
)

// policyWarnings says what is allowed in a policy but probably not meant.
func (a *API) policyWarnings(ctx context.Context, p *model.Policy) []string {
	var out []string
	empty := func(s *model.Selector) bool {
		members, err := a.seen.Members(model.GroupSpec{Selector: s})
		return err == nil && len(members) == 0
	}
	if empty(p.Spec.Subject.Selector) {
		out = append(out, fmt.Sprintf("spec.subject: %q matches no workload now; those that come to match are subject by themselves", p.Spec.Subject.Selector))
	}
	said := map[string]bool{}
	check := func(field string, peers []model.PolicyPeer) {
		for i := range peers {
			s := peers[i].Selector
			if s == nil || len(said) >= 20 || said[s.String()] || !empty(s) {
				continue
			}
			said[s.String()] = true
			out = append(out, fmt.Sprintf("%s[%d].selector: %q matches no workload now", field, i, s))
		}
	}
	for i := range p.Spec.Ingress {
		check(fmt.Sprintf("spec.ingress[%d].from", i), p.Spec.Ingress[i].From)
	}
	for i := range p.Spec.Egress {
		check(fmt.Sprintf("spec.egress[%d].to", i), p.Spec.Egress[i].To)
	}
	return append(out, a.stageWarnings(ctx, p)...)
}

// stageWarnings says where a stage and the modes of the subjects do not go
// together.
func (a *API) stageWarnings(ctx context.Context, p *model.Policy) []string {
	if p.Spec.StageOrDefault() == model.StageDraft {
		return []string{"the stage is Draft: it is looked at by explain and diff only; Staged shows what it would do, Active enforces it"}
	}
	f, err := a.fleet(ctx)
	if err != nil {
		return []string{fmt.Sprintf("the groups' modes could not be read: %v", err)}
	}
	list, err := worlds(nil, f.over([]*model.Policy{p}, nil))
	if err != nil {
		return nil
	}
	observing := 0
	for _, w := range f.workloads {
		if !p.Spec.Subject.Selector.Matches(w.Metadata.Labels) {
			continue
		}
		if m := list[0].Modes[list[0].ByWorkload[w.Metadata.Name]]; m == "" || m == model.ModeObserve {
			observing++
		}
	}
	if observing > 0 && onlyAllows(p) {
		return []string{fmt.Sprintf("%d of its subjects are in no group with a mode of Selective or Enforce, so that what no rule decides is allowed and these Allow rules change nothing for them; set spec.mode of a group they are in", observing)}
	}
	return nil
}

func onlyAllows(p *model.Policy) bool {
	for _, rules := range [][]model.PolicyRule{p.Spec.Ingress, p.Spec.Egress} {
		for _, r := range rules {
			if r.Action != model.ActionAllow {
				return false
			}
		}
	}
	return true
}
