package observe

import (
	"strings"
	"testing"

	"weft/controller/plan"
	"weft/model"
	"weft/wire/wirepb"
)

// What came of a probe is shown by host: nothing of what was asked before, and why
// there is nothing newer.
func TestProbeStatus(t *testing.T) {
	o, _, i := fleet(t, Config{})
	p := &model.Probe{Metadata: model.Metadata{Name: "shop"}, Spec: model.ProbeSpec{From: selector(t, "a=person"), Kind: model.ProbeHTTP, Target: "http://shop/"}}
	status := func() string {
		var out []string
		for _, h := range o.ProbeStatus(p).Hosts {
			text := h.Host + " " + h.Message
			if h.Result != nil {
				text += " answered"
			}
			out = append(out, text)
		}
		return strings.Join(out, "; ")
	}
	if got := status(); got != "" {
		t.Errorf("before it is planned: %s", got)
	}
	made := plan.Compute(plan.State{TrustDomain: "weft.test", Hosts: i.Hosts, Workloads: o.Workloads(), Probes: []*model.Probe{p}})
	o.Set(i, made)
	report := &wirepb.ProbeReport{Turns: []*wirepb.ProbeTurn{{Name: "shop", UnixNanos: 1e18, Asked: 10, Failed: 1, Result: &wirepb.ProbeResult{Asked: 10, Ok: 9, P99: 0.5, Errors: []*wirepb.ProbeError{{Kind: "timeout", Count: 1}}}}, nil}, Asked: 17}
	o.Probes(id("web"), report)
	if got := status(); got != "web not applied yet" {
		t.Errorf("before it is applied: %s", got)
	}
	section := made.Hosts.Get("web").Sections[plan.SectionProbe]
	o.Section(id("web"), &wirepb.SectionStatus{Name: plan.SectionProbe, Digest: section.Digest})
	if got := status(); got != "web  answered" {
		t.Errorf("after a turn: %s", got)
	}
	if h := o.ProbeStatus(p).Hosts[0]; h.Asked != 10 || h.Failed != 1 || h.Time == nil || h.Result.Target != "http://shop/" || h.Result.Errors["timeout"] != 1 || h.Result.FailedPercent() != 10 {
		t.Errorf("it is %+v, %+v", h, h.Result)
	}
	if n := o.Probed(); len(n) != 1 || n["web"] != 17 {
		t.Errorf("hosts have asked %v", n)
	}
	o.Section(id("web"), &wirepb.SectionStatus{Name: plan.SectionProbe, Digest: section.Digest, Items: []*wirepb.ItemStatus{{Item: "shop", State: "Error", Message: "probes are off"}}})
	if got := status(); got != "web probes are off" {
		t.Errorf("where it is refused: %s", got)
	}
	o.Section(id("web"), &wirepb.SectionStatus{Name: plan.SectionProbe, Digest: section.Digest})
	o.Probes(id("web"), &wirepb.ProbeReport{})
	if got := status(); got != "web has had no turn yet" {
		t.Errorf("before a turn: %s", got)
	}
	o.Probes(id("web"), report)
	o.Disconnected(id("web"))
	if got := status(); !strings.HasPrefix(got, "web the agent has no session since") || !strings.HasSuffix(got, "answered") {
		t.Errorf("offline: %s", got)
	}
	// Whatever an agent says, so much of it is kept.
	many := &wirepb.ProbeReport{}
	for range 1000 {
		many.Turns = append(many.Turns, &wirepb.ProbeTurn{Name: strings.Repeat("x", len(many.Turns))})
	}
	o.Probes(id("web"), many)
	if n := len(o.byName("web").probes); n > model.MaxProbes {
		t.Errorf("%d turns are kept", n)
	}
}
