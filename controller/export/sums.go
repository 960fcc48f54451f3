package export

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"weft/controller/flowstore"
	"weft/model"
)

// Sums are figures for Prometheus: what flows come to by some fields, since the
// controller started.
type Sums struct {
	// By are fields that `weft flows --group-by` has, but those that differ in each
	// connection, and labels of an end as client.KEY and server.KEY.
	By []string `yaml:"by"`
	// Where narrows to flows that fulfil it.
	Where string `yaml:"where,omitempty"`
	// Series bounds how many there are, 1000 unless given; what comes later is summed
	// up as "other".
	Series int `yaml:"series,omitempty"`

	selector *model.Selector
}

const (
	seriesDefault = 1000
	maxSeries     = 100_000
	maxBy         = 8
)

// summable are the fields, and their values.
var summable = map[string]func(*flowstore.Flow) string{
	"client":   func(f *flowstore.Flow) string { return first(f.Client.Workload, address(f.Client.Address)) },
	"server":   func(f *flowstore.Flow) string { return first(f.Server.Workload, f.Name, address(f.Server.Address)) },
	"host":     func(f *flowstore.Flow) string { return f.Host },
	"port":     func(f *flowstore.Flow) string { return strconv.Itoa(int(f.Server.Port)) },
	"protocol": func(f *flowstore.Flow) string { return protocolName(f.Protocol) },
	"process":  func(f *flowstore.Flow) string { return f.Process },
	"user":     func(f *flowstore.Flow) string { return f.User },
	"name":     func(f *flowstore.Flow) string { return f.Name },
	"action":   func(f *flowstore.Flow) string { return string(f.Action) },
	"reporter": reporter,

	"client-country": func(f *flowstore.Flow) string { return f.Client.Country }, "server-country": func(f *flowstore.Flow) string { return f.Server.Country },
	"client-as": func(f *flowstore.Flow) string { return f.Client.System() }, "server-as": func(f *flowstore.Flow) string { return f.Server.System() },
}

func first(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

func address(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// valueOf finds the field of a name.
func valueOf(name string) (func(*flowstore.Flow) string, bool) {
	if v, ok := summable[name]; ok {
		return v, true
	}
	switch end, key, _ := strings.Cut(name, "."); {
	case key == "":
	case end == "client":
		return func(f *flowstore.Flow) string { return f.Client.Labels[key] }, true
	case end == "server":
		return func(f *flowstore.Flow) string { return f.Server.Labels[key] }, true
	}
	return nil, false
}

// seriesLabel is the name of a field as Prometheus has names.
func seriesLabel(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, name)
}

func (s *Sums) check() error {
	var errs []error
	if len(s.By) == 0 || len(s.By) > maxBy {
		errs = append(errs, fmt.Errorf("by: give 1 to %d fields", maxBy))
	}
	var labels []string
	for _, name := range s.By {
		if _, ok := valueOf(name); !ok {
			var known []string
			for k := range summable {
				known = append(known, k)
			}
			slices.Sort(known)
			errs = append(errs, fmt.Errorf("by: %q is none of %s, client.LABEL, server.LABEL", name, strings.Join(known, ", ")))
		}
		if slices.Contains(labels, seriesLabel(name)) {
			errs = append(errs, fmt.Errorf("by: two fields would be the label %s", seriesLabel(name)))
		}
		labels = append(labels, seriesLabel(name))
	}
	if s.Series < 0 || s.Series > maxSeries {
		errs = append(errs, fmt.Errorf("series: want 1 to %d", maxSeries))
	}
	var err error
	if s.selector, err = where(s.Where); err != nil {
		errs = append(errs, fmt.Errorf("where: %w", err))
	}
	return errors.Join(errs...)
}

// sums adds flows up, and is a prometheus.Collector.
type sums struct {
	values []func(*flowstore.Flow) string
	most   int

	bytes, packets, connections, drops *prometheus.Desc

	mu     sync.Mutex
	series map[string]*series
}

type series struct {
	labels         []string
	sent, received model.Count
	connections    uint64
	drops          uint64
}

// other is what series are called beyond the bound.
const other = "other"

func newSums(cfg *Sums) *sums {
	s := &sums{most: cfg.Series, series: map[string]*series{}}
	if s.most == 0 {
		s.most = seriesDefault
	}
	var labels []string
	for _, name := range cfg.By {
		v, _ := valueOf(name) // it was checked
		s.values, labels = append(s.values, v), append(labels, seriesLabel(name))
	}
	both := append(slices.Clone(labels), "direction")
	s.bytes = prometheus.NewDesc("weft_flow_bytes_total", "Bytes of connections, each counted once, by direction: what clients have sent and received.", both, nil)
	s.packets = prometheus.NewDesc("weft_flow_packets_total", "Packets of connections, each counted once, by direction.", both, nil)
	s.connections = prometheus.NewDesc("weft_flow_connections_total", "Connections that began.", labels, nil)
	s.drops = prometheus.NewDesc("weft_flow_dropped_packets_total", "Packets of connections that a host threw away, sent or received, as that host reports it.", labels, nil)
	return s
}

// send implements sender. Of the report that does not count it takes what only that
// host knows.
func (s *sums) send(_ context.Context, flows []flowstore.Flow) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	labels := make([]string, len(s.values))
	for i := range flows {
		f := &flows[i]
		if !f.Counted && f.Drops == 0 {
			continue
		}
		for n, v := range s.values {
			labels[n] = strings.ToValidUTF8(v(f), "\uFFFD")
		}
		x := s.of(labels)
		x.drops += uint64(f.Drops)
		if !f.Counted {
			continue
		}
		x.sent.Packets, x.sent.Bytes = x.sent.Packets+f.Sent.Packets, x.sent.Bytes+f.Sent.Bytes
		x.received.Packets, x.received.Bytes = x.received.Packets+f.Received.Packets, x.received.Bytes+f.Received.Bytes
		if f.New {
			x.connections++
		}
	}
	return len(flows), nil
}

func (s *sums) of(labels []string) *series {
	key := strings.Join(labels, "\x00")
	x, ok := s.series[key]
	if ok {
		return x
	}
	kept := slices.Clone(labels)
	if len(s.series) >= s.most {
		for i := range kept {
			kept[i] = other
		}
		key = strings.Join(kept, "\x00")
		if x, ok = s.series[key]; ok {
			return x
		}
	}
	x = &series{labels: kept}
	s.series[key] = x
	return x
}

func (s *sums) close() {}

// Describe implements prometheus.Collector.
func (s *sums) Describe(ch chan<- *prometheus.Desc) {
	ch <- s.bytes
	ch <- s.packets
	ch <- s.connections
	ch <- s.drops
}

// Collect implements prometheus.Collector.
func (s *sums) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	put := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	for _, x := range s.series {
		sent, received := append(slices.Clone(x.labels), "sent"), append(slices.Clone(x.labels), "received")
		put(s.bytes, x.sent.Bytes, sent...)
		put(s.bytes, x.received.Bytes, received...)
		put(s.packets, x.sent.Packets, sent...)
		put(s.packets, x.received.Packets, received...)
		put(s.connections, x.connections, x.labels...)
		put(s.drops, x.drops, x.labels...)
	}
}
