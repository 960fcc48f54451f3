package model

import (
	"fmt"
	"slices"
	"time"
)

// Probe has hosts ask a service again and again, so that how long it takes to answer
// is known from where its users are. Agents ask by themselves, also while the
// controller is away; alert rules judge what comes of it.
type Probe struct {
	TypeMeta
	Metadata Metadata    `json:"metadata"`
	Spec     ProbeSpec   `json:"spec"`
	Status   ProbeStatus `json:"status,omitzero"`
}

// ProbeSpec says who asks what, and how often.
type ProbeSpec struct {
	// From takes every host whose labels it matches; "*" takes all.
	From *Selector `json:"from"`
	// Kind is http, tcp, dns or icmp.
	Kind ProbeKind `json:"kind"`
	// Target is a URL for http, HOST:PORT for tcp, NAME@SERVER[:PORT] for dns, HOST
	// for icmp, as the hosts that ask know them.
	Target string `json:"target"`
	// Interval is the time between two turns, as 30s or 5m; 1m unless given. Hosts
	// take their turns at different times.
	Interval string `json:"interval,omitempty"`
	// Count is how many questions a turn has; 10 unless given, 1000 at most, and no
	// more than 100 for each second of the interval.
	Count int `json:"count,omitempty"`
	// Concurrency is how many are asked at one time; 1 unless given, 32 at most.
	Concurrency int `json:"concurrency,omitempty"`
	// Timeout is how long an answer is waited for, no longer than the interval; 5s,
	// or the interval, unless given.
	Timeout string `json:"timeout,omitempty"`
	// Expect is which statuses of http are good answers, as 200, 2xx or 200,301-308;
	// all below 400 unless given.
	Expect string `json:"expect,omitempty"`
}

// ProbeStatus is computed, never written by a person.
type ProbeStatus struct {
	// Hosts are those that ask, by name, with what came of each one's last turn.
	Hosts []ProbeHost `json:"hosts,omitempty"`
}

// ProbeHost is a host that asks.
type ProbeHost struct {
	Host string `json:"host"`
	// Message says why there is no result, or no newer one.
	Message string `json:"message,omitempty"`
	// Time is when the last turn began.
	Time *time.Time `json:"time,omitempty"`
	// Asked and Failed count questions since the host's agent was started, or was told
	// something else.
	Asked  uint64 `json:"asked"`
	Failed uint64 `json:"failed"`
	// Result is what came of the last turn.
	Result *ProbeResult `json:"result,omitempty"`
}

// Limits of what an agent does for probes, whoever asks for more. The rates are of
// the host, all its probes together.
const (
	MaxProbeConcurrency = 256
	MaxProbeCount       = 1_000_000
	MaxProbeRate        = 5_000 // questions a second
	// MaxProbeConnects is how many connections tcp opens a second: each keeps a port
	// busy for a minute, which workloads may want for the same server.
	MaxProbeConnects = 200
	MaxProbeTime     = 10 * time.Minute
	MaxProbeTimeout  = time.Minute
	MaxProbeBytes    = 1 << 30 // of answers, of one probe
	MaxProbeAnswer   = 1 << 20 // read of one answer
	MaxProbeRuns     = 4       // at one time, on demand
	MaxProbes        = 32      // scheduled
)

// Limits and defaults of a Probe.
const (
	MinProbeInterval    = time.Second
	MaxProbeInterval    = 24 * time.Hour
	MaxTurnCount        = 1000
	MaxTurnRate         = 100 // questions for each second of the interval
	MaxTurnConcurrency  = 32
	defaultInterval     = time.Minute
	defaultTurnCount    = 10
	defaultProbeTimeout = 5 * time.Second
)

// Every is Interval, or its default.
func (s *ProbeSpec) Every() time.Duration {
	if d, err := time.ParseDuration(s.Interval); err == nil && d >= MinProbeInterval && d <= MaxProbeInterval {
		return d
	}
	return defaultInterval
}

// Patience is Timeout, or its default.
func (s *ProbeSpec) Patience() time.Duration {
	if d, err := time.ParseDuration(s.Timeout); err == nil && d > 0 {
		return d
	}
	return min(defaultProbeTimeout, s.Every())
}

// Questions is Count, or its default.
func (s *ProbeSpec) Questions() int {
	if s.Count > 0 {
		return s.Count
	}
	return min(defaultTurnCount, int(MaxTurnRate*s.Every().Seconds()))
}

// AtOnce is Concurrency, or its default.
func (s *ProbeSpec) AtOnce() int { return max(s.Concurrency, 1) }

// Validate checks that agents can run it.
func (r *Probe) Validate() error {
	var e FieldErrors
	r.Metadata.check(&e)
	s := &r.Spec
	if s.From == nil {
		e.add("spec.from", fmt.Errorf(`is missing; say which hosts ask, by their labels; "*" takes all`))
	}
	if !slices.Contains(ProbeKinds, s.Kind) {
		e.add("spec.kind", oneOf(s.Kind, ProbeKinds))
	} else {
		if err := CheckProbeTarget(s.Kind, s.Target); err != nil {
			e.add("spec.target", err)
		}
		if _, err := ParseStatuses(s.Expect); err != nil {
			e.add("spec.expect", err)
		} else if s.Expect != "" && s.Kind != ProbeHTTP {
			e.add("spec.expect", fmt.Errorf("is for kind http; %s has no status, leave it out", s.Kind))
		}
	}
	if d, err := time.ParseDuration(s.Interval); s.Interval != "" && (err != nil || d < MinProbeInterval || d > MaxProbeInterval) {
		e.add("spec.interval", fmt.Errorf("%q is no duration from 1s to 24h; write it like 30s or 5m", s.Interval))
	}
	if s.Concurrency < 0 || s.Concurrency > MaxTurnConcurrency {
		e.add("spec.concurrency", fmt.Errorf("%d is outside 1 to %d", s.Concurrency, MaxTurnConcurrency))
	}
	switch most := min(MaxTurnCount, int(MaxTurnRate*s.Every().Seconds())); {
	case s.Count < 0 || s.Count > MaxTurnCount:
		e.add("spec.count", fmt.Errorf("%d is outside 1 to %d", s.Count, MaxTurnCount))
	case s.Count > most:
		e.add("spec.count", fmt.Errorf("%d each %s is more than %d a second; take %d at most, or a longer interval", s.Count, shortDuration(s.Every()), MaxTurnRate, most))
	}
	if most := min(s.Every(), MaxProbeTimeout); s.Timeout != "" {
		if d, err := time.ParseDuration(s.Timeout); err != nil || d < time.Millisecond || d > most {
			e.add("spec.timeout", fmt.Errorf("%q is no duration from 1ms to %s, which is the interval or a minute; write it like 500ms or 5s", s.Timeout, shortDuration(most)))
		}
	}
	return e.OrNil()
}
