package metrics

import (
	"context"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"weft/controller/flowstore"
	"weft/model"
)

type world struct{}

func (world) Workloads() []*model.Workload {
	return []*model.Workload{{Spec: model.WorkloadSpec{Kind: model.WorkloadHost}}, {Spec: model.WorkloadSpec{Kind: model.WorkloadContainer}}}
}

func (world) Alerts() []*model.Alert {
	return []*model.Alert{{Spec: model.AlertSpec{Host: "one", Type: "AgentSilent", Severity: model.SeverityCritical}},
		{Spec: model.AlertSpec{Host: "one", Type: "ClockSkew", Severity: model.SeverityWarning}}}
}

func (world) HostStatus(*model.Host) model.HostStatus {
	return model.HostStatus{State: model.HostOnline, Drops: map[string]uint64{"NO_SOCKET": 4}}
}

func (world) TapStatus(*model.Tap) model.TapStatus {
	l := model.Ledger{Seen: model.Count{Packets: 10, Bytes: 1000}, Filtered: model.Count{Packets: 3, Bytes: 300}, Delivered: model.Count{Packets: 7, Bytes: 700}}
	return model.TapStatus{State: model.TapActive, Paths: []model.TapPath{{Host: "web-1", Tool: "ids", Ledger: l}}}
}

func (world) ProbeStatus(*model.Probe) model.ProbeStatus {
	return model.ProbeStatus{Hosts: []model.ProbeHost{
		{Host: "web-1", Asked: 20, Failed: 5, Result: &model.ProbeResult{Asked: 10, OK: 8, Latency: model.ProbeLatency{P50: 0.001, P90: 0.002, P99: 0.003, P999: 0.004}}},
		{Host: "web-2", Asked: 10, Failed: 10, Result: &model.ProbeResult{Asked: 10}},
		{Host: "web-3", Message: "offline", Asked: 10, Result: &model.ProbeResult{Asked: 10, OK: 10}}}}
}

func (world) Probed() map[string]uint64 { return map[string]uint64{"web-1": 30} }

func (world) PolicyStatus(*model.Policy) model.PolicyStatus {
	return model.PolicyStatus{State: model.PolicyActive, Rules: []model.PolicyRuleStatus{{Name: "web", Direction: "ingress", Connections: 12}}}
}

func (world) Counts() flowstore.Counts { return flowstore.Counts{Batches: 3, Flows: 70} }
func (world) Lost() uint64             { return 5 }
func (world) Queue() flowstore.Queue {
	return flowstore.Queue{Batches: 2, Bytes: 4096, Refused: 1, Lag: 1500 * time.Millisecond}
}

func (world) List(_ context.Context, kind model.Kind) ([]model.Resource, int64, error) {
	r := model.MustKind(kind).New()
	r.Meta().Name = "one"
	return []model.Resource{r}, 1, nil
}

func TestMetricsShowTheLedger(t *testing.T) {
	rec := httptest.NewRecorder()
	New(world{}, world{}, world{}, slog.New(slog.DiscardHandler)).Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	body, err := io.ReadAll(rec.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`weft_hosts{state="Online"} 1`,
		`weft_workloads{kind="container"} 1`,
		`weft_hosts_silent 1`,
		`weft_host_drops_total{host="one",reason="NO_SOCKET"} 4`,
		`weft_flows_total 70`,
		`weft_flow_batches_total 3`,
		`weft_flows_lost 5`,
		`weft_flow_queue_batches 2`,
		`weft_flow_queue_bytes 4096`,
		`weft_flow_queue_seconds 1.5`,
		`weft_flow_sessions_refused 1`,
		`weft_alerts{severity="Critical",type="AgentSilent"} 1`,
		`weft_alerts{severity="Warning",type="ClockSkew"} 1`,
		`weft_tap_state{state="Active",tap="one"} 1`,
		`weft_tap_packets_total{account="seen",host="web-1",tap="one",tool="ids"} 10`,
		`weft_tap_packets_total{account="delivered",host="web-1",tap="one",tool="ids"} 7`,
		`weft_tap_bytes_total{account="filtered",host="web-1",tap="one",tool="ids"} 300`,
		`weft_policy_state{policy="one",state="Active"} 1`,
		`weft_policy_rule_connections{direction="ingress",policy="one",rule="web"} 12`,
		`weft_probe_latency_seconds{host="web-1",probe="one",quantile="0.99"} 0.003`,
		`weft_probe_failing_ratio{host="web-1",probe="one"} 0.2`,
		`weft_probe_failing_ratio{host="web-2",probe="one"} 1`,
		`weft_probe_questions_total{host="web-3",probe="one"} 10`,
		`weft_probe_failures_total{host="web-1",probe="one"} 5`,
		`weft_host_probe_questions_total{host="web-1"} 30`,
		`weft_tap_packets_total{account="pathDropped",host="web-1",tap="one",tool="ids"} 0`,
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("no line %q", want)
		}
	}
	// What is not known is not shown as if it were.
	for _, no := range []string{`weft_probe_latency_seconds{host="web-2"`, `weft_probe_latency_seconds{host="web-3"`, `weft_probe_failing_ratio{host="web-3"`} {
		if strings.Contains(string(body), no) {
			t.Errorf("there is a line %q", no)
		}
	}
}
