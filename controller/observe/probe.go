package observe

import (
	"cmp"
	"slices"
	"time"

	"weft/controller/plan"
	"weft/model"
	"weft/wire/probewire"
)

// ProbeStatus says which hosts run a probe, and what came of each one's last turn.
func (o *Observer) ProbeStatus(p *model.Probe) (st model.ProbeStatus) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.plan == nil {
		return st
	}
	for _, h := range o.intent.Hosts {
		planned := o.plan.Hosts.Get(h.Metadata.Name)
		if planned == nil {
			continue
		}
		for _, s := range planned.Sections[plan.SectionProbe].GetProbe().GetProbes() {
			if s.Name == p.Metadata.Name {
				st.Hosts = append(st.Hosts, o.probeHost(h.Metadata.Name, p))
			}
		}
	}
	slices.SortFunc(st.Hosts, func(a, b model.ProbeHost) int { return cmp.Compare(a.Host, b.Host) })
	return st
}

func (o *Observer) probeHost(name string, p *model.Probe) model.ProbeHost {
	out := model.ProbeHost{Host: name}
	applied, state, message := o.applied(name, plan.SectionProbe)
	out.Message = message
	if state == "Pending" {
		return out // what it says may be of what it was told before
	}
	seen := o.byName(name)
	if seen == nil {
		return out
	}
	if applied != nil {
		if _, out.Message = item(seen.sections[plan.SectionProbe], p.Metadata.Name); out.Message != "" {
			return out
		}
	}
	t := seen.probes[p.Metadata.Name]
	if t == nil {
		out.Message = cmp.Or(out.Message, "has had no turn yet")
		return out
	}
	out.Time, out.Asked, out.Failed = stamp(time.Unix(0, t.GetUnixNanos())), t.GetAsked(), t.GetFailed()
	out.Message = cmp.Or(out.Message, probewire.Text(t.GetMessage()))
	out.Result = probewire.Decode(p.Spec.Kind, p.Spec.Target, t.GetResult())
	return out
}

// Probed is how many questions hosts have asked for probes, by name.
func (o *Observer) Probed() map[string]uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := map[string]uint64{}
	for name, uid := range o.uids {
		if h := o.hosts[uid]; h != nil && h.probed > 0 {
			out[name] = h.probed
		}
	}
	return out
}
