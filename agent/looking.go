package agent

import (
	"time"

	"weft/wire/wirepb"
)

// The least time between two samples, and the most processes in one, whatever a
// controller asks for.
const (
	minLook      = 250 * time.Millisecond
	maxProcesses = 2000
	// soon is when a sample that had no rates is followed by one that has.
	soon = time.Second
	// failedPause is how long after a look that failed the next is tried.
	failedPause = 30 * time.Second
)

// looking is what the controller wants to see of the machine in this session.
type looking struct {
	sampler   Sampler
	interval  time.Duration
	processes int
	timer     *time.Timer // nil while nobody looks
	underway  bool        // a look is
	came      chan look   // holds one
}

// look is what came of one.
type look struct {
	sample *wirepb.Sample
	err    error
}

func newLooking(s Sampler) *looking { return &looking{sampler: s, came: make(chan look, 1)} }

// want takes a request in place of the one before.
func (l *looking) want(r *wirepb.SampleRequest) {
	l.stop()
	if r.GetIntervalMillis() == 0 {
		return
	}
	l.interval = max(minLook, time.Duration(r.GetIntervalMillis())*time.Millisecond)
	l.processes = int(min(r.GetProcesses(), maxProcesses))
	l.timer = time.NewTimer(0)
}

// due fires when the next sample is; never where nobody looks.
func (l *looking) due() <-chan time.Time {
	if l.timer == nil {
		return nil
	}
	return l.timer.C
}

func (l *looking) stop() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

// begin looks, beside the session: a look may take long, or never come back, and the
// session has a heart that must beat.
func (l *looking) begin() {
	if l.underway {
		return
	}
	l.underway = true
	go func(processes int) {
		x, err := l.sampler.Sample(processes)
		l.came <- look{x, err}
	}(l.processes)
}

// reportSample sends what came of a look, unless nobody wants it any more. A machine
// that cannot be looked at is no reason to end the session.
func (s *session) reportSample(l *looking, x look) error {
	l.underway = false
	if l.timer == nil {
		return nil
	}
	if x.err != nil {
		s.agent.deps.Log.Warn("look at the machine", "error", x.err)
		l.timer.Reset(max(l.interval, failedPause))
		return nil
	}
	pause := l.interval
	if x.sample.GetSeconds() == 0 {
		pause = min(pause, soon)
	}
	l.timer.Reset(pause)
	return s.stream.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Sample{Sample: x.sample}})
}
