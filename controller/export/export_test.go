package export

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/controller/flowstore"
	"weft/model"
)

// world is a store with flows, and a clock that is the machine's.
type world struct {
	*flowstore.Store
	t      *testing.T
	dir    string
	number uint64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	s, err := flowstore.Open(t.Context(), flowstore.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &world{Store: s, t: t, dir: dir}
}

// add keeps n flows whose client ports are from, from+1, ...
func (w *world) add(from, n int, change func(i int, f *flowstore.Flow)) {
	w.t.Helper()
	w.number++
	b := flowstore.Batch{HostUID: "h", Epoch: 1, Number: w.number}
	for i := range n {
		f := sample(from + i)
		if change != nil {
			change(i, &f)
		}
		b.Flows = append(b.Flows, f)
	}
	if err := w.Append(context.Background(), []flowstore.Batch{b}); err != nil {
		w.t.Fatal(err)
	}
}

func sample(port int) flowstore.Flow {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return flowstore.Flow{
		Time: now, First: now.Add(-2 * time.Second), Last: now.Add(-time.Second), Host: "web-1", Counted: true,
		Client:   flowstore.End{Workload: "web-1", Labels: map[string]string{"app": "web"}, Address: netip.MustParseAddr("10.0.0.1"), Port: uint16(port)},
		Server:   flowstore.End{Workload: "db-1", Labels: map[string]string{"app": "db"}, Address: netip.MustParseAddr("10.0.0.2"), Port: 5432},
		Protocol: 6, Process: "/srv/orders/api", PID: 7, User: "ann", Name: "db.example.org", Action: model.ActionAllow, New: true, Ended: true,
		Sent: model.Count{Packets: 3, Bytes: 300}, Received: model.Count{Packets: 5, Bytes: 7000}, RTT: 300 * time.Microsecond,
		TCPState: "closed", ClientFlags: "FSPA", ServerFlags: "SPA", Drops: 4, DropReason: "TCP_CSUM",
	}
}

// settings reads a file with this text.
func settings(t *testing.T, text string) *Settings {
	t.Helper()
	path := filepath.Join(t.TempDir(), "exports.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := ReadSettings(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs exporters until stop.
func (w *world) run(text string, deps Deps) (e *Export, stop func()) {
	w.t.Helper()
	s := settings(w.t, text)
	if deps.Flows == nil {
		deps.Flows = w
	}
	if deps.Keep == 0 {
		deps.Keep = 7 * 24 * time.Hour
	}
	e, err := New(Config{Dir: filepath.Join(w.dir, "exports"), Exporters: s.Exporters, Sums: s.Metrics, Poll: 5 * time.Millisecond, Retry: 5 * time.Millisecond}, deps)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx, func() {}) }()
	return e, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// ports reads lines of JSON and returns the clients' ports.
func ports(t *testing.T, r io.Reader) (out []int) {
	t.Helper()
	for s := bufio.NewScanner(r); s.Scan(); {
		var f flowstore.Flow
		if err := json.Unmarshal(s.Bytes(), &f); err != nil {
			t.Fatalf("%v: %s", err, s.Text())
		}
		out = append(out, int(f.Client.Port))
	}
	return out
}

func upFrom(from, n int) (out []int) {
	for i := range n {
		out = append(out, from+i)
	}
	return out
}

// What comes after the first start is written, each flow once, over restarts, and
// only what the filter and the choice of reports let through.
func TestFileHasEachFlowOnce(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "flows.jsonl")
	text := fmt.Sprintf("exporters:\n- {name: a, where: client.app=web, jsonLines: {file: %s}}\n", file)
	w.add(1, 10, nil) // before there was an export
	e, stop := w.run(text, Deps{})
	w.add(100, 5000, nil)
	w.add(20000, 10, func(i int, f *flowstore.Flow) { f.Counted = i%2 == 0 })
	w.add(21000, 10, func(_ int, f *flowstore.Flow) { f.Client.Labels = nil })
	await(t, "all flows", func() bool { return e.followers[0].state().Sent == 5005 && e.followers[0].state().Behind == 0 })
	stop()
	if s := e.followers[0].state(); s.Sent != 5005 || s.Failures+s.Gone+s.Refused != 0 {
		t.Errorf("%+v", s)
	}
	w.add(30000, 7, nil) // while it is away
	e, stop = w.run(text, Deps{})
	await(t, "what came meanwhile", func() bool { return e.followers[0].state().Sent == 7 })
	stop()
	want := append(upFrom(100, 5000), 20000, 20002, 20004, 20006, 20008)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := ports(t, bytes.NewReader(b)); !slices.Equal(got, append(want, upFrom(30000, 7)...)) {
		t.Errorf("%d lines, the last are %v", len(got), got[max(len(got)-20, 0):])
	}
}

// A receiver that is broken, busy or takes little at once gets each flow once, and
// nothing else waits for it.
func TestPostsThroughTrouble(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	var got []int
	var waited time.Duration
	var said time.Time
	answers := []int{500, 503, 429, 200, 502}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		z, err := gzip.NewReader(r.Body)
		if err != nil || r.Header.Get("Authorization") != "Bearer SECRETTOKEN" {
			t.Errorf("%v, %v", err, r.Header)
			return
		}
		list := ports(t, z)
		if len(list) > 300 {
			rw.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		if !said.IsZero() {
			waited, said = time.Since(said), time.Time{}
		}
		if len(answers) > 0 {
			code := answers[0]
			if answers = answers[1:]; code != 200 {
				if code == 429 {
					rw.Header().Set("Retry-After", "1")
					said = time.Now()
				}
				rw.WriteHeader(code)
				return
			}
		}
		got = append(got, list...)
	}))
	defer server.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("SECRETTOKEN\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	file := filepath.Join(t.TempDir(), "flows.jsonl")
	e, stop := w.run(fmt.Sprintf("exporters:\n- {name: a, jsonLines: {url: '%s/SECRETPATH', tokenFile: %s}}\n- {name: dead, jsonLines: {unix: /nowhere/x.sock}}\n- {name: b, jsonLines: {file: %s}}\n", server.URL, token, file), Deps{Log: slog.New(slog.NewTextHandler(&log, nil))})
	w.add(1000, 3000, nil)
	await(t, "all flows", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) >= 3000 && e.followers[0].state().Behind == 0
	})
	await(t, "a failure at the dead one", func() bool { return e.followers[1].state().Failures > 2 && e.followers[2].state().Sent == 3000 })
	stop()
	mu.Lock()
	defer mu.Unlock()
	if slices.Sort(got); !slices.Equal(got, upFrom(1000, 3000)) {
		t.Errorf("%d flows came", len(got))
	}
	if waited < time.Second {
		t.Errorf("Retry-After said 1 s, and it came after %s", waited)
	}
	if s := e.followers[0].state(); s.Sent != 3000 || s.Failures != 4 || s.Refused != 0 {
		t.Errorf("%+v", s)
	}
	if s := e.followers[1].state(); s.Sent != 0 || s.Behind == 0 {
		t.Errorf("of the dead one: %+v", s)
	}
	if strings.Contains(log.String(), "SECRET") {
		t.Errorf("the log says %s", log.String())
	}
}

