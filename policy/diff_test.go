package policy_test

import (
	"slices"
	"testing"

	"weft/internal/golden"
	"weft/model"
	. "weft/policy"
	"weft/policy/policytest"
)

// Every witness differs, every packet outside every entry agrees, and every one
// inside changes as its entry says.
func TestDiffIsExact(t *testing.T) {
	compared, inside, refused := 0, 0, 0
	for seed := range uint64(60) {
		g := policytest.New(seed)
		before := g.World()
		before.Identities = NewIdentities(policytest.Some(g, 1, 2, g.Labels)...)
		before.Policies = before.Policies[:min(3, len(before.Policies))]
		after := &World{Policies: slices.Clone(before.Policies), Failsafe: before.Failsafe, Identities: before.Identities, Modes: map[Identity]model.Mode{}, Through: before.Through}
		if n := len(after.Policies); n > 0 {
			after.Policies = slices.Delete(after.Policies, 0, 1)
		}
		after.Policies = append(after.Policies, g.Policy(90))
		ids := before.Identities.All()
		var flows []Flow
		for range 300 {
			p := g.Packet(ids)
			if p.Destination.Addr.Unmap().BitLen() != p.Source.Addr.Unmap().BitLen() {
				p.Destination.Addr = p.Source.Addr
			}
			flows = append(flows, Flow{Packet: p})
		}
		d, err := DiffUpTo(before, after, ids, flows, 100_000)
		if err != nil {
			refused++
			continue
		}
		for i := range d.Entries {
			e := &d.Entries[i]
			x, y := before.EvaluateBoth(&e.Witness).Action(), after.EvaluateBoth(&e.Witness).Action()
			if x == y || x != e.Before || y != e.After || d.Find(&e.Witness) != e {
				t.Fatalf("seed %d: witness of %+v: %s and %s", seed, *e, x, y)
			}
		}
		for i := range flows {
			p := &flows[i].Packet
			x, y := before.EvaluateBoth(p).Action(), after.EvaluateBoth(p).Action()
			e := d.Find(p)
			if (e == nil) != (x == y) || e != nil && (e.Before != x || e.After != y || !slices.Contains(e.Flows, i)) {
				t.Fatalf("seed %d: %+v: %s and %s, entry %+v", seed, *p, x, y, e)
			}
			compared++
			if e != nil {
				inside++
			}
		}
	}
	t.Logf("%d packets, %d of them in an entry, %d diffs refused", compared, inside, refused)
	if inside < 500 || compared < 5000 {
		t.Errorf("only %d of %d packets were in an entry", inside, compared)
	}
}

func TestDiffReadsWell(t *testing.T) {
	before, _, db, web := orders(t)
	after := *before
	after.Through = model.StageStaged
	d, err := Diff(before, &after, []Identity{db, web}, nil)
	if err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, "diff-staged.golden", d.String())
}

func TestDiffRefusesWhatItCannotAnswerWhole(t *testing.T) {
	a, _, _, _ := orders(t)
	b, _, _, _ := orders(t)
	if _, err := Diff(a, b, nil, nil); err == nil {
		t.Error("worlds that number identities apart were compared")
	}
}
