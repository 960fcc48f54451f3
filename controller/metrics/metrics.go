// Package metrics shows what the controller knows to Prometheus. The figures
// are read from the observer at each scrape; nothing is counted twice.
package metrics

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"weft/controller/flowstore"
	"weft/controller/observe"
	"weft/model"
)

// Source is where the figures come from.
type Source interface {
	Workloads() []*model.Workload
	Alerts() []*model.Alert
	HostStatus(h *model.Host) model.HostStatus
	TapStatus(t *model.Tap) model.TapStatus
	PolicyStatus(p *model.Policy) model.PolicyStatus
	ProbeStatus(p *model.Probe) model.ProbeStatus
	Probed() map[string]uint64
}

// Lister reads resources.
type Lister interface {
	List(ctx context.Context, kind model.Kind) ([]model.Resource, int64, error)
}

// Flows tells what becomes of the flows that agents report.
type Flows interface {
	Counts() flowstore.Counts
	Lost() uint64
	Queue() flowstore.Queue
}

// Metrics is a prometheus.Collector over a Source.
type Metrics struct {
	source Source
	store  Lister
	flows  Flows
	log    *slog.Logger

	hosts, silent, alerts, workloads, tapPackets, tapBytes, tapState, policyState, ruleConnections, hostDrops *prometheus.Desc
	probeLatency, probeFailing, probeQuestions, probeFailures, hostQuestions                                  *prometheus.Desc
	flowsKept, flowBatches, flowsLost, flowQueue, flowQueueBytes, flowLag, flowsRefused                       *prometheus.Desc
}

