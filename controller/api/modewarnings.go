package api

import (
	"context"
	"fmt"

	"weft/model"
)

// modeWarnings says where a group's mode denies its members all they do.
func (a *API) modeWarnings(ctx context.Context, g *model.Group) []string {
	if g.Spec.Mode != model.ModeEnforce {
		return nil
	}
	members, err := a.seen.Members(g.Spec)
	if err != nil || len(members) == 0 {
		return nil // said already
	}
	policies, err := stored[*model.Policy](ctx, a, model.KindPolicy)
	if err != nil {
		return []string{fmt.Sprintf("policies could not be read: %v", err)}
	}
	var bare []string
	for _, w := range members {
		allowed := false
		for _, p := range policies {
			allowed = allowed || p.Spec.StageOrDefault() == model.StageActive && p.Spec.Subject.Selector.Matches(w.Metadata.Labels) && allows(p)
		}
		if !allowed {
			bare = append(bare, w.Metadata.Name)
		}
	}
	if len(bare) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("spec.mode: no active policy allows anything to %d of the members (%s): all they send and receive is denied, but for the Failsafe tier", len(bare), shorten(bare))}
}

func allows(p *model.Policy) bool {
	for _, rules := range [][]model.PolicyRule{p.Spec.Ingress, p.Spec.Egress} {
		for _, r := range rules {
			if r.Action == model.ActionAllow {
				return true
			}
		}
	}
	return false
}
