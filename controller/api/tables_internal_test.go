package api

import (
	"fmt"
	"strings"
	"testing"

	"weft/controller/plan"
	"weft/model"
	"weft/policy/classify"
)

// tableFleet has one container on each of two hosts.
func tableFleet() *fleet {
	workload := func(host, app string) *model.Workload {
		return &model.Workload{Metadata: model.Metadata{Name: host + ":c", UID: "u/" + host, Labels: map[string]string{"app": app, plan.LabelKind: "container"}}, Spec: model.WorkloadSpec{Host: host, Kind: model.WorkloadContainer}}
	}
	f := &fleet{workloads: []*model.Workload{workload("a", "web"), workload("b", "db")}}
	f.directory = plan.NewDirectory(f.workloads, nil)
	return f
}

func policyWith(name, subject string, rules int, rule func(n int) model.PolicyRule) *model.Policy {
	p := model.MustKind(model.KindPolicy).New().(*model.Policy)
	p.Metadata.Name, p.Spec.Stage, p.Spec.Subject.Selector = name, model.StageActive, mustSelector(subject)
	for n := range rules {
		r := rule(n)
		r.Name = fmt.Sprintf("r%d", n)
		p.Spec.Ingress = append(p.Spec.Ingress, r)
	}
	return p
}

// logs is a rule that is tried whatever came before it.
func logs(int) model.PolicyRule { return model.PolicyRule{Action: model.ActionLog} }

func judgeTables(t *testing.T, f *fleet, p *model.Policy) error {
	t.Helper()
	after := f.over([]*model.Policy{p}, nil)
	list, err := worlds(nil, after)
	if err != nil {
		t.Fatal(err)
	}
	return guardTables(after, list[0], p)
}

func TestWhatAHostCannotHoldIsRefused(t *testing.T) {
	f := tableFleet()
	if err := judgeTables(t, f, policyWith("fits", "app=db", classify.MaxSteps-1, logs)); err != nil {
		t.Errorf("what fits is refused: %v", err)
	}
	deep := policyWith("deep", "app=db", classify.MaxSteps+1, logs)
	err := judgeTables(t, f, deep)
	for _, want := range []string{"host b could not hold policy/deep", "65 rules could be tried", "64 at most", "app=db", "give them ports or peers that differ"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	// Others' rules count too, and nobody is in the way of a host it is not about.
	f.policies = []*model.Policy{policyWith("half", "app=db", classify.MaxSteps/2, logs)}
	if err := judgeTables(t, f, policyWith("rest", "app=db", classify.MaxSteps/2+1, logs)); err == nil {
		t.Error("two policies that are too much together are let in")
	}
	if err := judgeTables(t, f, policyWith("else", "app=web", classify.MaxSteps/2+1, logs)); err != nil {
		t.Errorf("a policy is refused for a host that it is not about: %v", err)
	}
	deep.Spec.Stage = model.StageDraft
	if err := judgeTables(t, tableFleet(), deep); err != nil {
		t.Errorf("a draft is refused: %v", err)
	}
}

func TestRoomIsNamed(t *testing.T) {
	room := classify.Room()
	for _, x := range []struct {
		load classify.Load
		want string
	}{
		{classify.Load{Ports: room.Ports}, ""},
		{classify.Load{Ports: room.Ports + 1}, "entries of peers by ports"},
		{classify.Load{Identities: room.Identities + 1}, "identities of peers"},
		{classify.Load{Blocks: room.Blocks + 1}, "blocks of addresses"},
	} {
		if what, _, _ := x.load.Exceeds(room); what != x.want {
			t.Errorf("%+v: %q, want %q", x.load, what, x.want)
		}
	}
}