func TestWhatTheStoreForgotIsCounted(t *testing.T) {
	w := newWorld(t)
	text := "exporters:\n- {name: a, jsonLines: {stdout: true}}\n"
	var out bytes.Buffer
	_, stop := w.run(text, Deps{Stdout: &out})
	stop()
	w.add(1, 10, func(_ int, f *flowstore.Flow) { f.Time = f.Time.Add(-30 * 24 * time.Hour) })
	w.add(100, 3, nil)
	e, stop := w.run(text, Deps{Stdout: &out})
	await(t, "what is kept", func() bool { return e.followers[0].state().Sent == 3 })
	stop()
	if s := e.followers[0].state(); s.Gone != 10 {
		t.Errorf("%+v", s)
	}
	if got := ports(t, &out); !slices.Equal(got, upFrom(100, 3)) {
		t.Errorf("sent are %v", got)
	}
}

func TestFilesRotate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.jsonl")
	r := newRotating(path, 100, 2)
	for i := range 12 {
		if err := r.write(t.Context(), fmt.Appendf(nil, "%039d\n", i)); err != nil {
			t.Fatal(err)
		}
	}
	r.close()
	names, _ := filepath.Glob(path + "*")
	if len(names) != 3 {
		t.Errorf("files are %v", names)
	}
	for name, from := range map[string]int{path: 10, path + ".1": 8, path + ".2": 6} {
		if b, err := os.ReadFile(name); err != nil || string(b) != fmt.Sprintf("%039d\n%039d\n", from, from+1) {
			t.Errorf("%s: %v: %q", name, err, b)
		}
	}
	if err := newRotating("/dev/full", 0, 0).write(t.Context(), []byte("x\n")); err == nil {
		t.Error("a device was taken for a file")
	}
}

// A crash leaves a part of a line, which is sent whole again.
func TestPartsOfLinesGo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.jsonl")
	if err := os.WriteFile(path, []byte("whole\npart of a li"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRotating(path, 0, 0)
	defer r.close()
	if err := r.write(t.Context(), []byte("next\n")); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "whole\nnext\n" {
		t.Errorf("%v: %q", err, b)
	}
}
