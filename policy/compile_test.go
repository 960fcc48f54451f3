package policy_test

import (
	"fmt"
	"testing"

	"weft/model"
	. "weft/policy"
)

// 25,000 namespaces of 4 identities and 3 policies each.
func BenchmarkCompileNamespaces(b *testing.B) {
	const namespaces = 25_000
	w := &World{Modes: map[Identity]model.Mode{}}
	var sets []map[string]string
	for n := range namespaces {
		ns := fmt.Sprintf("n%d", n)
		for e := range 4 {
			sets = append(sets, map[string]string{"ns": ns, "role": fmt.Sprintf("r%d", e)})
		}
		for e := range 3 {
			p := policyOf(fmt.Sprintf("p%d-%d", n, e), fmt.Sprintf("ns=%s,role=r%d", ns, e))
			from, _ := model.ParseSelector(fmt.Sprintf("ns=%s,role=r%d", ns, e+1))
			port := 80
			p.Spec.Ingress = []model.PolicyRule{{Name: "a", Action: model.ActionAllow, From: []model.PolicyPeer{{Selector: &from}}, Ports: []model.PolicyPort{{Protocol: "TCP", Port: &port}}}}
			w.Policies = append(w.Policies, p)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		w.Identities = NewIdentities(sets...)
		set, err := Compile(w)
		if err != nil || set.For(1) == nil {
			b.Fatal(err)
		}
	}
}
