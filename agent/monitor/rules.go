package monitor

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"weft/model"
	"weft/wire/wirepb"
)

// Limits on what rules remember.
const (
	maxRules    = 256
	maxSubjects = 1000 // of a rule
	// lookEvery is how often the machine is looked at while there are rules.
	lookEvery = 5 * time.Second
)

// Rules judges samples by alert rules: what goes too far for long enough is a
// condition of the machine until it is over.
type Rules struct {
	watch  *Watch
	turns  func() []model.ProbeTurn
	failed func(error)

	mu    sync.Mutex
	rules []*rule
	wake  chan struct{}
}

// rule is one alert rule with what it remembers.
type rule struct {
	*wirepb.AlertRule
	subjects map[string]*subject
	looked   uint64
}

// subject is a thing that a rule is about: the machine, a process, a disk.
type subject struct {
	name   string
	since  time.Time // it has gone too far, monotonic; zero where it has not
	wall   time.Time // the same, for people
	value  float64   // when the alert was raised
	firing bool
	looked uint64
}

// NewRules judges what a Watch sees, and the last turns of probes; these may be nil.
// failed is called where the machine cannot be looked at.
func NewRules(w *Watch, turns func() []model.ProbeTurn, failed func(error)) *Rules {
	if turns == nil {
		turns = func() []model.ProbeTurn { return nil }
	}
	return &Rules{watch: w, turns: turns, failed: failed, wake: make(chan struct{}, 1)}
}

// Apply takes the rules over. What a rule remembers stays where it is as before.
func (r *Rules) Apply(_ context.Context, s *wirepb.MonitorSection) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := map[string]*rule{}
	for _, x := range r.rules {
		old[x.String()] = x
	}
	r.rules = nil
	var err error
	for i, x := range s.GetRules() {
		if i == maxRules {
			err = fmt.Errorf("%d alert rules are about this host; the first %d by name are judged", len(s.GetRules()), maxRules)
			break
		}
		if kept := old[x.String()]; kept != nil {
			r.rules = append(r.rules, kept)
		} else {
			r.rules = append(r.rules, &rule{AlertRule: x, subjects: map[string]*subject{}})
		}
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return err
}

// Run judges until ctx ends. Without rules it looks at nothing.
func (r *Rules) Run(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-tick.C:
		}
		r.mu.Lock()
		idle := len(r.rules) == 0
		r.mu.Unlock()
		if idle {
			continue
		}
		if err := r.watch.Sample(func(s *model.Sample) { r.judge(s, time.Now()) }); err != nil {
			r.failed(err)
		}
	}
}

// judge takes a sample into account.
func (r *Rules) judge(s *model.Sample, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	turns := r.turns()
	for _, x := range r.rules {
		x.looked++
		figures(s, turns, x.Metric, x.Subject, func(id, name string, value float64) { x.see(id, name, value, now) })
		for id, y := range x.subjects {
			if y.looked != x.looked { // gone, and what was wrong with it
				delete(x.subjects, id)
			}
		}
	}
}

func (x *rule) see(id, name string, value float64, now time.Time) {
	bad, over := value > x.Threshold, value <= x.Clear // of NaN, neither
	if x.Below {
		bad, over = value < x.Threshold, value >= x.Clear
	}
	y := x.subjects[id]
	if y == nil {
		if !bad || len(x.subjects) >= maxSubjects {
			return
		}
		y = &subject{name: name, since: now, wall: now}
		x.subjects[id] = y
	}
	y.looked = x.looked
	switch {
	case y.firing && over, !y.firing && !bad:
		delete(x.subjects, id)
	case !y.firing && now.Sub(y.since) >= time.Duration(x.ForSeconds)*time.Second:
		y.firing, y.value = true, value
	}
}

// Conditions are the alerts there are, by rule. Their texts change only when one
// is raised or over.
func (r *Rules) Conditions() []*wirepb.Condition {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*wirepb.Condition
	for _, x := range r.rules {
		var firing []*subject
		for _, y := range x.subjects {
			if y.firing {
				firing = append(firing, y)
			}
		}
		if len(firing) == 0 {
			continue
		}
		slices.SortFunc(firing, func(a, b *subject) int {
			return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.name, b.name))
		})
		word := "above"
		if x.Below {
			word = "below"
		}
		const most = 3
		var texts []string
		for _, y := range firing[:min(len(firing), most)] {
			texts = append(texts, strings.TrimSpace(y.name+" ")+" at "+short(y.value))
		}
		if rest := len(firing) - most; rest > 0 {
			texts = append(texts, fmt.Sprintf("%d more", rest))
		}
		out = append(out, &wirepb.Condition{Type: x.Name, Status: "True", Severity: x.Severity, Since: firing[0].wall.Unix(),
			Message: fmt.Sprintf("%s is %s %s for %s: %s", x.Metric, word, short(x.Threshold), time.Duration(x.ForSeconds)*time.Second, strings.Join(texts, ", "))})
	}
	return out
}

