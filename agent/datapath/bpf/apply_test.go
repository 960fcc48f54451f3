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

// stateOf is a state of one subject, judged by a ruleset whose tables are made from
// those of the state before, nil for none.
func stateOf(cgroup string, r *policy.Ruleset, before *datapath.State) *datapath.State {
	var old datapath.Ruleset
	if before != nil {
		old = *before.Subjects[0].Ruleset
	}
	return &datapath.State{Subjects: []datapath.Subject{{Workload: "host", Kind: model.WorkloadHost, Identity: 1, Cgroup: cgroup,
		Ruleset: &datapath.Ruleset{Mode: r.Mode, Ingress: classify.Update(old.Ingress, &r.Ingress, nil), Egress: classify.Update(old.Egress, &r.Egress, nil)}}}}
}

// One rule more.
func BenchmarkAdd100k(b *testing.B) {
	d := open(b)
	one, two := manyRules(100_000), manyRules(100_001)
	state := stateOf(d.cfg.CgroupRoot, one, nil)
	if err := d.Apply(b.Context(), state); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		one, two = two, one
		state = stateOf(d.cfg.CgroupRoot, one, state)
		if err := d.Apply(b.Context(), state); err != nil {
			b.Fatal(err)
		}
	}
}

// All rules others.
func BenchmarkSwap100k(b *testing.B) {
	d := open(b)
	r := manyRules(100_000)
	for b.Loop() {
		if err := d.Apply(b.Context(), stateOf(d.cfg.CgroupRoot, r, nil)); err != nil {
			b.Fatal(err)
		}
	}
}
