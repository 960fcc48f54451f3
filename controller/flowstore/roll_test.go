package flowstore

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Summing up is done in parts, between which flows are kept, and answers are the
// same after each.
func TestRollInParts(t *testing.T) { backends(t, testRollInParts) }

func testRollInParts(t *testing.T, open func(*testing.T, Config) *Store) {
	ctx := context.Background()
	s := open(t, Config{})
	s.sum = 10
	var flows []Flow
	for i := range 30 {
		f := flow("web", "db", 5432, uint64(1+i))
		f.Time = noon.Add(-time.Duration(i) * time.Minute)
		flows = append(flows, f)
	}
	appendTo(t, s, Batch{HostUID: "u", Epoch: 1, Number: 1, Flows: flows})
	want := uint64(30)
	for part := 1; ; part++ {
		done, err := s.RollSome(ctx, true)
		if err != nil {
			t.Fatal(err)
		}
		if !done {
			if part < 5 {
				t.Errorf("all was done in %d parts", part)
			}
			break
		}
		if part < 3 {
			appendTo(t, s, Batch{HostUID: "u", Epoch: 1, Number: uint64(1 + part), Flows: flows[:1]})
			want++
		}
		for _, q := range []Query{{}, {Since: noon.Add(-time.Hour)}, {By: []string{"hour"}}} {
			got := uint64(0)
			for _, x := range sums(t, s, "", q) {
				got += x.Connections
			}
			if got != want {
				t.Fatalf("after part %d: %d connections, want %d", part, got, want)
			}
		}
	}
	before := sums(t, s, "", Query{By: []string{"minute"}})
	if err := s.Roll(ctx, true); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, sums(t, s, "", Query{By: []string{"minute"}})); d != "" {
		t.Error(d)
	}
}
