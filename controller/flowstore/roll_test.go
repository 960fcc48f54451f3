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

// What is old is forgotten in parts, between which flows are kept; answers are the
// same after each, and what came meanwhile stays.
func TestPruneInParts(t *testing.T) { backends(t, testPruneInParts) }

func testPruneInParts(t *testing.T, open func(*testing.T, Config) *Store) {
	ctx := context.Background()
	now := noon
	s := open(t, Config{Now: func() time.Time { return now }})
	s.sum = 10
	number := uint64(0)
	keep := func(flows int) {
		number++
		b := Batch{HostUID: "u", Epoch: 1, Number: number}
		for i := range flows {
			f := flow("web", "db", 5432, uint64(1+i))
			f.Time = now
			b.Flows = append(b.Flows, f)
		}
		appendTo(t, s, b)
	}
	for range 3 { // days
		keep(35)
		now = now.Add(24 * time.Hour)
	}
	if err := s.Roll(ctx, true); err != nil {
		t.Fatal(err)
	}
	now = now.Add(8 * 24 * time.Hour)
	began, want := now, uint64(105)
	parts, before := 0, want
	for more := true; more; parts++ {
		var err error
		if more, err = s.PruneSome(ctx, began); err != nil {
			t.Fatal(err)
		}
		left := rowsOf(t, s, tables[reports])
		if s.db.dialect().transactions && left+s.sum < before {
			t.Errorf("part %d took %d rows, want no more than %d", parts, before-left, s.sum)
		}
		if parts < 2 {
			keep(1)
			want++
		}
		got := sums(t, s, "", Query{})
		if got[0].Connections != want {
			t.Fatalf("after part %d: %d connections, want %d", parts, got[0].Connections, want)
		}
		before = rowsOf(t, s, tables[reports])
	}
	if before != want-105 {
		t.Errorf("%d reports are left, want those that came meanwhile, %d", before, want-105)
	}
	if parts < 3 {
		t.Errorf("all was forgotten in %d parts", parts)
	}
}

func rowsOf(t *testing.T, s *Store, x *table) uint64 {
	t.Helper()
	a, err := s.db.query(context.Background(), ask("SELECT "+s.numbers("COUNT(*)")+" FROM "+x.name), u64)
	if err != nil {
		t.Fatal(err)
	}
	return a.numbers[0][0]
}
