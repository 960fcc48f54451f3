package policy

import (
	"cmp"
	"slices"
	"strings"

	"weft/model"
)

// World is everything a verdict depends on besides the packet. Policies must
// have passed Validate; their order does not matter.
type World struct {
	Policies []*model.Policy
	// Failsafe are weft's own, tried before all others; see Failsafe.
	Failsafe   []*model.Policy
	Identities *Identities
	// Modes of the identities; Observe where none is given.
	Modes map[Identity]model.Mode
	// Through is the stage up to which policies count: Active (unless given)
	// what is enforced, Staged what would be if all staged ones were active,
	// Draft all.
	Through model.Stage
}

func (w *World) mode(id Identity) model.Mode {
	if m := w.Modes[id]; m != "" {
		return m
	}
	return model.ModeObserve
}

// counts says whether a policy takes part in verdicts.
func (w *World) counts(p *model.Policy) bool {
	switch p.Spec.StageOrDefault() {
	case model.StageActive:
		return true
	case model.StageStaged:
		return w.Through == model.StageStaged || w.Through == model.StageDraft
	}
	return w.Through == model.StageDraft
}

// all returns every policy, failsafe ones with their tier, in the order of their names.
func (w *World) all() []*model.Policy {
	list := slices.Concat(w.Failsafe, w.Policies)
	slices.SortStableFunc(list, func(a, b *model.Policy) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
	return list
}

// tierRank orders tiers: Failsafe is 0.
func tierRank(t model.Tier) int { return slices.Index(model.Tiers, t) + 1 }

// actionRank orders actions within a tier and priority. Log comes first: after a
// final match it would never be seen.
func actionRank(a model.Action) int {
	switch a {
	case model.ActionLog:
		return 0
	case model.ActionReject, model.ActionDeny:
		return 1
	case model.ActionPass:
		return 2
	}
	return 3
}

// place is where a rule stands in the total order.
type place struct {
	tier, priority, action int
	policy                 string
	index                  int
}

func placeOf(p *model.Policy, r *model.PolicyRule, index int) place {
	return place{tierRank(p.Spec.TierOrDefault()), p.Spec.PriorityOrDefault(), actionRank(r.Action), p.Metadata.Name, index}
}

func (a place) compare(b place) int {
	return cmp.Or(cmp.Compare(a.tier, b.tier), cmp.Compare(a.priority, b.priority), cmp.Compare(a.action, b.action),
		strings.Compare(a.policy, b.policy), cmp.Compare(a.index, b.index))
}

func rulesOf(p *model.Policy, d Direction) []model.PolicyRule {
	if d == Egress {
		return p.Spec.Egress
	}
	return p.Spec.Ingress
}

func peersOf(r *model.PolicyRule, d Direction) []model.PolicyPeer {
	if d == Egress {
		return r.To
	}
	return r.From
}

// isolates says whether a policy makes a Selective subject deny by default in a
// direction: it allows something there, or lists no rule at all. Failsafe ones
// keep a way open and close none.
func isolates(p *model.Policy, d Direction) bool {
	rules := rulesOf(p, d)
	return p.Spec.Tier != model.TierFailsafe && rules != nil && (len(rules) == 0 || slices.ContainsFunc(rules, func(r model.PolicyRule) bool { return r.Action == model.ActionAllow }))
}
