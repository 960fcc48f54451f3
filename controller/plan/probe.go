package plan

import (
	"cmp"
	"slices"

	"weft/model"
	"weft/wire/wirepb"
)

// unprobing is the section of hosts that run no probe: most do not.
var unprobing = seal(SectionProbe, &wirepb.Section{Body: &wirepb.Section_Probe{Probe: &wirepb.ProbeSection{}}})

// scheduled finds the probes that each host runs, by its name.
func (c *compute) scheduled() map[string][]*wirepb.ScheduledProbe {
	out := map[string][]*wirepb.ScheduledProbe{}
	if len(c.Probes) == 0 {
		return out
	}
	labels := c.hostLabels()
	for _, p := range c.Probes {
		m := scheduledProbe(p)
		for name := range c.hosts {
			if labels[name] != nil && p.Spec.From != nil && p.Spec.From.Matches(labels[name]) {
				out[name] = append(out[name], m)
			}
		}
	}
	return out
}

// scheduledProbe is what hosts are told of a probe.
func scheduledProbe(p *model.Probe) *wirepb.ScheduledProbe {
	s := &p.Spec
	return &wirepb.ScheduledProbe{Name: p.Metadata.Name, IntervalMillis: uint64(s.Every().Milliseconds()), Spec: &wirepb.ProbeSpec{Kind: string(s.Kind), Target: s.Target,
		Concurrency: uint32(s.AtOnce()), Count: uint64(s.Questions()), TimeoutMillis: uint64(s.Patience().Milliseconds()), Expect: s.Expect}}
}

// probeSection is what a host is told to probe.
func probeSection(probes []*wirepb.ScheduledProbe) *wirepb.Section {
	if len(probes) == 0 {
		return unprobing
	}
	slices.SortFunc(probes, func(a, b *wirepb.ScheduledProbe) int { return cmp.Compare(a.Name, b.Name) })
	return seal(SectionProbe, &wirepb.Section{Body: &wirepb.Section_Probe{Probe: &wirepb.ProbeSection{Probes: probes}}})
}
