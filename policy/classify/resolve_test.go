package classify_test

import (
	"slices"
	"testing"

	"weft/model"
	"weft/policy"
	"weft/policy/classify"
	"weft/policy/policytest"
)

// Spans say what Judge says about peers whose processes are not known.
func TestSpansEqualJudge(t *testing.T) {
	worlds := 1500
	if testing.Short() {
		worlds = 150
	}
	for seed := range uint64(worlds) {
		g := policytest.New(seed)
		w := g.World()
		set, err := policy.Compile(w)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range set.Rulesets() {
			for _, p := range []*policy.Table{&r.Ingress, &r.Egress} {
				table := classify.Build(p, w.Identities.Members)
				for range 6 {
					peer := g.End(w.Identities.All())
					peer.Process, peer.Names = model.PolicyProcess{}, nil // what spans know nothing of
					checkSpans(t, seed, g, table, &peer)
				}
			}
		}
		if t.Failed() {
			return
		}
	}
}

func checkSpans(t *testing.T, seed uint64, g policytest.Gen, table *classify.Table, peer *policy.End) {
	t.Helper()
	spans := table.Resolve(table.ClassesOf(peer))
	next := uint32(0)
	var probes []uint32
	for i, s := range spans {
		if s.First != next || s.Last < s.First || i > 0 && spans[i-1].Verdict == s.Verdict {
			t.Errorf("seed %d: spans %+v", seed, spans)
			return
		}
		next = s.Last + 1
		probes = append(probes, s.First, s.Last)
	}
	if next != classify.EverySpan+1 {
		t.Errorf("seed %d: spans end at %d", seed, next)
	}
	for range 20 {
		probes = append(probes, uint32(policytest.Pick(g, 1, 6, 17, 58, 132, 255))<<16|uint32(policytest.Pick(g, 80, 443, 700, g.IntN(65536))))
	}
	for _, k := range probes {
		i, _ := slices.BinarySearchFunc(spans, k, func(s classify.Span, k uint32) int { return int(s.Last) - int(k) })
		if want := table.Judge(&policy.End{}, peer, uint8(k>>16), uint16(k)); spans[i].Verdict != want {
			t.Errorf("seed %d: protocol %d port %d: got %+v, want %+v", seed, k>>16, uint16(k), spans[i].Verdict, want)
		}
	}
}
