package bpf

import (
	"maps"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"weft/agent/connection"
	"weft/internal/testreq"
)

// A table of few entries is looked up by keys as long as none has come that is not
// known, and gone through otherwise; then nothing is missing.
func TestFollowed(t *testing.T) {
	testreq.Need(t, testreq.BPF)
	const room = 64 * knownShare
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 8, ValueSize: 8, MaxEntries: room})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	f := follow[uint64, uint64](m)
	came := uint64(0)
	put := func(from, to uint64) {
		t.Helper()
		for k := from; k < to; k++ {
			if err := m.Put(k, k+1); err != nil {
				t.Fatal(err)
			}
			came++
		}
	}
	check := func(what string, anew, through bool) {
		t.Helper()
		got, want := map[uint64]uint64{}, map[uint64]uint64{}
		was, done, err := f.visit(came, anew, func(k, v *uint64) bool { got[*k] = *v; return true })
		if err != nil || done || was != through {
			t.Fatalf("%s: through %t, done %t, %v", what, was, done, err)
		}
		var k, v uint64
		for it := m.Iterate(); it.Next(&k, &v); {
			want[k] = v
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: %d entries were shown, of %d", what, len(got), len(want))
		}
	}
	check("the first time", false, true)
	check("nothing came", false, false)
	put(0, 20)
	check("some came", false, true)
	if err := m.Put(uint64(7), uint64(70)); err != nil {
		t.Fatal(err)
	}
	if err := m.Delete(uint64(8)); err != nil {
		t.Fatal(err)
	}
	check("one changed, and one went", false, false)
	check("anew", true, true)
	if n := testing.AllocsPerRun(20, func() { f.visit(came, false, func(_, _ *uint64) bool { return true }) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	for k := uint64(20); k < 30; k++ {
		put(k, k+1)
		f.learn(&k)
		f.came = came
	}
	check("what came was told of", false, false)
	if _, done, _ := f.visit(came, false, func(_, _ *uint64) bool { return false }); !done {
		t.Error("a visit that was broken off was not done")
	}
	check("after that", false, false)
	put(30, 66)
	check("more than may be known", false, true)
	check("as before", false, true)
	for k := range uint64(10) {
		m.Delete(k)
	}
	check("fewer", false, true)
	check("few", false, false)
}

// Whoever visits while connections come and go sees all of them, without going
// through the table each time.
func TestLinesThatComeAreLookedUp(t *testing.T) {
	d, s := metered(t)
	type line struct {
		connection.Key
		began uint64
	}
	visit := func(into map[line]connection.Count) {
		t.Helper()
		if err := d.Connections(func(c *connection.Line) bool {
			into[line{c.Key, c.Began}] = c.Sent
			return true
		}); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[line]connection.Count{}
	visit(seen)
	for _, what := range []string{"web", "bulk4", "reuse", "bulk6"} {
		over := make(chan []told, 1)
		go func() { over <- inside(t, what, s.Machine, s.Endpoint("machine").Cgroup) }()
		visits, through := 0, 0
		for truth := []told(nil); truth == nil; visits++ {
			select {
			case truth = <-over:
			case <-time.After(5 * time.Millisecond):
			}
			before := d.through
			if visit(seen); d.through != before {
				through++
			}
		}
		t.Logf("%s: %d visits, %d through the whole table", what, visits, through)
		if through > visits/2 {
			t.Errorf("%s: of %d visits %d went through the whole table", what, visits, through)
		}
		now, all := map[line]connection.Count{}, map[line]connection.Count{}
		before := d.through
		if visit(now); d.through != before {
			t.Errorf("%s: a visit went through the table, and nothing had come", what)
		}
		d.goThrough()
		visit(all)
		if len(all) == 0 || !maps.Equal(now, all) {
			t.Errorf("%s: %d lines were looked up, and there are %d", what, len(now), len(all))
		}
		for k := range all {
			if _, ok := seen[k]; !ok {
				t.Errorf("%s: %v was never seen", what, k)
			}
		}
	}
}
