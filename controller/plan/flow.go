package plan

import (
	"slices"

	"weft/model"
	"weft/wire/wirepb"
)

// metered is the section of hosts on which every workload is metered: most are.
var metered = seal(SectionFlow, &wirepb.Section{Body: &wirepb.Section_Flow{Flow: &wirepb.FlowSection{Meter: true}}})

// exempt finds the workloads that are not metered, by host and id there.
func (c *compute) exempt() map[string][]string {
	ids := map[string][]string{}
	for _, g := range c.Groups {
		if g.Spec.Flows != model.FlowsOff {
			continue
		}
		members, err := c.resolver.Members(g.Spec)
		if err != nil {
			continue // said of the group
		}
		for _, w := range members {
			ids[w.Spec.Host] = append(ids[w.Spec.Host], WorkloadID(w))
		}
	}
	return ids
}

// flowSection is what a host is told of metering.
func flowSection(exempt []string) *wirepb.Section {
	if len(exempt) == 0 {
		return metered
	}
	slices.Sort(exempt)
	return seal(SectionFlow, &wirepb.Section{Body: &wirepb.Section_Flow{Flow: &wirepb.FlowSection{Meter: true, Exempt: slices.Compact(exempt)}}})
}

// exempted says whether a change may be one of who is not metered.
func (p *Planner) exempted(groups *difference[*model.Group], workloads *difference[*model.Workload]) bool {
	off := func(g *model.Group) bool { return g.Spec.Flows == model.FlowsOff }
	if !groups.empty() && (slices.ContainsFunc(p.state.Groups, off) || slices.ContainsFunc(groups.gone, off)) {
		return true
	}
	for _, g := range p.state.Groups {
		if !off(g) {
			continue
		}
		in := func(w *model.Workload) bool { return p.resolver.holds(g.Spec, w.Metadata.Labels) }
		if slices.ContainsFunc(workloads.gone, in) || slices.ContainsFunc(workloads.come, in) {
			return true
		}
	}
	return false
}
