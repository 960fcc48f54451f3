package plan

import (
	"testing"

	"weft/model"
)

// A rule is about the hosts whose labels it matches, those that get the label
// included, and no more about one that loses it.
func TestAlertRulesReachTheirHosts(t *testing.T) {
	host := func(name string) *model.Host { return &model.Host{Metadata: model.Metadata{Name: name, UID: name}} }
	machine := func(name, app string) *model.Workload {
		return &model.Workload{Metadata: model.Metadata{Name: name, Labels: map[string]string{"app": app}}, Spec: model.WorkloadSpec{Host: name, Kind: model.WorkloadHost}}
	}
	sel, err := model.ParseSelector("app=web")
	if err != nil {
		t.Fatal(err)
	}
	limit := 80.0
	web := &model.AlertRule{Metadata: model.Metadata{Name: "web"}, Spec: model.AlertRuleSpec{Hosts: &sel, Metric: "cpu", Above: &limit}}
	every := &model.AlertRule{Metadata: model.Metadata{Name: "every"}, Spec: model.AlertRuleSpec{Metric: "memory", Above: &limit, For: "5m", Severity: model.SeverityCritical}}
	var p Planner
	s := State{TrustDomain: "weft", Hosts: []*model.Host{host("a"), host("b")}, Workloads: []*model.Workload{machine("a", "web"), machine("b", "db")}}
	check := func(what, a, b string) {
		t.Helper()
		plan := p.Plan(s)
		for name, want := range map[string]string{"a": a, "b": b} {
			got := ""
			for _, r := range plan.Hosts.Get(name).Sections[SectionMonitor].GetMonitor().GetRules() {
				got += r.Name + " "
			}
			if got != want {
				t.Errorf("%s: host %s has %q, want %q", what, name, got, want)
			}
		}
	}
	check("no rule", "", "")
	s.Rules = []*model.AlertRule{web, every}
	check("two rules", "every web ", "every ")
	if r := p.plan.Hosts.Get("b").Sections[SectionMonitor].GetMonitor().Rules[0]; r.Severity != "Critical" || r.ForSeconds != 300 || r.Threshold != 80 || r.Clear != 80 {
		t.Errorf("the rule is %v", r)
	}
	s.Workloads = []*model.Workload{machine("a", "db"), machine("b", "web")}
	check("labels changed", "every ", "every web ")
	s.Rules = nil
	check("no rule again", "", "")
}
