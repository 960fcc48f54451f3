package agent

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"weft/wire/wirepb"
)

// hanging is a machine of which a look does not come back before it is let go.
type hanging struct {
	looks atomic.Int32
	let   chan error
}

func (h *hanging) Sample(processes int) (*wirepb.Sample, error) {
	h.looks.Add(1)
	return &wirepb.Sample{Seconds: float64(processes)}, <-h.let
}

// A look that hangs is waited for by nobody, and no second one is begun beside it;
// what comes when nobody looks any more is dropped.
func TestLooksDoNotHoldUp(t *testing.T) {
	h := &hanging{let: make(chan error, 1)}
	l := newLooking(h)
	s := &session{agent: &Agent{deps: Deps{Log: slog.New(slog.DiscardHandler)}}}
	if l.due() != nil {
		t.Error("somebody looks before anybody asked")
	}
	l.want(&wirepb.SampleRequest{IntervalMillis: 1, Processes: 1 << 30})
	<-l.due()
	l.begin()
	l.want(&wirepb.SampleRequest{IntervalMillis: 3_600_000, Processes: 5})
	<-l.due()
	l.begin()
	h.let <- errors.New("it hangs no more")
	if err := s.reportSample(l, <-l.came); err != nil || l.timer == nil {
		t.Errorf("after a look that failed: %v", err)
	}
	l.begin()
	h.let <- nil
	x := <-l.came
	if x.sample.Seconds != 5 || h.looks.Load() != 2 {
		t.Errorf("%d looks, the last with %g processes", h.looks.Load(), x.sample.Seconds)
	}
	l.want(&wirepb.SampleRequest{})
	if err := s.reportSample(l, x); err != nil || l.due() != nil {
		t.Errorf("what nobody wants any more: %v", err)
	}
	l.want(&wirepb.SampleRequest{IntervalMillis: 1, Processes: 1 << 30})
	if l.interval < 250*time.Millisecond || l.processes != 2000 {
		t.Errorf("whoever asks for all is given %d processes every %s", l.processes, l.interval)
	}
	l.stop()
}