// New makes the collector; it reads nothing yet.
func New(source Source, store Lister, flows Flows, log *slog.Logger) *Metrics {
	return &Metrics{source: source, store: store, flows: flows, log: log,
		hosts:      prometheus.NewDesc("weft_hosts", "Hosts by state of their agent's session.", []string{"state"}, nil),
		hostDrops:  prometheus.NewDesc("weft_host_drops_total", "Packets that a host's kernel has thrown away, by its name for the reason, but for what policy turned down. They begin anew when the host does.", []string{"host", "reason"}, nil),
		silent:     prometheus.NewDesc("weft_hosts_silent", "Hosts whose agent should be heard and is not.", nil, nil),
		alerts:     prometheus.NewDesc("weft_alerts", "Things that are wrong with hosts, by the type of the condition and its severity.", []string{"type", "severity"}, nil),
		workloads:  prometheus.NewDesc("weft_workloads", "Workloads by kind.", []string{"kind"}, nil),
		tapPackets: prometheus.NewDesc("weft_tap_packets_total", "The tap's ledger in packets: what became of those seen.", []string{"tap", "host", "tool", "account"}, nil),
		tapBytes:   prometheus.NewDesc("weft_tap_bytes_total", "The tap's ledger in bytes: what became of those seen.", []string{"tap", "host", "tool", "account"}, nil),
		tapState:   prometheus.NewDesc("weft_tap_state", "1 for the state the tap is in.", []string{"tap", "state"}, nil),

		policyState:     prometheus.NewDesc("weft_policy_state", "1 for the state the policy is in.", []string{"policy", "state"}, nil),
		ruleConnections: prometheus.NewDesc("weft_policy_rule_connections", "Connections that the rule has decided; of a staged policy, would have decided of those remembered.", []string{"policy", "direction", "rule"}, nil),

		probeLatency:   prometheus.NewDesc("weft_probe_latency_seconds", "How long answers took in a host's last turn of a scheduled probe; none where nothing was answered, or the host has no session.", []string{"probe", "host", "quantile"}, nil),
		probeFailing:   prometheus.NewDesc("weft_probe_failing_ratio", "The share of questions without a good answer in that turn, from 0 to 1.", []string{"probe", "host"}, nil),
		probeQuestions: prometheus.NewDesc("weft_probe_questions_total", "Questions that a host has asked for a scheduled probe, since its agent was started or told something else.", []string{"probe", "host"}, nil),
		probeFailures:  prometheus.NewDesc("weft_probe_failures_total", "Those without a good answer.", []string{"probe", "host"}, nil),
		hostQuestions:  prometheus.NewDesc("weft_host_probe_questions_total", "Questions that a host has asked for all probes, also those on demand, since its agent was started.", []string{"host"}, nil),

		flowsKept:      prometheus.NewDesc("weft_flows_total", "Flows that were kept since the controller started.", nil, nil),
		flowBatches:    prometheus.NewDesc("weft_flow_batches_total", "Batches of flows that were kept since the controller started.", nil, nil),
		flowsLost:      prometheus.NewDesc("weft_flows_lost", "Flows that agents could not keep while the controller, or its database, was away; of those heard of within --flows-keep.", nil, nil),
		flowQueue:      prometheus.NewDesc("weft_flow_queue_batches", "Batches of flows that wait to be kept.", nil, nil),
		flowQueueBytes: prometheus.NewDesc("weft_flow_queue_bytes", "Memory of what waits, and of what is being kept.", nil, nil),
		flowLag:        prometheus.NewDesc("weft_flow_queue_seconds", "How long the first of those batches has waited.", nil, nil),
		flowsRefused:   prometheus.NewDesc("weft_flow_sessions_refused", "Agents that were told to hold their flows until there is room.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.hosts, m.silent, m.alerts, m.workloads, m.tapPackets, m.tapBytes, m.tapState, m.policyState, m.ruleConnections, m.hostDrops,
		m.probeLatency, m.probeFailing, m.probeQuestions, m.probeFailures, m.hostQuestions,
		m.flowsKept, m.flowBatches, m.flowsLost, m.flowQueue, m.flowQueueBytes, m.flowLag, m.flowsRefused} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	ctx := context.Background()
	states := map[model.HostState]int{model.HostOnline: 0, model.HostOffline: 0, model.HostRevoked: 0}
	for _, r := range m.list(ctx, model.KindHost) {
		status := m.source.HostStatus(r.(*model.Host))
		states[status.State]++
		for reason, packets := range status.Drops {
			ch <- prometheus.MustNewConstMetric(m.hostDrops, prometheus.CounterValue, float64(packets), r.Meta().Name, reason)
		}
	}
	for state, n := range states {
		ch <- prometheus.MustNewConstMetric(m.hosts, prometheus.GaugeValue, float64(n), string(state))
	}
	type class struct {
		typ      string
		severity model.Severity
	}
	alerts, silent := map[class]int{}, 0
	for _, a := range m.source.Alerts() {
		alerts[class{a.Spec.Type, a.Spec.Severity}]++
		if a.Spec.Type == observe.ConditionSilent {
			silent++
		}
	}
	ch <- prometheus.MustNewConstMetric(m.silent, prometheus.GaugeValue, float64(silent))
	for c, n := range alerts {
		ch <- prometheus.MustNewConstMetric(m.alerts, prometheus.GaugeValue, float64(n), c.typ, string(c.severity))
	}
	kinds := map[model.WorkloadKind]int{}
	for _, w := range m.source.Workloads() {
		kinds[w.Spec.Kind]++
	}
	for kind, n := range kinds {
		ch <- prometheus.MustNewConstMetric(m.workloads, prometheus.GaugeValue, float64(n), string(kind))
	}
	m.collectFlows(ch)
	m.collectProbes(ctx, ch)
	for _, r := range m.list(ctx, model.KindTap) {
		tap := r.(*model.Tap)
		status := m.source.TapStatus(tap)
		ch <- prometheus.MustNewConstMetric(m.tapState, prometheus.GaugeValue, 1, tap.Metadata.Name, string(status.State))
		for _, p := range status.Paths {
			m.ledger(ch, tap.Metadata.Name, p)
		}
	}
	for _, r := range m.list(ctx, model.KindPolicy) {
		policy := r.(*model.Policy)
		status := m.source.PolicyStatus(policy)
		ch <- prometheus.MustNewConstMetric(m.policyState, prometheus.GaugeValue, 1, policy.Metadata.Name, string(status.State))
		for _, rule := range status.Rules {
			ch <- prometheus.MustNewConstMetric(m.ruleConnections, prometheus.GaugeValue, float64(rule.Connections), policy.Metadata.Name, rule.Direction, rule.Name)
		}
	}
}

func (m *Metrics) collectFlows(ch chan<- prometheus.Metric) {
	if m.flows == nil {
		return
	}
	kept, queue := m.flows.Counts(), m.flows.Queue()
	ch <- prometheus.MustNewConstMetric(m.flowsKept, prometheus.CounterValue, float64(kept.Flows))
	ch <- prometheus.MustNewConstMetric(m.flowBatches, prometheus.CounterValue, float64(kept.Batches))
	ch <- prometheus.MustNewConstMetric(m.flowsLost, prometheus.GaugeValue, float64(m.flows.Lost()))
	ch <- prometheus.MustNewConstMetric(m.flowQueue, prometheus.GaugeValue, float64(queue.Batches))
	ch <- prometheus.MustNewConstMetric(m.flowQueueBytes, prometheus.GaugeValue, float64(queue.Bytes))
	ch <- prometheus.MustNewConstMetric(m.flowLag, prometheus.GaugeValue, queue.Lag.Seconds())
	ch <- prometheus.MustNewConstMetric(m.flowsRefused, prometheus.GaugeValue, float64(queue.Refused))
}

func (m *Metrics) collectProbes(ctx context.Context, ch chan<- prometheus.Metric) {
	for _, r := range m.list(ctx, model.KindProbe) {
		p := r.(*model.Probe)
		for _, h := range m.source.ProbeStatus(p).Hosts {
			ch <- prometheus.MustNewConstMetric(m.probeQuestions, prometheus.CounterValue, float64(h.Asked), p.Metadata.Name, h.Host)
			ch <- prometheus.MustNewConstMetric(m.probeFailures, prometheus.CounterValue, float64(h.Failed), p.Metadata.Name, h.Host)
			if h.Result == nil || h.Message != "" {
				continue
			}
			ch <- prometheus.MustNewConstMetric(m.probeFailing, prometheus.GaugeValue, h.Result.FailedPercent()/100, p.Metadata.Name, h.Host)
			if h.Result.OK == 0 {
				continue
			}
			for quantile, v := range map[string]float64{"0.5": h.Result.Latency.P50, "0.9": h.Result.Latency.P90, "0.99": h.Result.Latency.P99, "0.999": h.Result.Latency.P999} {
				ch <- prometheus.MustNewConstMetric(m.probeLatency, prometheus.GaugeValue, v, p.Metadata.Name, h.Host, quantile)
			}
		}
	}
	for host, n := range m.source.Probed() {
		ch <- prometheus.MustNewConstMetric(m.hostQuestions, prometheus.CounterValue, float64(n), host)
	}
}

func (m *Metrics) ledger(ch chan<- prometheus.Metric, tap string, p model.TapPath) {
	for _, a := range []struct {
		name  string
		count model.Count
	}{
		{"seen", p.Ledger.Seen}, {"filtered", p.Ledger.Filtered}, {"sampled", p.Ledger.Sampled},
		{"deduplicated", p.Ledger.Deduplicated}, {"shed", p.Ledger.Shed}, {"ringDropped", p.Ledger.RingDropped},
		{"pathDropped", p.Ledger.PathDropped}, {"delivered", p.Ledger.Delivered},
	} {
		ch <- prometheus.MustNewConstMetric(m.tapPackets, prometheus.CounterValue, float64(a.count.Packets), tap, p.Host, p.Tool, a.name)
		ch <- prometheus.MustNewConstMetric(m.tapBytes, prometheus.CounterValue, float64(a.count.Bytes), tap, p.Host, p.Tool, a.name)
	}
}

func (m *Metrics) list(ctx context.Context, kind model.Kind) []model.Resource {
	list, _, err := m.store.List(ctx, kind)
	if err != nil {
		m.log.Warn("list resources for metrics", "kind", kind, "error", err)
	}
	return list
}

// Handler serves the collector, others, and the process's own figures.
func (m *Metrics) Handler(others ...prometheus.Collector) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(others...)
	reg.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
}
