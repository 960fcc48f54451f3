package bpf

import (
	"fmt"
	"net/netip"
	"testing"

	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
	"weft/policy/classify"
)

// manyRules is a ruleset of n rules, each with an address and a port of its own.
func manyRules(n int) *policy.Ruleset {
	rules := make([]*policy.Rule, n)
	for i := range rules {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		rules[i] = &policy.Rule{ID: policy.RuleID(i + 1), Tier: model.TierApplication, Policy: "many", Name: fmt.Sprint("r", i), Action: model.ActionAllow, Stateful: true,
			Peers: []policy.Peer{{Blocks: []policy.Block{{Prefix: prefix, IncludeManaged: true}}}}, Ports: []policy.Port{{Protocol: 6, First: uint16(1 + i%60000), Last: uint16(1 + i%60000)}}}
	}
	deny := []policy.Default{{Action: model.ActionDeny}}
	return policy.NewRuleset(model.ModeEnforce, rules, nil, deny, deny)
}

func stateOf(cgroup string, r *policy.Ruleset, key string) *datapath.State {
	return &datapath.State{Subjects: []datapath.Subject{{Workload: "host", Kind: model.WorkloadHost, Identity: 1, Cgroup: cgroup,
		Ruleset: &datapath.Ruleset{Key: key, Mode: r.Mode, Ingress: classify.Build(&r.Ingress, nil), Egress: classify.Build(&r.Egress, nil)}}}}
}

func BenchmarkBuild100k(b *testing.B) {
	r := manyRules(100_000)
	for b.Loop() {
		classify.Build(&r.Ingress, nil)
	}
}

func BenchmarkApply100k(b *testing.B) {
	d := open(b)
	one := stateOf(d.cfg.CgroupRoot, manyRules(100_000), "a")
	two := stateOf(d.cfg.CgroupRoot, manyRules(100_001), "b")
	for b.Loop() {
		if err := d.Apply(b.Context(), one); err != nil {
			b.Fatal(err)
		}
		one, two = two, one
	}
}
