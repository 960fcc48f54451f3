package flowstore

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A question that would take more than it may is refused with what to do, whatever
// of memory, time and retention it is; and what comes after it is answered and
// kept as if nothing had been.
func TestTooMuchIsRefused(t *testing.T) { backends(t, testTooMuchIsRefused) }

func testTooMuchIsRefused(t *testing.T, open func(*testing.T, Config) *Store) {
	ctx := context.Background()
	s := open(t, Config{})
	f := flow("web", "db", 5432, 1)
	const crowd = 50_000
	b := Batch{HostUID: "u", Epoch: 1, Number: 1}
	for i := range crowd {
		f.Client.Workload, f.Client.Address = "", netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		b.Flows = append(b.Flows, f)
	}
	appendTo(t, s, b)
	year := noon.Add(-365 * 24 * time.Hour)
	q := Query{Since: year, By: []string{"client-address", "client"}, Limit: 10}
	if _, err := s.Sums(ctx, q); err != nil {
		t.Fatal(err)
	}
	limit(t, s, true)
	if _, err := s.Sums(ctx, q); !errors.Is(err, errTooMuch) || !strings.Contains(err.Error(), "shorter time") {
		t.Errorf("more memory than it may take: %v", err)
	}
	limit(t, s, false)
	late, cancel := context.WithDeadline(ctx, time.Now()) // which has passed by then, however fast this machine is
	defer cancel()
	if _, err := s.Sums(late, q); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("more time than it may take: %v", err)
	}
	if _, err := s.Sums(ctx, Query{Since: year, By: []string{"pid"}}); !errors.Is(err, ErrQuery) || !strings.Contains(err.Error(), "--flows-keep") {
		t.Errorf("of reports that are forgotten: %v", err)
	}
	// By minutes it is about what there are minutes of, and says so.
	if a, err := s.Sums(ctx, Query{Since: year, By: []string{"minute"}}); err != nil || a.Since.Before(noon.Add(-31*24*time.Hour)) || len(a.Items) != 1 {
		t.Errorf("a year by minutes: since %s, %d rows, %v", a.Since, len(a.Items), err)
	}
	// A list is of reports that are kept, and no longer than is asked for.
	if list, _, err := s.List(ctx, Query{Since: year, Limit: 10}, Cursor{}); err != nil || len(list) != 10 {
		t.Errorf("a list of a year: %d, %v", len(list), err)
	}
	appendTo(t, s, Batch{HostUID: "u", Epoch: 1, Number: 2, Flows: []Flow{f}})
	if got := sums(t, s, "", Query{}); got[0].Connections != crowd+1 {
		t.Errorf("%d connections in the end, want %d", got[0].Connections, crowd+1)
	}
}

// limit gives questions next to no memory, or what they have otherwise.
func limit(t *testing.T, s *Store, tight bool) {
	t.Helper()
	switch db := s.db.(type) {
	case *clickhouse:
		if db.memory = clickhouseMemory; tight {
			db.memory = "1000000"
		}
	case *duckdb:
		set := []string{"SET memory_limit = '" + memory + "'", "SET max_temp_directory_size = '" + disk + "'"}
		if tight { // what was written is on disk first, and need not be moved aside
			set = []string{"SET max_temp_directory_size = '0KB'", "CHECKPOINT", "SET memory_limit = '12MB'"}
		}
		for _, set := range set {
			if _, err := db.run(context.Background(), db.writer, ask(set), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What is forgotten makes room, though row groups are never merged.
func TestForgottenRowGroupsGo(t *testing.T) {
	ctx := context.Background()
	d, err := openDuckDB(filepath.Join(t.TempDir(), "x.duckdb"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	x := &table{name: "x", columns: []column{{"part", u32}, {"id", u64}}}
	if err := d.ensure(ctx, x); err != nil {
		t.Fatal(err)
	}
	const half = 3 * together
	groups := func(want uint64) {
		t.Helper()
		if _, err := d.run(ctx, d.writer, ask("CHECKPOINT"), nil); err != nil {
			t.Fatal(err)
		}
		a, err := d.query(ctx, ask("SELECT CAST(COUNT(DISTINCT row_group_id) AS UBIGINT) FROM pragma_storage_info('x')"), u64)
		if err != nil || a.numbers[0][0] != want {
			t.Errorf("%v row groups, want %d; %v", a.numbers, want, err)
		}
	}
	rows := func() uint64 {
		t.Helper()
		a, err := d.query(ctx, ask("SELECT CAST(COUNT(*) AS UBIGINT) FROM x"), u64)
		if err != nil {
			t.Fatal(err)
		}
		return a.numbers[0][0]
	}
	if _, err := d.run(ctx, d.writer, ask(fmt.Sprintf("INSERT INTO x SELECT i // %d, i FROM range(%d) r(i)", half, 2*half)), nil); err != nil {
		t.Fatal(err)
	}
	groups(6)
	for more, left := true, uint64(2*half); more; left = max(left-together, half) {
		if n := rows(); n != left {
			t.Errorf("%d rows are left, want %d", n, left)
		}
		if more, err = d.forget(ctx, x, 1, together); err != nil {
			t.Fatal(err)
		}
	}
	if n := rows(); n != half {
		t.Errorf("%d rows, want those of the later part, %d", n, half)
	}
	groups(3)
}
