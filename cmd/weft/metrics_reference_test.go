package main

import (
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"weft/agent/transport"
	"weft/controller/export"
	"weft/controller/metrics"
	"weft/internal/golden"
	"weft/internal/identity"
	"weft/model"
	"weft/relay"
)

// recorder is a registry that only notes what is registered. A vector without
// children cannot be gathered, but it can describe itself.
type recorder struct{ collectors []prometheus.Collector }

func (r *recorder) Register(c prometheus.Collector) error {
	r.collectors = append(r.collectors, c)
	return nil
}

func (r *recorder) MustRegister(cs ...prometheus.Collector) {
	r.collectors = append(r.collectors, cs...)
}

func (r *recorder) Unregister(prometheus.Collector) bool { return false }

// description reads a Desc, which shows itself as text only.
var description = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "([^"]*)", (?:unit: "[^"]*", )?constLabels: \{\}, variableLabels: \{([^}]*)\}\}$`)

// The page is made of the collectors that the programs register.
func TestMetricsReferenceIsCurrent(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	var ofController, ofRelay, ofAgent recorder
	ofController.MustRegister(metrics.New(nil, nil, nil, log), &export.Export{})
	dir := t.TempDir()
	id, err := identity.New(identity.Config{Dir: dir, Controller: "https://localhost:1", Role: model.RoleRelay, Name: "relay"}, identity.Deps{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := relay.New(relay.Config{Listen: ":0"}, relay.Deps{Identity: id, Log: log, Registry: &ofRelay}); err != nil {
		t.Fatal(err)
	}
	if _, err := transport.New(transport.Config{Listen: ":0"}, transport.Deps{Identity: id, Log: log, Registry: &ofAgent}); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("# Metrics\n\nMade from the registered collectors by `go test ./cmd/weft -run Reference -update`; change the help texts in the code.\n\n" +
		"Served at `/metrics` as plain HTTP where `--metrics ADDRESS` is given, which has no access control: keep it private. Controller and relay\n" +
		"also serve Prometheus's usual figures of a Go process (`go_…`, `process_…`).\n")
	section := func(title, text string, r recorder) {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| name | type | labels | meaning |\n|---|---|---|---|\n", title, text)
		b.WriteString(strings.Join(describe(t, r), ""))
	}
	section("Controller", "`weft controller --metrics`. The accounts of a tap are those of its [ledger](../guide/first-tap.md#the-ledger), by source host and tool.", ofController)
	section("Relay", "`weft relay --metrics`, which serves `/healthz` too.", ofRelay)
	section("Agent", "The agent counts these but serves no metrics yet; it opens no port for them. The ledgers of its taps are in the controller's metrics.", ofAgent)
	golden.Equal(t, "../../../docs/reference/metrics.md", b.String())
}

func describe(t *testing.T, r recorder) []string {
	t.Helper()
	var rows []string
	for _, c := range r.collectors {
		descs := make(chan *prometheus.Desc, 64)
		c.Describe(descs)
		close(descs)
		for d := range descs {
			m := description.FindStringSubmatch(d.String())
			if m == nil {
				t.Fatalf("cannot read %s", d)
			}
			kind := "gauge"
			if strings.HasSuffix(m[1], "_total") { // what OpenMetrics calls a counter
				kind = "counter"
			}
			labels := ""
			if m[3] != "" {
				labels = "`" + strings.ReplaceAll(m[3], ",", "`, `") + "`"
			}
			rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |\n", m[1], kind, labels, m[2]))
		}
	}
	if len(rows) == 0 {
		t.Error("no collector is registered")
	}
	slices.Sort(rows)
	return rows
}
