package plan

import (
	"testing"

	"weft/model"
)

// A probe is run by the hosts whose labels it matches, and no more by one that loses
// the label.
func TestProbesReachTheirHosts(t *testing.T) {
	host := func(name string) *model.Host { return &model.Host{Metadata: model.Metadata{Name: name, UID: name}} }
	machine := func(name, app string) *model.Workload {
		return &model.Workload{Metadata: model.Metadata{Name: name, Labels: map[string]string{"app": app}}, Spec: model.WorkloadSpec{Host: name, Kind: model.WorkloadHost}}
	}
	probe := func(name, from string) *model.Probe {
		sel, err := model.ParseSelector(from)
		if err != nil {
			t.Fatal(err)
		}
		return &model.Probe{Metadata: model.Metadata{Name: name}, Spec: model.ProbeSpec{From: &sel, Kind: model.ProbeTCP, Target: "db:5432", Interval: "5s"}}
	}
	var p Planner
	s := State{TrustDomain: "weft", Hosts: []*model.Host{host("a"), host("b")}, Workloads: []*model.Workload{machine("a", "web"), machine("b", "db")}}
	check := func(what, a, b string) {
		t.Helper()
		plan := p.Plan(s)
		for name, want := range map[string]string{"a": a, "b": b} {
			got := ""
			for _, r := range plan.Hosts.Get(name).Sections[SectionProbe].GetProbe().GetProbes() {
				got += r.Name + " "
			}
			if got != want {
				t.Errorf("%s: host %s has %q, want %q", what, name, got, want)
			}
		}
	}
	check("no probe", "", "")
	s.Probes = []*model.Probe{probe("web", "app=web"), probe("every", "*")}
	check("two probes", "every web ", "every ")
	if x := p.plan.Hosts.Get("b").Sections[SectionProbe].GetProbe().Probes[0]; x.IntervalMillis != 5000 || x.Spec.Kind != "tcp" || x.Spec.Target != "db:5432" || x.Spec.Count != 10 || x.Spec.Concurrency != 1 || x.Spec.TimeoutMillis != 5000 {
		t.Errorf("hosts are told %v", x)
	}
	s.Workloads = []*model.Workload{machine("a", "db"), machine("b", "web")}
	check("labels changed", "every ", "every web ")
	s.Probes = nil
	check("no probe again", "", "")
}
