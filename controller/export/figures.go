package export

import "github.com/prometheus/client_golang/prometheus"

var (
	descFlows    = prometheus.NewDesc("weft_export_flows_total", "Flows by what became of them since the controller started: sent, refused by the receiver for good, or gone (at most so many), which the store forgot before they were sent.", []string{"exporter", "state"}, nil)
	descFailures = prometheus.NewDesc("weft_export_failures_total", "Attempts to send flows that failed and are made again.", []string{"exporter"}, nil)
	descBehind   = prometheus.NewDesc("weft_export_behind_seconds", "How long ago the first flow was reported that is not sent yet; 0 where all are.", []string{"exporter"}, nil)
)

// Describe implements prometheus.Collector.
func (e *Export) Describe(ch chan<- *prometheus.Desc) {
	ch <- descFlows
	ch <- descFailures
	ch <- descBehind
	if e.sums != nil {
		e.sums.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (e *Export) Collect(ch chan<- prometheus.Metric) {
	for _, f := range e.followers {
		if f.name == sumsName {
			e.sums.Collect(ch)
			continue
		}
		s := f.state()
		for state, n := range map[string]uint64{"sent": s.Sent, "refused": s.Refused, "gone": s.Gone} {
			ch <- prometheus.MustNewConstMetric(descFlows, prometheus.CounterValue, float64(n), f.name, state)
		}
		ch <- prometheus.MustNewConstMetric(descFailures, prometheus.CounterValue, float64(s.Failures), f.name)
		ch <- prometheus.MustNewConstMetric(descBehind, prometheus.GaugeValue, s.Behind.Seconds(), f.name)
	}
}
