package importing

import (
	"slices"

	"weft/model"
)

// ladder puts lists of rules, in which the first match decides, one after the
// other into a tier. A policy orders its rules by action, so a list is cut into
// runs in which that order is the list's own; each run is a rung with a priority
// of its own.
type ladder struct {
	tier  model.Tier
	first int // priority of the first rung
	rungs []draft
}

// ordered is a rule of a list, perhaps for a part of the list's subjects only.
type ordered struct {
	rule   model.PolicyRule
	narrow []model.Selector // one of them must hold; nil for no more conditions
	// stateless says that what it allows is not tracked.
	stateless bool
}

// add puts a list for each direction at the end.
func (l *ladder) add(d draft, ingress, egress []ordered) {
	in, out := runs(ingress), runs(egress)
	for len(in)+len(out) > 0 {
		rung := d
		rung.tier = l.tier
		var narrow []model.Selector
		if len(in) > 0 {
			narrow = in[0][0].narrow
			rung.stateless = d.stateless || in[0][0].stateless
			rung.ingress = bare(in[0])
			in = in[1:]
		}
		if len(out) > 0 && (rung.ingress == nil || narrow == nil && out[0][0].narrow == nil && rung.stateless == (d.stateless || out[0][0].stateless)) {
			narrow = out[0][0].narrow
			rung.stateless = d.stateless || out[0][0].stateless
			rung.egress = bare(out[0])
			out = out[1:]
		}
		if narrow != nil {
			rung.subjects = nil
			for _, s := range d.subjects {
				for _, n := range narrow {
					rung.subjects = append(rung.subjects, and(s, n))
				}
			}
		}
		l.rungs = append(l.rungs, rung)
	}
}

// flush gives the rungs their priorities and makes the policies.
func (l *ladder) flush(r *run) {
	if len(l.rungs) == 0 {
		return
	}
	room := lastPriority - l.first
	step := min(10, room/len(l.rungs))
	if step == 0 {
		r.fault(l.rungs[0].origin.file, l.rungs[0].origin.line, "", "the tier %s would need %d priorities and has %d; import fewer objects", l.tier, len(l.rungs), room)
		return
	}
	for i, rung := range l.rungs {
		rung.priority = l.first + i*step
		r.add(rung)
	}
}

func runs(list []ordered) [][]ordered {
	var out [][]ordered
	for i, o := range list {
		if i > 0 && rank(list[i-1].rule.Action) <= rank(o.rule.Action) && list[i-1].stateless == o.stateless && slices.EqualFunc(list[i-1].narrow, o.narrow, sameSelector) {
			out[len(out)-1] = append(out[len(out)-1], o)
		} else {
			out = append(out, []ordered{o})
		}
	}
	return out
}

func sameSelector(a, b model.Selector) bool { return a.String() == b.String() }

func bare(list []ordered) []model.PolicyRule {
	out := make([]model.PolicyRule, len(list))
	for i := range list {
		out[i] = list[i].rule
	}
	return out
}

// rank is the order of actions at one tier and priority, as package policy has it.
func rank(a model.Action) int {
	return slices.Index([]model.Action{model.ActionLog, model.ActionDeny, model.ActionPass, model.ActionAllow}, denyFor(a))
}

func denyFor(a model.Action) model.Action {
	if a == model.ActionReject {
		return model.ActionDeny
	}
	return a
}
