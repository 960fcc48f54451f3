package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"weft/model"
	"weft/wire/probewire"
	"weft/wire/wirepb"
)

// Schedule runs the probes that this machine was told last, again and again, also
// while nobody tells it anything. The first turn of each is at a moment of its
// interval that is drawn, so that machines that were told at one time do not ask at one
// time.
type Schedule struct {
	cfg  Config
	deps Deps
	// draw is how long after it is told a probe has its first turn.
	draw func(interval time.Duration) time.Duration

	mu     sync.Mutex
	byName map[string]*scheduled
	wake   chan struct{} // holds one
}

// scheduled is a probe with what came of it.
type scheduled struct {
	*wirepb.ScheduledProbe
	cancel context.CancelFunc // nil until it runs
	turn   *wirepb.ProbeTurn  // the last; nil before
	result *model.ProbeResult // the same
}

// NewSchedule returns one of nothing.
func NewSchedule(cfg Config, deps Deps) *Schedule {
	deps.complete()
	return &Schedule{cfg: cfg, deps: deps, draw: func(d time.Duration) time.Duration { return rand.N(d) }, byName: map[string]*scheduled{}, wake: make(chan struct{}, 1)}
}

// Apply takes the probes over; one that is as before goes on. It returns what is wrong
// with those that are not run.
func (s *Schedule) Apply(_ context.Context, section *wirepb.ProbeSection) ([]*wirepb.ItemStatus, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var wrong []*wirepb.ItemStatus
	next := map[string]*scheduled{}
	for _, p := range section.GetProbes() {
		if err := s.check(p, len(next)); err != nil {
			wrong = append(wrong, &wirepb.ItemStatus{Item: p.GetName(), State: "Error", Message: err.Error()})
		} else if old := s.byName[p.Name]; old != nil && proto.Equal(old.ScheduledProbe, p) {
			next[p.Name] = old
		} else {
			next[p.Name] = &scheduled{ScheduledProbe: p}
		}
	}
	for name, old := range s.byName {
		if next[name] != old && old.cancel != nil {
			old.cancel()
		}
	}
	s.byName = next
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return wrong, nil
}

// check says why a probe is not run.
func (s *Schedule) check(p *wirepb.ScheduledProbe, before int) error {
	every := interval(p)
	switch {
	case s.cfg.Off:
		return errors.New(offText)
	case before >= model.MaxProbes:
		return fmt.Errorf("a host runs %d probes at most, the first by name; let others match fewer hosts", model.MaxProbes)
	case every < model.MinProbeInterval || every > model.MaxProbeInterval:
		return fmt.Errorf("an interval of %s: an agent asks each %s to %s", every, model.MinProbeInterval, model.MaxProbeInterval)
	case p.GetSpec().GetCount() == 0 || p.GetSpec().GetCount() > min(model.MaxTurnCount, uint64(model.MaxTurnRate*every.Seconds())):
		return fmt.Errorf("%d questions each %s: an agent asks %d at most, and %d a second", p.GetSpec().GetCount(), every, model.MaxTurnCount, model.MaxTurnRate)
	case p.GetSpec().GetConcurrency() > model.MaxTurnConcurrency:
		return fmt.Errorf("a concurrency of %d: an agent has %d at most", p.GetSpec().GetConcurrency(), model.MaxTurnConcurrency)
	}
	x := s.turnOf(p)
	return x.CheckAgent()
}

func interval(p *wirepb.ScheduledProbe) time.Duration {
	return time.Duration(min(p.GetIntervalMillis(), 1<<40)) * time.Millisecond
}

// turnOf is what is asked in a turn. In its second half no question is begun that could
// not be waited for until the next: of a service that does not answer, a turn has fewer.
func (s *Schedule) turnOf(p *wirepb.ScheduledProbe) Spec {
	x := specOf(p.GetSpec(), s.deps.Budget)
	x.Rate = 0
	every := min(interval(p), model.MaxProbeTime/2)
	x.Begin = max(every-x.Timeout, every/2)
	x.Time = x.Begin + x.Timeout + time.Second
	return x
}

// Run asks until ctx ends.
func (s *Schedule) Run(ctx context.Context, ready func()) error {
	ready()
	var all sync.WaitGroup
	defer all.Wait()
	for {
		s.mu.Lock()
		for _, p := range s.byName {
			if p.cancel == nil {
				var own context.Context
				own, p.cancel = context.WithCancel(ctx)
				all.Go(func() { s.ask(own, p) })
			}
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
	}
}

// ask has one turn after another. A turn whose time has passed while an earlier one
// took long is left out.
func (s *Schedule) ask(ctx context.Context, p *scheduled) {
	every := interval(p.ScheduledProbe)
	due := time.Now().Add(s.draw(every))
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		r, err := Run(ctx, s.turnOf(p.ScheduledProbe), nil)
		if ctx.Err() != nil {
			return // cut off, and no turn
		}
		s.keep(p, began, r, err)
		for due = due.Add(every); due.Before(time.Now()); due = due.Add(every) {
		}
		timer.Reset(time.Until(due))
	}
}

func (s *Schedule) keep(p *scheduled, began time.Time, r *model.ProbeResult, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := &wirepb.ProbeTurn{Name: p.Name, UnixNanos: began.UnixNano(), Asked: p.turn.GetAsked(), Failed: p.turn.GetFailed()}
	if err != nil {
		next.Message = err.Error()
		s.deps.Log.Warn("a turn of a probe", "probe", p.Name, "error", err)
	} else {
		if r.Asked < p.GetSpec().GetCount() && r.Failed() == 0 {
			r.Note = fmt.Sprintf("in a turn is no time for %d questions; take a longer interval, or more at one time", p.GetSpec().GetCount())
		}
		next.Result = probewire.Encode(r)
		next.Asked, next.Failed = next.Asked+r.Asked, next.Failed+r.Failed()
	}
	p.turn, p.result = next, r
}

// Report is what came of every probe that has had a turn.
func (s *Schedule) Report() *wirepb.ProbeReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &wirepb.ProbeReport{Asked: s.deps.Budget.Asked()}
	for _, name := range slices.Sorted(maps.Keys(s.byName)) {
		if t := s.byName[name].turn; t != nil {
			out.Turns = append(out.Turns, t)
		}
	}
	return out
}

// Turns are the last ones, for alert rules.
func (s *Schedule) Turns() []model.ProbeTurn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []model.ProbeTurn
	for name, p := range s.byName {
		if p.result != nil {
			out = append(out, model.ProbeTurn{Probe: name, Result: p.result})
		}
	}
	slices.SortFunc(out, func(a, b model.ProbeTurn) int { return cmp.Compare(a.Probe, b.Probe) })
	return out
}
