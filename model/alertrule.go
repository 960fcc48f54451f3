package model

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// AlertRule has hosts watch themselves: what goes too far for long enough becomes
// an alert of the rule's name, until it is over. Agents judge by themselves, also
// while the controller is away.
type AlertRule struct {
	TypeMeta
	Metadata Metadata        `json:"metadata"`
	Spec     AlertRuleSpec   `json:"spec"`
	Status   AlertRuleStatus `json:"status,omitzero"`
}

// AlertRuleSpec says what goes too far. Exactly one of above and below is given.
type AlertRuleSpec struct {
	// Hosts takes every host whose labels it matches; all unless given.
	Hosts *Selector `json:"hosts,omitempty"`
	// Severity is Critical, Warning or Info; Warning unless given.
	Severity Severity `json:"severity,omitempty"`
	// Metric is what is looked at: cpu, cpu.iowait, cpu.steal, memory, swap,
	// pressure.cpu, pressure.memory, pressure.io (percent), load (for each core),
	// disk.busy, filesystem, filesystem.inodes (percent, of each), network.received,
	// network.sent (bytes a second, of each interface), network.errors (errors and
	// drops a second), temperature (degrees Celsius), process.cpu (percent of one
	// core), process.memory (percent of the machine's), process.count, workload.cpu
	// (percent of one core), workload.memory (percent of its limit, or of the
	// machine's), probe.p50, probe.p90, probe.p99 (milliseconds, of each probe's last
	// turn), probe.errors (percent of its questions).
	Metric Metric `json:"metric"`
	// Match says which processes, workloads, file systems, disks, interfaces, sensors
	// or probes, by name, as a pattern of path.Match ("kvm", "/var*"); any unless given.
	Match string `json:"match,omitempty"`
	// Above is the threshold of what goes too far upwards.
	Above *float64 `json:"above,omitempty"`
	// Below is the threshold of what goes too far downwards.
	Below *float64 `json:"below,omitempty"`
	// Clear is where it is over again: not above it, or not below it. It keeps an
	// alert from coming and going; the threshold unless given.
	Clear *float64 `json:"clear,omitempty"`
	// For is how long it must go on, as 30s or 5m; 30s unless given, at most 24h.
	For string `json:"for,omitempty"`
}

// AlertRuleStatus is computed, never written by a person.
type AlertRuleStatus struct {
	// Firing are the hosts that have an alert by it.
	Firing []string `json:"firing,omitempty"`
}

// Metric is what an AlertRule looks at.
type Metric string

// Metrics lists them.
var Metrics = []Metric{"cpu", "cpu.iowait", "cpu.steal", "load", "memory", "swap", "pressure.cpu", "pressure.memory", "pressure.io", "disk.busy", "filesystem", "filesystem.inodes",
	"network.received", "network.sent", "network.errors", "temperature", "process.cpu", "process.memory", "process.count", "workload.cpu", "workload.memory",
	"probe.p50", "probe.p90", "probe.p99", "probe.errors"}

// whole are the metrics of a machine, of which there is one each.
var whole = []Metric{"cpu", "cpu.iowait", "cpu.steal", "load", "memory", "swap", "pressure.cpu", "pressure.memory", "pressure.io"}

// DefaultFor is how long a thing must go too far where the rule does not say.
const DefaultFor = 30 * time.Second

// Duration is For, or its default.
func (s AlertRuleSpec) Duration() time.Duration {
	if d, err := time.ParseDuration(s.For); err == nil {
		return d
	}
	return DefaultFor
}

// Threshold returns the threshold and where it is over; below where it goes too
// far downwards.
func (s AlertRuleSpec) Threshold() (threshold, clear float64, below bool) {
	switch {
	case s.Above != nil:
		threshold = *s.Above
	case s.Below != nil:
		threshold, below = *s.Below, true
	}
	clear = threshold
	if s.Clear != nil {
		clear = *s.Clear
	}
	return threshold, clear, below
}

// Condition writes the rule in a line: "process.cpu of kvm above 80 for 30s".
func (s AlertRuleSpec) Condition() string {
	threshold, _, below := s.Threshold()
	word, of := "above", ""
	if below {
		word = "below"
	}
	if s.Match != "" {
		of = " of " + s.Match
	}
	return fmt.Sprintf("%s%s %s %s for %s", s.Metric, of, word, strconv.FormatFloat(threshold, 'f', -1, 64), shortDuration(s.Duration()))
}

// shortDuration leaves units out that are 0: 5m0s is 5m.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// Validate checks that the rule can be judged.
func (r *AlertRule) Validate() error {
	var e FieldErrors
	r.Metadata.check(&e)
	s := &r.Spec
	if s.Severity != "" && s.Severity.Rank() == 0 {
		e.add("spec.severity", oneOf(s.Severity, []Severity{SeverityCritical, SeverityWarning, SeverityInfo}))
	}
	if !slices.Contains(Metrics, s.Metric) {
		names := make([]string, len(Metrics))
		for i, m := range Metrics {
			names[i] = string(m)
		}
		e.add("spec.metric", fmt.Errorf("%q is none%s; the metrics are %s", s.Metric, suggest(string(s.Metric), names), strings.Join(names, ", ")))
	}
	if s.Match != "" {
		if _, err := path.Match(s.Match, ""); err != nil {
			e.add("spec.match", fmt.Errorf("%q is no pattern; see path.Match: *, ?, [a-z]", s.Match))
		} else if slices.Contains(whole, s.Metric) {
			e.add("spec.match", fmt.Errorf("%s is of the whole machine; leave match out", s.Metric))
		}
		if len(s.Match) > 256 {
			e.add("spec.match", fmt.Errorf("is longer than 256 bytes"))
		}
	}
	if s.Metric == "process.count" && s.Match == "" {
		e.add("spec.match", fmt.Errorf("is missing; say which processes are counted"))
	}
	if (s.Above == nil) == (s.Below == nil) {
		e.add("spec", fmt.Errorf("give one of above and below"))
	}
	for field, v := range map[string]*float64{"above": s.Above, "below": s.Below, "clear": s.Clear} {
		if v != nil && (math.IsNaN(*v) || math.IsInf(*v, 0)) {
			e.add("spec."+field, fmt.Errorf("is no number"))
		}
	}
	if threshold, clear, below := s.Threshold(); s.Clear != nil && (!below && clear > threshold || below && clear < threshold) {
		e.add("spec.clear", fmt.Errorf("%v is on the wrong side of %v: it would be over while it goes too far", clear, threshold))
	}
	if s.For != "" {
		if d, err := time.ParseDuration(s.For); err != nil || d < 0 || d > 24*time.Hour {
			e.add("spec.for", fmt.Errorf("%q is no duration up to 24h; write it like 30s or 5m", s.For))
		}
	}
	return e.OrNil()
}
