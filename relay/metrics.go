package relay

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

type metrics struct {
	connects   *prometheus.CounterVec
	handshakes *prometheus.CounterVec
}

func newMetrics(r *Relay, reg prometheus.Registerer) *metrics {
	m := &metrics{
		connects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_relay_connects_total",
			Help: "Streams that agents asked for, by result: ok, unknown, refused, limit, rate, bad, failed.",
		}, []string{"result"}),
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_relay_handshakes_total",
			Help: "Connections of agents, by result: ok, failed, rate (one address too fast), pending (too many at once).",
		}, []string{"result"}),
	}
	if reg != nil {
		reg.MustRegister(m.connects, m.handshakes,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "weft_relay_sessions",
				Help: "Agents that are connected.",
			}, func() float64 { return float64(r.registry.len()) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "weft_relay_streams",
				Help: "Pipes between two agents that are open.",
			}, func() float64 { return float64(r.pipes.len()) }),
			prometheus.NewCounterFunc(prometheus.CounterOpts{
				Name: "weft_relay_forwarded_bytes_total",
				Help: "Bytes of ciphertext carried between agents, both directions.",
			}, func() float64 { return float64(r.pipes.bytes.Load()) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "weft_relay_certificate_expires_seconds",
				Help: "When the relay's certificate ends, Unix seconds; 0 before it has one.",
			}, func() float64 {
				if cert := r.deps.Identity.Certificate(); cert != nil {
					return float64(cert.NotAfter.Unix())
				}
				return 0
			}))
	}
	return m
}

// Stats are the relay's counts at one moment.
type Stats struct {
	Sessions int    // agents
	Streams  int    // pipes
	Bytes    uint64 // forwarded since the start
}

// Stats returns the present counts.
func (r *Relay) Stats() Stats {
	return Stats{Sessions: r.registry.len(), Streams: r.pipes.len(), Bytes: r.pipes.bytes.Load()}
}

// Handler serves /metrics and /healthz. The latter answers 200 while the relay
// listens with a certificate, else 503 and why.
func (r *Relay) Handler(gatherer prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-r.listened:
		default:
			http.Error(w, "not listening yet", http.StatusServiceUnavailable)
			return
		}
		if err := r.deps.Identity.Problem(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("ok\n"))
	})
	return mux
}
