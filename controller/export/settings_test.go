package export

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"weft/controller/flowstore"
)

func TestSettingsAreChecked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "exports.yaml")
	for text, want := range map[string]string{
		"":                                     "none is there",
		"exporters:\n- name: a\n":              "yaml:2: exporters[0]: give one of jsonLines, ipfix, otlp, kafka; here are 0",
		"exporters:\n- name: a\n  filter: x\n": "filter",
		"exporters:\n- name: a\n  where: 'port=('\n  jsonLines: {stdout: true}\n":                    "yaml:3: exporters[0].where",
		"exporters:\n- {name: a, jsonLines: {stdout: true, file: /x}}":                               "one of file, stdout, unix, url; here are 2",
		"exporters:\n- {name: a, jsonLines: {file: x}}":                                              "no absolute path",
		"exporters:\n- {name: a, jsonLines: {url: 'http://u:p@x/'}}":                                 "tokenFile",
		"exporters:\n- {name: a, jsonLines: {stdout: true}}\n- {name: a, jsonLines: {stdout: true}}": "is the name of exporters[0] too",
		"exporters:\n- {name: a, reports: Some, jsonLines: {stdout: true}}":                          "Counted, All",
		"exporters:\n- {name: a, ipfix: {address: x}}":                                               "HOST:PORT",
		"exporters:\n- {name: a, ipfix: {address: 'x:4739', tls: true}}":                             "transport: tcp",
		"exporters:\n- {name: a, ipfix: {address: 'x:4739', mtu: 500}}":                              "mtu: want 1280",
		"exporters:\n- {name: a, ipfix: {address: 'x:4739', enterprise: 29305}}":                     "enterprise",
		"exporters:\n- {name: a, otlp: {}}":                                                          "one of url and urlFile",
		"exporters:\n- {name: a, kafka: {brokers: ['x:9092'], topic: t, mechanism: PLAIN, user: u}}": "tls: true",
		"exporters:\n- {name: a, kafka: {brokers: ['x:9092'], topic: t, user: u, password: p}}":      "password",
		"metrics: {by: [pid]}":                    "client.LABEL",
		"metrics: {by: [client.a-b, client.a.b]}": "client_a_b",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadSettings(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s\n: %v, want %q", text, err, want)
		}
	}
}

// Series are bounded: what comes later is the sum of others. Of a report that does not
// count, what that host threw away does.
func TestSumsAreBounded(t *testing.T) {
	w := newWorld(t)
	e, stop := w.run("metrics: {by: [client.app, port], series: 2}\n", Deps{})
	defer stop()
	w.add(1, 10, func(i int, f *flowstore.Flow) { f.Server.Port, f.New = uint16(i/2), i%2 == 0 })
	w.add(1, 2, func(i int, f *flowstore.Flow) { f.Server.Port, f.Counted, f.Drops = 0, false, uint32(100*i) }) // the other end's
	await(t, "sums", func() bool { return e.followers[0].state().Sent == 12 })
	reg := prometheus.NewRegistry()
	reg.MustRegister(e)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := f.GetName()
			for _, l := range m.GetLabel() {
				key += " " + l.GetName() + "=" + l.GetValue()
			}
			got[key] = m.GetCounter().GetValue()
		}
	}
	for key, want := range map[string]float64{"weft_flow_connections_total client_app=web port=0": 1, "weft_flow_connections_total client_app=web port=1": 1, "weft_flow_connections_total client_app=other port=other": 3,
		"weft_flow_bytes_total client_app=other direction=received port=other": 42000, "weft_flow_packets_total client_app=web direction=sent port=0": 6,
		"weft_flow_dropped_packets_total client_app=web port=0": 4 + 4 + 100, "weft_flow_dropped_packets_total client_app=other port=other": 6 * 4} {
		if got[key] != want {
			t.Errorf("%s is %v, not %v", key, got[key], want)
		}
	}
	if len(got) != 18 {
		t.Errorf("%d series: %v", len(got), got)
	}
}

// The guide's example is read as it stands, once its secrets are there.
func TestGuideIsRead(t *testing.T) {
	guide, err := os.ReadFile("../../docs/guide/export.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(guide), "```yaml\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("there is no example")
	}
	dir := t.TempDir()
	for _, name := range []string{"siem.token", "otel.token", "kafka.password"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := settings(t, strings.ReplaceAll(example, "/etc/weft/", dir+"/"))
	if len(s.Exporters) != 5 || s.Metrics == nil {
		t.Errorf("%+v", s)
	}
}
