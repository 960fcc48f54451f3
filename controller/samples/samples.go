// Package samples holds who looks at which host, and what each that is looked at
// said last. Agents sample for as long as somebody looks: whoever does asks again
// and again, and who has not for a while does no more. So nobody has to say that
// they have gone, and nothing waits for a host that is silent.
package samples

import (
	"context"
	"sync"
	"time"

	"weft/model"
	"weft/wire"
	"weft/wire/samplewire"
	"weft/wire/wirepb"
)

// Limits. A look lasts for as long as two questions may be apart.
const (
	lookFor     = 20 * time.Second
	MinInterval = 500 * time.Millisecond
	MaxInterval = 10 * time.Minute
	maxLooks    = 64 // different ones at a host
	keepFor     = time.Hour
)

// Look is what somebody wants of a host.
type Look struct {
	Interval  time.Duration
	Processes int // the heaviest so many
}

// Samples is safe for concurrent use. What it returns is nobody's to change.
type Samples struct {
	now func() time.Time

	mu      sync.Mutex
	hosts   map[string]*host // by UID
	all     looks            // at every host
	changed chan struct{}    // looks at all did
	swept   time.Time
}

type looks map[Look]time.Time // until when

type host struct {
	looks   looks
	changed chan struct{}
	last    Sample
	came    chan struct{} // closed at the next sample
}

// Sample is what a host said last.
type Sample struct {
	*model.Sample        // nil: nothing yet
	Number        uint64 // grows with each sample of the host
	Came          time.Time
}

// New makes one that nobody looks at.
func New() *Samples {
	return &Samples{now: time.Now, hosts: map[string]*host{}, all: looks{}, changed: make(chan struct{})}
}

func (s *Samples) host(uid string) *host {
	h := s.hosts[uid]
	if h == nil {
		h = &host{looks: looks{}, changed: make(chan struct{}), came: make(chan struct{})}
		s.hosts[uid] = h
	}
	return h
}

// want is what fulfils every look that is not over.
func (l looks) want(now time.Time) (w Look) {
	for x, until := range l {
		if now.After(until) {
			delete(l, x)
			continue
		}
		if w.Interval == 0 || x.Interval < w.Interval {
			w.Interval = x.Interval
		}
		w.Processes = max(w.Processes, x.Processes)
	}
	return w
}

func (l looks) add(x Look, now time.Time) {
	x.Interval = max(MinInterval, min(x.Interval, MaxInterval))
	x.Processes = max(0, min(x.Processes, samplewire.MaxProcesses))
	if _, there := l[x]; there || len(l) < maxLooks {
		// A long interval needs no second question before its first answer.
		l[x] = now.Add(lookFor + 2*x.Interval)
	}
}

// Look asks for samples of a host for a while.
func (s *Samples) Look(uid string, x Look) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, now := s.host(uid), s.now()
	before := h.looks.want(now)
	if h.looks.add(x, now); h.looks.want(now) != before {
		close(h.changed)
		h.changed = make(chan struct{})
	}
}

// LookAtAll asks for samples of every host for a while.
func (s *Samples) LookAtAll(x Look) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	before := s.all.want(now)
	if s.all.add(x, now); s.all.want(now) != before {
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

// Wanted is what a host's agent is to be asked for at this moment, and channels of
// which one is closed when that may be something else. That a look is over closes
// none.
func (s *Samples) Wanted(uid string) (r *wirepb.SampleRequest, host, all <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, now := s.host(uid), s.now()
	w, of := h.looks.want(now), s.all.want(now)
	if w.Interval == 0 || of.Interval > 0 && of.Interval < w.Interval {
		w.Interval = of.Interval
	}
	w.Processes = max(w.Processes, of.Processes)
	return &wirepb.SampleRequest{IntervalMillis: uint32(w.Interval.Milliseconds()), Processes: uint32(w.Processes)}, h.changed, s.changed
}

// Take keeps a sample of a host that somebody looks at.
func (s *Samples) Take(id wire.Identity, m *wirepb.Sample) {
	x := samplewire.Decode(id.Name, m)
	s.mu.Lock()
	defer s.mu.Unlock()
	h, now := s.host(id.UID), s.now()
	if h.looks.want(now).Interval == 0 && s.all.want(now).Interval == 0 {
		return
	}
	h.last = Sample{Sample: x, Number: h.last.Number + 1, Came: now}
	close(h.came)
	h.came = make(chan struct{})
	s.sweep(now)
}

// sweep forgets hosts that nobody has looked at for long.
func (s *Samples) sweep(now time.Time) {
	if now.Sub(s.swept) < keepFor/10 {
		return
	}
	s.swept = now
	for uid, h := range s.hosts {
		if h.looks.want(now).Interval == 0 && now.Sub(h.last.Came) > keepFor {
			delete(s.hosts, uid)
			close(h.changed) // who waits for it takes the next one's
		}
	}
}

// Last is what a host said last.
func (s *Samples) Last(uid string) Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.hosts[uid]; h != nil {
		return h.last
	}
	return Sample{}
}

// Next waits until a host has said something after a number, or ctx ends, and
// returns what it said last.
func (s *Samples) Next(ctx context.Context, uid string, after uint64) Sample {
	for {
		s.mu.Lock()
		h := s.host(uid)
		last, came := h.last, h.came
		s.mu.Unlock()
		if last.Number > after && last.Sample != nil {
			return last
		}
		select {
		case <-ctx.Done():
			return last
		case <-came:
		}
	}
}
