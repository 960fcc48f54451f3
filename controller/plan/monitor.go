package plan

import (
	"cmp"
	"slices"

	"weft/model"
	"weft/wire/wirepb"
)

// unwatched is the section of hosts that no alert rule is about: most are.
var unwatched = seal(SectionMonitor, &wirepb.Section{Body: &wirepb.Section_Monitor{Monitor: &wirepb.MonitorSection{}}})

// alertRules finds the rules that are about each host, by its name. A host has the
// labels of its own workload.
func (c *compute) alertRules() map[string][]*wirepb.AlertRule {
	out := map[string][]*wirepb.AlertRule{}
	if len(c.Rules) == 0 {
		return out
	}
	labels := c.hostLabels()
	for _, r := range c.Rules {
		threshold, clear, below := r.Spec.Threshold()
		m := &wirepb.AlertRule{Name: r.Metadata.Name, Severity: string(cmp.Or(r.Spec.Severity, model.SeverityWarning)), Metric: string(r.Spec.Metric), Subject: r.Spec.Match,
			Below: below, Threshold: threshold, Clear: clear, ForSeconds: uint32(r.Spec.Duration().Seconds())}
		for name := range c.hosts {
			if r.Spec.Hosts == nil || labels[name] != nil && r.Spec.Hosts.Matches(labels[name]) {
				out[name] = append(out[name], m)
			}
		}
	}
	return out
}

// hostLabels are those of each host's own workload, by the host's name.
func (c *compute) hostLabels() map[string]map[string]string {
	out := map[string]map[string]string{}
	for _, w := range c.Workloads {
		if w.Spec.Kind == model.WorkloadHost {
			out[w.Spec.Host] = w.Metadata.Labels
		}
	}
	return out
}

// monitorSection is what a host is told to watch itself for.
func monitorSection(rules []*wirepb.AlertRule) *wirepb.Section {
	if len(rules) == 0 {
		return unwatched
	}
	slices.SortFunc(rules, func(a, b *wirepb.AlertRule) int { return cmp.Compare(a.Name, b.Name) })
	return seal(SectionMonitor, &wirepb.Section{Body: &wirepb.Section_Monitor{Monitor: &wirepb.MonitorSection{Rules: rules}}})
}

// relabelled says whether a change may be one of which hosts a rule is about, or run a
// probe.
func (p *Planner) relabelled(workloads *difference[*model.Workload]) bool {
	picks := func(r *model.AlertRule) bool { return r.Spec.Hosts != nil }
	host := func(w *model.Workload) bool { return w.Spec.Kind == model.WorkloadHost }
	return (len(p.state.Probes) > 0 || slices.ContainsFunc(p.state.Rules, picks)) && (slices.ContainsFunc(workloads.gone, host) || slices.ContainsFunc(workloads.come, host))
}
