package policy_test

import (
	"slices"
	"testing"

	"weft/model"
	. "weft/policy"
	"weft/policy/policytest"
)

// Whatever comes and goes, the bitmaps equal those computed afresh, and exactly
// the selectors that changed are reported.
func TestMembersFollowIdentities(t *testing.T) {
	for seed := range uint64(200) {
		g := policytest.New(seed)
		ids := NewIdentities()
		var watching []model.Selector
		for range 10 {
			watching = append(watching, *g.Selector())
		}
		for _, s := range watching {
			ids.Members(s)
		}
		for range 40 {
			labels := g.Labels()
			var changed []string
			if all := ids.All(); len(all) > 0 && g.IntN(3) == 0 {
				id := policytest.Pick(g, all...)
				labels = ids.Labels(id)
				changed = ids.Remove(id)
			} else {
				had := len(ids.AllLabels())
				_, changed = ids.Intern(labels)
				if had == len(ids.AllLabels()) && changed != nil {
					t.Fatal("a known set changed something")
				} else if had == len(ids.AllLabels()) {
					continue
				}
			}
			for _, s := range watching {
				if slices.Contains(changed, s.String()) != s.Matches(labels) {
					t.Fatalf("seed %d: %s with %v: changed %v", seed, s, labels, changed)
				}
				var want []uint32
				for _, id := range ids.All() {
					if s.Matches(ids.Labels(id)) {
						want = append(want, uint32(id))
					}
				}
				if got := ids.Members(s).ToArray(); !slices.Equal(got, want) || !ids.Compute(s).Equals(ids.Members(s)) {
					t.Fatalf("seed %d: %s has %v, want %v, afresh %v", seed, s, got, want, ids.Compute(s))
				}
			}
		}
	}
}

func TestNumbersDependOnTheSetsOnly(t *testing.T) {
	g := policytest.New(1)
	sets := policytest.Some(g, 20, 20, g.Labels)
	want := NewIdentities(sets...)
	g.Shuffle(len(sets), func(i, j int) { sets[i], sets[j] = sets[j], sets[i] })
	got := NewIdentities(append(sets, sets[0])...)
	for _, s := range sets {
		a, _ := want.Intern(s)
		if b, _ := got.Intern(s); a != b || a == 0 {
			t.Errorf("%v is %d and %d", s, a, b)
		}
	}
	gone := got.All()[0]
	labels := got.Labels(gone)
	got.Remove(gone)
	if again, _ := got.Intern(labels); again == gone {
		t.Error("a number was given twice")
	}
}
