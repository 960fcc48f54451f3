package monitor

import (
	"strings"
	"testing"
	"time"

	"weft/model"
	"weft/wire/wirepb"
)

// A kvm that uses over 80 % for 30 s is an alert; it stays one until it uses no
// more than 60, and another process of its number is another.
func TestRulesHoldAndClear(t *testing.T) {
	r := NewRules(nil, nil, nil)
	section := &wirepb.MonitorSection{Rules: []*wirepb.AlertRule{
		{Name: "busy-kvm", Severity: "Critical", Metric: "process.cpu", Subject: "kvm", Threshold: 80, Clear: 60, ForSeconds: 30},
		{Name: "no-sshd", Severity: "Warning", Metric: "process.count", Subject: "sshd", Below: true, Threshold: 1, Clear: 1},
	}}
	if err := r.Apply(t.Context(), section); err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1000, 0)
	judge := func(after time.Duration, started, cpu float64, others ...string) string {
		at = at.Add(after)
		s := &model.Sample{Seconds: 2, Processes: []model.ProcessUse{{PID: 7, Name: "kvm", CPU: cpu, Started: started}, {PID: 8, Name: "other", CPU: 500}}}
		for i, name := range others {
			s.Processes = append(s.Processes, model.ProcessUse{PID: 100 + i, Name: name})
		}
		r.judge(s, at)
		var out []string
		for _, c := range r.Conditions() {
			out = append(out, c.Type+" "+c.Severity+": "+c.Message)
		}
		return strings.Join(out, "; ")
	}
	const raised = "busy-kvm Critical: process.cpu is above 80 for 30s: kvm (7) at 99"
	for i, step := range []struct {
		after        time.Duration
		started, cpu float64
		want         string
	}{
		{0, 1, 95, ""}, {29 * time.Second, 1, 95, ""}, {time.Second, 1, 99, raised}, {time.Minute, 1, 61, raised}, {time.Second, 1, 120, raised}, {time.Second, 1, 60, ""},
		{time.Second, 1, 70, ""}, {time.Second, 1, 90, ""}, {29 * time.Second, 1, 80, ""}, {time.Second, 1, 90, ""}, {30 * time.Second, 1, 99, raised}, {time.Second, 2, 99, ""}, {30 * time.Second, 2, 99, raised},
	} {
		if got := judge(step.after, step.started, step.cpu, "sshd"); got != step.want {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
	if err := r.Apply(t.Context(), section); err != nil { // the same again forgets nothing
		t.Fatal(err)
	}
	judge(time.Second, 2, 99)
	if got := judge(time.Second, 2, 99); !strings.Contains(got, raised) || !strings.Contains(got, "no-sshd Warning: process.count is below 1 for 0s: processes named sshd at 0") {
		t.Errorf("without sshd: %q", got)
	}
	if err := r.Apply(t.Context(), &wirepb.MonitorSection{}); err != nil || len(r.Conditions()) != 0 {
		t.Errorf("without rules: %v, %v", err, r.Conditions())
	}
}

// A probe that fails is an alert, and one of how long answers take is not over
// because there are none any more.
func TestRulesJudgeProbes(t *testing.T) {
	turn := model.ProbeTurn{Probe: "shop", Result: &model.ProbeResult{}}
	r := NewRules(nil, func() []model.ProbeTurn {
		return []model.ProbeTurn{turn, {Probe: "other", Result: &model.ProbeResult{Asked: 5}}}
	}, nil)
	if err := r.Apply(t.Context(), &wirepb.MonitorSection{Rules: []*wirepb.AlertRule{
		{Name: "shop-fails", Metric: "probe.errors", Subject: "shop", Threshold: 10, Clear: 10},
		{Name: "shop-slow", Metric: "probe.p99", Subject: "sh*", Threshold: 200, Clear: 100},
	}}); err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1000, 0)
	for i, step := range []struct {
		asked, ok uint64
		p99       float64
		want      string
	}{
		{10, 10, 0.15, ""}, {10, 9, 0.25, "shop-slow"}, {10, 10, 0.15, "shop-slow"}, {10, 0, 0, "shop-fails shop-slow"}, {0, 0, 0, "shop-fails shop-slow"},
		{10, 10, 0.25, "shop-slow"}, {10, 10, 0.1, ""}, {10, 0, 0, "shop-fails"}, {10, 10, 0.05, ""},
	} {
		turn.Result = &model.ProbeResult{Asked: step.asked, OK: step.ok, Latency: model.ProbeLatency{P99: step.p99}}
		for range 2 { // the second time it has gone on for long enough
			at = at.Add(time.Second)
			r.judge(&model.Sample{}, at)
		}
		var got []string
		for _, c := range r.Conditions() {
			got = append(got, c.Type)
		}
		if strings.Join(got, " ") != step.want {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
}

// Every metric that a rule may name has a figure.
func TestEveryMetric(t *testing.T) {
	s := &model.Sample{Seconds: 1, Memory: model.MemoryUse{Total: 1}, Pressure: &model.Pressure{}, Disks: []model.DiskUse{{}}, Filesystems: []model.FilesystemUse{{}}, Interfaces: []model.InterfaceUse{{}},
		Sensors: []model.Sensor{{Unit: "C"}}, Processes: []model.ProcessUse{{}}, Workloads: []model.WorkloadUse{{}}}
	for _, m := range model.Metrics {
		n := 0
		figures(s, []model.ProbeTurn{{Result: &model.ProbeResult{Asked: 1, OK: 1}}}, string(m), "", func(string, string, float64) { n++ })
		if n != 1 {
			t.Errorf("%s has %d figures", m, n)
		}
	}
}
