package plan

import (
	"slices"

	"weft/model"
	"weft/wire/wirepb"
)

// metered is the section of hosts on which every workload is metered: most are.
var metered = seal(SectionFlow, &wirepb.Section{Body: &wirepb.Section_Flow{Flow: &wirepb.FlowSection{Meter: true}}})

// quiet is what a host is not to do: to meter the workloads of some ids, to read
// more than headers of others' connections.
type quiet struct{ exempt, unnamed []string }

// quiet finds, by host, the workloads that are not to be metered, or not named.
func (c *compute) quiet() map[string]*quiet {
	out := map[string]*quiet{}
	for _, g := range c.Groups {
		if !quiets(g) {
			continue
		}
		members, err := c.resolver.Members(g.Spec)
		if err != nil {
			continue // said of the group
		}
		for _, w := range members {
			q := out[w.Spec.Host]
			if q == nil {
				q = &quiet{}
				out[w.Spec.Host] = q
			}
			list := &q.unnamed
			if g.Spec.Flows == model.FlowsOff {
				list = &q.exempt
			}
			*list = append(*list, WorkloadID(w))
		}
	}
	return out
}

// quiets says whether a group is one of workloads that less is told of.
func quiets(g *model.Group) bool {
	return g.Spec.Flows == model.FlowsOff || g.Spec.Flows == model.FlowsUnnamed
}

// flowSection is what a host is told of metering.
func flowSection(q *quiet) *wirepb.Section {
	if q == nil {
		return metered
	}
	sorted := func(ids []string) []string {
		slices.Sort(ids)
		return slices.Compact(ids)
	}
	return seal(SectionFlow, &wirepb.Section{Body: &wirepb.Section_Flow{Flow: &wirepb.FlowSection{Meter: true, Exempt: sorted(q.exempt), Unnamed: sorted(q.unnamed)}}})
}

// quieted says whether a change may be one of who is not metered, or not named.
func (p *Planner) quieted(groups *difference[*model.Group], workloads *difference[*model.Workload]) bool {
	if !groups.empty() && (slices.ContainsFunc(p.state.Groups, quiets) || slices.ContainsFunc(groups.gone, quiets)) {
		return true
	}
	for _, g := range p.state.Groups {
		if !quiets(g) {
			continue
		}
		in := func(w *model.Workload) bool { return p.resolver.holds(g.Spec, w.Metadata.Labels) }
		if slices.ContainsFunc(workloads.gone, in) || slices.ContainsFunc(workloads.come, in) {
			return true
		}
	}
	return false
}
