package export

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"weft/controller/flowstore"
	"weft/internal/clickhousetest"
)

// Where the store is away when the controller starts, a new exporter still begins
// with what comes and not with all that is kept, and one that was there goes on.
func TestStoreThatIsAwayAtTheStart(t *testing.T) {
	server := clickhousetest.For(t)
	open := func() *world {
		t.Helper()
		s, err := flowstore.Open(t.Context(), flowstore.Config{ClickHouse: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		return &world{Store: s, t: t}
	}
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name+".jsonl") }
	text := func(name string) string {
		return fmt.Sprintf("- {name: %s, jsonLines: {file: %s}}\n", name, file(name))
	}
	w := open()
	w.dir = dir
	w.add(1, 10, nil) // before there was an export
	e, stop := w.run("exporters:\n"+text("old"), Deps{})
	w.add(100, 10, nil)
	await(t, "flows", func() bool { return e.followers[0].state().Sent == 10 })
	stop()
	w.Close()

	server.Kill()
	number := w.number
	w = open()
	defer w.Close()
	w.dir, w.number = dir, number
	e, stop = w.run("exporters:\n"+text("old")+text("new")+"metrics: {by: [port]}\n", Deps{})
	defer stop()
	if err := server.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.add(200, 10, nil) // at once: it is kept before an exporter looks
	// The sums follow by themselves.
	await(t, "flows of all three", func() bool {
		return !slices.ContainsFunc(e.followers, func(f *follower) bool { return f.state().Sent != 10 })
	})
	stop()
	for name, want := range map[string][]int{"old": append(upFrom(100, 10), upFrom(200, 10)...), "new": upFrom(200, 10)} {
		b, err := os.ReadFile(file(name))
		if err != nil {
			t.Fatal(err)
		}
		if got := ports(t, bytes.NewReader(b)); !slices.Equal(got, want) {
			t.Errorf("%s has %v, want %v", name, got, want)
		}
	}
}
