package probes

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"weft/model"
	"weft/wire/probewire"
	"weft/wire/wirepb"
)

// Probe is one that somebody listens to.
type Probe struct {
	ID    uint64
	all   *Probes
	spec  *wirepb.ProbeSpec
	began time.Time
	ended chan struct{} // holds one: a host has

	mu      sync.Mutex
	sources map[string]*source // by UID; the map is not changed
}

// source is a host that asks.
type source struct {
	Part
	heard time.Time // zero: not yet
}

// Part is what has come of a probe at one host.
type Part struct {
	Host string `json:"host"`
	// Result is absent where the host could not begin, or has not.
	Result *model.ProbeResult `json:"result,omitempty"`
	Ended  bool               `json:"ended"`
	// Message says why there is no result, or no whole one.
	Message string `json:"message,omitempty"`
}

func newProbe(p *Probes, id uint64, targets []Target, spec *wirepb.ProbeSpec) *Probe {
	x := &Probe{ID: id, all: p, spec: spec, began: p.now(), ended: make(chan struct{}, 1), sources: map[string]*source{}}
	for _, t := range targets {
		s := &source{Part: Part{Host: t.Host}}
		if !t.Online {
			s.Ended, s.Message = true, "its agent has no session; weft describe host "+t.Host
		}
		x.sources[t.UID] = s
	}
	return x
}

func (x *Probe) take(uid string, m *wirepb.ProbeProgress, now time.Time) (ended bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.sources[uid]
	if s == nil || s.Ended {
		return false
	}
	s.heard, s.Ended, s.Message = now, m.GetEnded(), probewire.Text(m.GetMessage())
	if m.GetResult() != nil {
		s.Result = probewire.Decode(model.ProbeKind(x.spec.GetKind()), x.spec.GetTarget(), m.GetResult())
	}
	if s.Ended {
		x.poke()
	}
	return s.Ended
}

// fail ends a host's part; what it had said stays.
func (x *Probe) fail(uid, why string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if s := x.sources[uid]; s != nil && !s.Ended {
		s.Ended, s.Message = true, why
		x.poke()
	}
}

func (x *Probe) poke() {
	select {
	case x.ended <- struct{}{}:
	default:
	}
}

// Parts are what has come at each host, by name.
func (x *Probe) Parts() []Part {
	x.mu.Lock()
	defer x.mu.Unlock()
	out := make([]Part, 0, len(x.sources))
	for _, s := range x.sources {
		out = append(out, s.Part)
	}
	slices.SortFunc(out, func(a, b Part) int { return cmp.Compare(a.Host, b.Host) })
	return out
}

// Run tells of what has come, each second and when a host has ended, until all have,
// and then says so; or until ctx ends or say fails. The hosts stop then.
func (x *Probe) Run(ctx context.Context, say func(parts []Part, over bool) error) error {
	defer x.Cancel()
	beat := time.NewTicker(time.Second)
	defer beat.Stop()
	// Nothing that a host says makes it longer than this.
	limit := time.NewTimer(time.Duration(x.spec.GetTimeMillis()+x.spec.GetTimeoutMillis())*time.Millisecond + beginWithin + silentFor)
	defer limit.Stop()
	for late := false; ; {
		x.endSilent(late)
		parts := x.Parts()
		over := !slices.ContainsFunc(parts, func(p Part) bool { return !p.Ended })
		// Also where nothing has changed: so it is noticed that nobody listens.
		if err := say(parts, over); err != nil || over {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			late = true
		case <-x.ended:
		case <-beat.C:
		}
	}
}

// endSilent ends the parts of hosts that say nothing; of all, where it is late.
func (x *Probe) endSilent(late bool) {
	now := x.all.now()
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.sources {
		switch {
		case s.Ended:
		case late:
			s.Ended, s.Message = true, "the host does not come to an end; it is waited for no longer"
		case s.heard.IsZero() && now.Sub(x.began) > beginWithin:
			s.Ended, s.Message = true, "the host does not begin; an agent that is older than this controller knows no probes: weft describe host "+s.Host
		case !s.heard.IsZero() && now.Sub(s.heard) > silentFor:
			s.Ended, s.Message = true, "the host says nothing any more"
		}
	}
}

// Cancel takes the probe back from the hosts.
func (x *Probe) Cancel() { x.all.forget(x) }
