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
)

// looking is what the controller wants to see of the machine in this session.
type looking struct {
	sampler   Sampler
	interval  time.Duration
	processes int
	timer     *time.Timer // nil while nobody looks
}

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

// reportSample looks and sends. A machine that cannot be looked at is no reason to
// end the session.
func (s *session) reportSample(l *looking) error {
	x, err := l.sampler.Sample(l.processes)
	if err != nil {
		s.agent.deps.Log.Warn("look at the machine", "error", err)
		l.stop()
		return nil
	}
	pause := l.interval
	if x.GetSeconds() == 0 {
		pause = min(pause, soon)
	}
	l.timer.Reset(pause)
	return s.stream.Send(&wirepb.AgentMessage{Body: &wirepb.AgentMessage_Sample{Sample: x}})
}