func short(v float64) string {
	return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
}

// figures calls f with each subject of a metric whose name matches, and its figure;
// NaN where nobody knows.
func figures(s *model.Sample, turns []model.ProbeTurn, metric, pattern string, f func(id, name string, value float64)) {
	matches := func(name string) bool {
		if pattern == "" {
			return true
		}
		ok, _ := path.Match(pattern, name)
		return ok
	}
	one := func(v float64) { f("", "the machine", v) }
	rates := s.Seconds > 0
	switch metric {
	case "cpu":
		if rates {
			one(s.CPU.Busy())
		}
	case "cpu.iowait":
		if rates {
			one(s.CPU.IOWait)
		}
	case "cpu.steal":
		if rates {
			one(s.CPU.Steal)
		}
	case "load":
		one(s.Load.One / float64(max(1, len(s.Cores))))
	case "memory":
		one(part(s.Memory.Used(), s.Memory.Total))
	case "swap":
		one(part(s.Swap.Used, s.Swap.Total))
	case "pressure.cpu", "pressure.memory", "pressure.io":
		if p := s.Pressure; p != nil {
			one(map[string]float64{"pressure.cpu": p.CPU, "pressure.memory": p.Memory, "pressure.io": p.IO}[metric])
		}
	case "disk.busy":
		for _, d := range s.Disks {
			if rates && matches(d.Name) {
				f(d.Name, d.Name, d.Busy)
			}
		}
	case "filesystem", "filesystem.inodes":
		for _, x := range s.Filesystems {
			v := x.Percent()
			if metric == "filesystem.inodes" {
				v = part(x.Inodes-min(x.InodesFree, x.Inodes), x.Inodes)
			}
			if matches(x.Mount) {
				f(x.Mount, x.Mount, v)
			}
		}
	case "network.received", "network.sent", "network.errors":
		for _, i := range s.Interfaces {
			if rates && matches(i.Name) {
				f(i.Name, i.Name, map[string]float64{"network.received": i.ReceivedBytes, "network.sent": i.SentBytes, "network.errors": i.Errors + i.Drops}[metric])
			}
		}
	case "temperature":
		for _, x := range s.Sensors {
			if x.Unit == "C" && matches(x.Name) {
				f(x.Name, x.Name, x.Value)
			}
		}
	case "process.cpu", "process.memory":
		for i := range s.Processes {
			p := &s.Processes[i]
			if !matches(p.Name) || !rates {
				continue
			}
			v := p.CPU
			if metric == "process.memory" {
				v = part(p.Memory, s.Memory.Total)
			}
			f(strconv.Itoa(p.PID)+"@"+strconv.FormatFloat(p.Started, 'f', 2, 64), p.Name+" ("+strconv.Itoa(p.PID)+")", v)
		}
	case "process.count":
		n := 0
		for i := range s.Processes {
			if matches(s.Processes[i].Name) {
				n++
			}
		}
		f("", "processes named "+pattern, float64(n))
	case "probe.p50", "probe.p90", "probe.p99", "probe.errors":
		for _, t := range turns {
			if r := t.Result; matches(t.Probe) {
				f(t.Probe, t.Probe, probed(r, metric))
			}
		}
	case "workload.cpu", "workload.memory":
		for _, w := range s.Workloads {
			if !matches(w.Name) || !rates {
				continue
			}
			v := w.CPU
			if metric == "workload.memory" {
				limit := w.MemoryLimit
				if limit == 0 {
					limit = s.Memory.Total
				}
				v = part(w.Memory, limit)
			}
			f(w.ID, w.Name, v)
		}
	}
}

// probed is a figure of a turn: latencies in milliseconds. Where nothing was answered
// there is none, and what was wrong with them is not over by that.
func probed(r *model.ProbeResult, metric string) float64 {
	switch {
	case r.Asked == 0, r.OK == 0 && metric != "probe.errors":
		return math.NaN()
	case metric == "probe.errors":
		return r.FailedPercent()
	}
	return 1000 * map[string]float64{"probe.p50": r.Latency.P50, "probe.p90": r.Latency.P90, "probe.p99": r.Latency.P99}[metric]
}

func part(of, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(of) / float64(whole)
}
