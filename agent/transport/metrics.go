package transport

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	dials    *prometheus.CounterVec
	accepted *prometheus.CounterVec
	refused  *prometheus.CounterVec
	upgrades prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		dials: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_transport_dials_total",
			Help: "Streams that this agent dialled, by result: direct, relay, failed.",
		}, []string{"result"}),
		accepted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_transport_accepted_total",
			Help: "Streams that this agent accepted, by path: direct, relay.",
		}, []string{"path"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_transport_refused_total",
			Help: "Connections that were refused, by reason: handshake, rate (one address too fast), pending (too many at once).",
		}, []string{"reason"}),
		upgrades: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_transport_upgrades_total",
			Help: "Relayed streams that were closed because a direct path was proven.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.dials, m.accepted, m.refused, m.upgrades)
	}
	return m
}
