package export

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/testreq"
)

// On a disk that is full nothing is lost and no part of a line stays; when there is
// room it goes on.
func TestFullDisk(t *testing.T) {
	testreq.Need(t, testreq.Root)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	filler, file := filepath.Join(dir, "filler"), filepath.Join(dir, "flows.jsonl")
	if err := os.WriteFile(filler, make([]byte, 200<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	e, stop := w.run(fmt.Sprintf("exporters:\n- {name: a, jsonLines: {file: %s}}\n", file), Deps{})
	defer stop()
	w.add(1, 200, nil) // more than 100 KiB
	await(t, "failures", func() bool { return e.followers[0].state().Failures > 2 })
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	await(t, "all flows", func() bool { return e.followers[0].state().Sent == 200 })
	stop()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := ports(t, bytes.NewReader(b)); !slices.Equal(got, upFrom(1, 200)) {
		t.Errorf("%d lines", len(got))
	}
}

// A crash after the receiver has taken flows and before that is noted sends them
// again, and nothing is left out.
func TestAfterACrashNothingIsMissing(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "flows.jsonl")
	text := fmt.Sprintf("exporters:\n- {name: a, jsonLines: {file: %s}}\n", file)
	_, stop := w.run(text, Deps{})
	stop()
	noted := filepath.Join(w.dir, "exports", "a.json")
	before, err := os.ReadFile(noted)
	if err != nil {
		t.Fatal(err)
	}
	w.add(1, 10, nil)
	e, stop := w.run(text, Deps{})
	await(t, "flows", func() bool { return e.followers[0].state().Sent == 10 })
	stop()
	if err := os.WriteFile(noted, before, 0o600); err != nil {
		t.Fatal(err)
	}
	w.add(11, 10, nil)
	e, stop = w.run(text, Deps{})
	await(t, "flows", func() bool { return e.followers[0].state().Sent == 20 })
	stop()
	b, _ := os.ReadFile(file)
	if got := ports(t, bytes.NewReader(b)); !slices.Equal(got, append(upFrom(1, 10), upFrom(1, 20)...)) {
		t.Errorf("lines are %v", got)
	}
	if err := os.WriteFile(noted, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openCursor(filepath.Dir(noted), "a"); err == nil || !strings.Contains(err.Error(), noted) {
		t.Errorf("of a file that is broken: %v", err)
	}
	// A store that is not as far is another one: all it gets from now on is new.
	if err := os.WriteFile(noted, []byte(`{"after": 1000}`), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := openCursor(filepath.Dir(noted), "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.place(5); err != nil || c.after != 5 {
		t.Errorf("%+v, %v", c, err)
	}
}

// Who says to come again much later is an alert until it takes flows, and is no
// reason to stop late.
func TestWhoIsAwayIsAnAlert(t *testing.T) {
	var mu sync.Mutex
	said := map[string]string{}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Retry-After", "3600")
		rw.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	w := newWorld(t)
	_, stop := w.run(fmt.Sprintf("exporters:\n- {name: a, jsonLines: {url: '%s'}}\n", server.URL), Deps{Alert: func(exporter string, _ time.Time, message string) {
		mu.Lock()
		defer mu.Unlock()
		said[exporter] = message
	}})
	w.add(1, 1, nil)
	await(t, "an alert", func() bool { mu.Lock(); defer mu.Unlock(); return strings.Contains(said["a"], "503") })
	stop()
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{"": 0, "7": 7 * time.Second, "-7": 0, "soon": 0, "99999999999999": 0, "Fri, 02 Jan 2026 03:05:05 GMT": time.Minute} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q is %s, not %s", text, got, want)
		}
	}
}
