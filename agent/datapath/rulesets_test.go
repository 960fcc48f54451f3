package datapath

import (
	"fmt"
	"net/netip"
	"testing"

	"google.golang.org/protobuf/proto"

	"weft/model"
	"weft/policy"
	"weft/wire/policywire"
	"weft/wire/wirepb"
)

// section is one with a ruleset of n rules, each about an address of its own.
func section(t testing.TB, n int) []byte {
	t.Helper()
	rules := make([]*policy.Rule, n)
	for i := range rules {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		rules[i] = &policy.Rule{ID: policy.RuleID(i + 1), Tier: model.TierApplication, Policy: "many", Name: fmt.Sprint("r", i), Action: model.ActionAllow, Stateful: true,
			Peers: []policy.Peer{{Blocks: []policy.Block{{Prefix: prefix}}}}, Ports: []policy.Port{{Protocol: 6, First: uint16(1 + i%60000), Last: uint16(1 + i%60000)}}}
	}
	deny := []policy.Default{{Action: model.ActionDeny}}
	raw, err := proto.Marshal(&wirepb.PolicySection{Rulesets: []*wirepb.Ruleset{policywire.Encode(policy.NewRuleset(model.ModeEnforce, rules, nil, deny, deny))}})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func readSection(t testing.TB, raw []byte, before rulesets) rulesets {
	t.Helper()
	var s wirepb.PolicySection
	if err := proto.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	out, err := readRulesets(&s, fleet{}, before)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func only(t testing.TB, r rulesets) *builtRuleset {
	t.Helper()
	if len(r) != 1 {
		t.Fatalf("%d rulesets", len(r))
	}
	for _, x := range r {
		return x
	}
	return nil
}

// Tables of a section are made from those of the one before, whatever their keys.
func TestTablesAreMadeFromThoseBefore(t *testing.T) {
	before := readSection(t, section(t, 100), nil)
	now := readSection(t, section(t, 101), before)
	c, known := only(t, now).Ingress.Since(only(t, before).Ingress)
	if !known || len(c.Blocks) != 1 {
		t.Errorf("known %t, changes %v", known, c)
	}
	if only(t, now).Egress != only(t, before).Egress {
		t.Error("egress has not changed, and is another table")
	}
}

// BenchmarkSection100k is what a section with one rule more costs before a driver
// sees it, from its bytes on.
func BenchmarkSection100k(b *testing.B) {
	one, two := section(b, 100_000), section(b, 100_001)
	b.Logf("%d bytes", len(one))
	before := readSection(b, one, nil)
	for b.Loop() {
		one, two = two, one
		before = readSection(b, one, before)
	}
}
