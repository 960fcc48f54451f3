package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"weft/model"
)

// alerts is what there is.
type alerts struct {
	mu      sync.Mutex
	list    []*model.Alert
	changed chan struct{}
}

func newAlerts() *alerts { return &alerts{changed: make(chan struct{})} }

func (a *alerts) set(names ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.list = nil
	for _, n := range names {
		host, typ, _ := strings.Cut(n, ":")
		a.list = append(a.list, &model.Alert{Metadata: model.Metadata{Name: n}, Spec: model.AlertSpec{Host: host, Type: typ, Severity: model.SeverityWarning, Message: "m", Since: time.Unix(1000, 0).UTC()}})
	}
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *alerts) deps(log *slog.Logger) Deps {
	return Deps{Log: log, Alerts: func() []*model.Alert { a.mu.Lock(); defer a.mu.Unlock(); return a.list },
		Changed: func() <-chan struct{} { a.mu.Lock(); defer a.mu.Unlock(); return a.changed }}
}

// lock is a writer for logs.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.b.Write(p) }
func (l *locked) String() string              { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

func start(t *testing.T, cfg Config, a *alerts, log io.Writer) (*Notify, func()) {
	t.Helper()
	cfg.Settle, cfg.Retry = 10*time.Millisecond, 5*time.Millisecond
	n, err := New(cfg, a.deps(slog.New(slog.NewTextHandler(log, nil))))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx, func() {}) }()
	return n, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// A receiver that is away at first is told of everything in order; the token and
// the URL are in no log; a controller that starts anew does not tell it again.
func TestReceiversAreTold(t *testing.T) {
	dir := t.TempDir()
	var mu sync.Mutex
	var hooks, managed []string
	failures := 3
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if failures--; failures >= 0 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/hook/SECRETPATH":
			var c Change
			if err := json.Unmarshal(body, &c); err != nil || r.Header.Get("Authorization") != "Bearer SECRETTOKEN" {
				t.Errorf("%v: %s, %s", err, body, r.Header.Get("Authorization"))
			}
			hooks = append(hooks, c.Name+" "+c.State)
		case "/am/api/v2/alerts":
			var list []alertmanagerAlert
			if err := json.Unmarshal(body, &list); err != nil {
				t.Error(err)
			}
			for _, x := range list {
				managed = append(managed, fmt.Sprint(x.Labels["alertname"], " ", x.Labels["instance"], " ", x.Labels["severity"], " ", x.EndsAt.After(time.Now())))
			}
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	receivers, err := ReadReceivers(write("receivers.yaml", fmt.Sprintf(`receivers:
- {name: hook, type: webhook, urlFile: %s, tokenFile: %s}
- {name: am, type: alertmanager, url: %s/am}
- {name: nobody, type: webhook, url: %s/none/SECRETPATH, severities: [Warning]}
- {name: critical, type: webhook, url: %s/hook/SECRETPATH, severities: [Critical]}
`, write("url", server.URL+"/hook/SECRETPATH\n"), write("token", "SECRETTOKEN\n"), server.URL, server.URL, server.URL)))
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{File: filepath.Join(dir, "alerts.jsonl"), Receivers: receivers, Repeat: time.Hour}
	a, log := newAlerts(), &locked{}
	a.set("web1:busy")
	n, stop := start(t, cfg, a, log)
	await(t, "the first alert", func() bool { mu.Lock(); defer mu.Unlock(); return len(hooks) == 1 && len(managed) == 1 })
	a.set()
	await(t, "its end", func() bool { mu.Lock(); defer mu.Unlock(); return len(hooks) == 2 && len(managed) == 2 })
	a.set("web2:full")
	await(t, "the second alert", func() bool { mu.Lock(); defer mu.Unlock(); return len(hooks) == 3 })
	stop()
	if got := n.History(2); len(got) != 2 || got[0].Name != "web2:full" || got[1].State != Cleared {
		t.Errorf("the history is %+v", got)
	}
	mu.Lock()
	if strings.Join(hooks, ", ") != "web1:busy Raised, web1:busy Cleared, web2:full Raised" || managed[0] != "busy web1 warning true" || managed[1] != "busy web1 warning false" {
		t.Errorf("told were %q and %q", hooks, managed)
	}
	mu.Unlock()
	if text := log.String(); strings.Contains(text, "SECRET") || !strings.Contains(text, "404") || !strings.Contains(text, "502") {
		t.Errorf("the log says %s", text)
	}
	again, stop := start(t, cfg, a, log)
	a.set("web2:full", "web3:new")
	await(t, "the third", func() bool { return again.History(1)[0].Name == "web3:new" })
	stop()
	if got := again.History(10); len(got) != 4 {
		t.Errorf("after a restart the history is %+v", got)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "alerts.jsonl")
	h, err := openHistory(path, 10)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 95 {
		if err := h.append([]Change{{Name: fmt.Sprint("n", i), State: Raised}}); err != nil {
			t.Fatal(err)
		}
	}
	if got := h.newest(100); len(got) != 10 || got[0].Name != "n94" {
		t.Errorf("kept are %d, the newest %+v", len(got), got[0])
	}
	text, err := os.ReadFile(path)
	if err != nil || bytes.Count(text, []byte("\n")) > 20 {
		t.Fatalf("%v: the file has %d lines", err, bytes.Count(text, []byte("\n")))
	}
	if err := os.WriteFile(path, append(text, `{"name":"cut of`...), 0o600); err != nil {
		t.Fatal(err)
	}
	if h, err = openHistory(path, 10); err != nil || h.newest(1)[0].Name != "n94" {
		t.Fatalf("with a line cut off: %v, %+v", err, h.newest(1))
	}
	if err := h.append([]Change{{Name: "after", State: Cleared}}); err != nil {
		t.Fatal(err)
	}
	if h, err = openHistory(path, 10); err != nil || h.newest(1)[0].Name != "after" {
		t.Errorf("after the cut: %v, %+v", err, h.newest(1))
	}
}

func TestReceiversAreChecked(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"receivers:\n- {name: a, type: pager, url: http://x}":                                                  "webhook, alertmanager",
		"receivers:\n- {name: a, type: webhook}":                                                               "one of url and urlFile",
		"receivers:\n- {name: a, type: webhook, url: 'http://u:p@x/'}":                                         "tokenFile",
		"receivers:\n- {name: a, type: webhook, url: 'http://x', tokenFile: /none/x}":                          "tokenFile",
		"receivers:\n- {name: a, type: webhook, url: 'http://x', token: abc}":                                  "token",
		"receivers:\n- {name: a, type: webhook, url: 'http://x', severities: [Bad]}":                           "Critical, Warning, Info",
		"receivers:\n- {name: a, type: webhook, url: 'http://x'}\n- {name: a, type: webhook, url: 'http://x'}": "the name of receivers[0]",
	} {
		file := filepath.Join(dir, "r.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadReceivers(file); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
