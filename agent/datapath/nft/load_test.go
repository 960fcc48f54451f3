package nft_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"weft/agent/datapath"
	"weft/agent/datapath/nft"
	"weft/model"
	"weft/policy"
	"weft/policy/classify"
)

// manyRules is a ruleset of so many rules, each for one address and one port,
// with hundred ports to an address.
func manyRules(n int) *datapath.Ruleset {
	var rules []*policy.Rule
	for i := range n {
		a := netip.AddrFrom4([4]byte{172, byte(16 + i/100/65536), byte(i / 100 / 256), byte(i / 100)})
		rules = append(rules, &policy.Rule{ID: policy.RuleID(i + 1), Tier: model.TierApplication, Policy: "many", Name: fmt.Sprint(i), Action: model.ActionAllow, Stateful: true,
			Peers: []policy.Peer{{Blocks: []policy.Block{{Prefix: netip.PrefixFrom(a, 32)}}}}, Ports: []policy.Port{{Protocol: 17, First: uint16(1000 + i%100*7), Last: uint16(1000 + i%100*7)}}})
	}
	allow := []policy.Default{{Action: model.ActionAllow}}
	r := policy.NewRuleset(model.ModeEnforce, nil, rules, allow, []policy.Default{{Action: model.ActionDeny}})
	return &datapath.Ruleset{Key: fmt.Sprint("many ", n), Mode: r.Mode, Ingress: classify.Build(&r.Ingress, nil), Egress: classify.Build(&r.Egress, nil)}
}

func manyState(s *site, r *datapath.Ruleset, more ...datapath.Address) *datapath.State {
	st := &datapath.State{Subjects: []datapath.Subject{{Workload: "host", Kind: model.WorkloadHost, Ruleset: r, Identity: 1}}, Addresses: more}
	st.Sort()
	return st
}

// A hundred thousand rules load, enforce, change by what differs, and go.
func TestHundredThousand(t *testing.T) {
	s := newSite(t)
	d := newDriver(t, s)
	r := manyRules(100_000)
	start := time.Now()
	apply(t, d, manyState(s, r))
	t.Logf("first: %v", time.Since(start))
	want(t, s.host, "udp", "10.88.0.2:53", "dropped")
	start = time.Now()
	apply(t, d, manyState(s, r))
	t.Logf("the same: %v", time.Since(start))
	start = time.Now()
	apply(t, d, manyState(s, r, datapath.Address{Prefix: netip.MustParsePrefix("10.88.0.2/32"), Identity: 9}))
	t.Logf("one address more: %v", time.Since(start))
	start = time.Now()
	apply(t, d, manyState(s, manyRules(99_999)))
	t.Logf("one rule less: %v", time.Since(start))
	want(t, s.outside, "udp", s.host.addr(false, 53), "ok")
	start = time.Now()
	if n := len(counts(t, d)); n != 100_001 {
		t.Errorf("%d rules are counted", n)
	}
	t.Logf("counts: %v", time.Since(start))
	start = time.Now()
	d2 := nft.New(nft.Config{NetNS: s.machine})
	apply(t, d2, manyState(s, r))
	t.Logf("after a restart: %v", time.Since(start))
	fail(t, d2.Close())
}

// BenchmarkRules sends datagrams through rulesets of more and more rules.
func BenchmarkRules(b *testing.B) {
	for _, n := range []int{0, 10, 1000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newSite(b)
			d := nft.New(nft.Config{NetNS: s.machine})
			defer d.Remove()
			if n > 0 {
				inside(b, s.outside.netns, func(h *netlinkHandle) { link(b, h, "lo", "172.16.0.5/32") })
				inside(b, s.machine, func(h *netlinkHandle) { route(b, h, "172.16.0.0/12", "10.88.0.2") })
				apply(b, d, manyState(s, manyRules(n)))
			} else {
				inside(b, s.machine, func(h *netlinkHandle) { route(b, h, "172.16.0.0/12", "10.88.0.2") })
			}
			b.ResetTimer()
			best := 0
			for b.Loop() {
				var sent int
				fmt.Sscanf(s.host.do("rate", "", "172.16.0.0:1000", time.Second), "%d", &sent)
				best = max(best, sent)
			}
			b.ReportMetric(float64(best), "packets/cpu-s")
		})
	}
}
