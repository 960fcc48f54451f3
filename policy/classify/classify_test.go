package classify_test

import (
	"testing"

	"weft/policy"
	"weft/policy/classify"
	"weft/policy/policytest"
)

// The tables say what the reference says, for random worlds and packets.
func TestTablesEqualReference(t *testing.T) {
	worlds, packets := 3000, 40
	if testing.Short() {
		worlds = 300
	}
	for seed := range uint64(worlds) {
		compare(t, seed, packets)
		if t.Failed() {
			return
		}
	}
}

func FuzzTablesEqualReference(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { compare(t, seed, 50) })
}

type pair [2]*classify.Table

func compare(t *testing.T, seed uint64, packets int) {
	t.Helper()
	g := policytest.New(seed)
	w := g.World()
	set, err := policy.Compile(w)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	tables := map[*policy.Ruleset]pair{}
	for range packets {
		p := g.Packet(w.Identities.All())
		for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
			subject, peer := p.Ends(d)
			r := set.For(subject.Identity)
			if r == nil {
				continue
			}
			if tables[r][0] == nil {
				tables[r] = pair{classify.Build(&r.Ingress, w.Identities.Members), classify.Build(&r.Egress, w.Identities.Members)}
			}
			want := w.Evaluate(d, &p)
			got := tables[r][d].Judge(subject, peer, p.Protocol, p.Key())
			var rule, logged policy.RuleID
			if got.Rule != nil {
				rule = got.Rule.ID
			}
			if got.Logged != nil {
				logged = got.Logged.ID
			}
			if got.Action != want.Action || rule != want.ID || logged != want.Logged || got.Stateful != want.Stateful {
				t.Errorf("seed %d %s %+v:\ngot  %s %s logged %s stateful %t\nwant %s logged %s stateful %t\n%s", seed, d, p, got.Action, rule, logged, got.Stateful, want, want.Logged, want.Stateful, r)
				return
			}
			if n := tables[r][d].Steps(); n > classify.MaxSteps {
				t.Errorf("seed %d: %d steps", seed, n)
			}
		}
	}
}
