package monitor

import (
	"errors"
	"time"

	"weft/model"
)

// freshFor is how long a sample is good enough for somebody else who looks.
const freshFor = 400 * time.Millisecond

// Watch shares a Monitor among those who look. It costs nothing while nobody does.
type Watch struct {
	turn chan struct{} // holds one while somebody samples
	m    *Monitor
	last time.Time
	s    *model.Sample
}

// NewWatch shares a Monitor.
func NewWatch(m *Monitor) *Watch { return &Watch{turn: make(chan struct{}, 1), m: m} }

// forgetAfter is how long a sample says something of the time before the next.
const forgetAfter = 2 * time.Minute

// errHangs says that an earlier look has not come back: the kernel lets who asks for
// the command line of a process wait for that process.
var errHangs = errors.New("an earlier look at this machine has not come back; a process may hang in the kernel: ps -eo pid,state,wchan,comm | grep ' D '")

// turnWithin is how long a look waits for the one before it.
const turnWithin = 5 * time.Second

// Sample hands f a sample that nobody changes until f returns. Where nobody has
// looked for long it has no rates: the next one has.
func (w *Watch) Sample(f func(*model.Sample)) error {
	select {
	case w.turn <- struct{}{}:
	case <-time.After(turnWithin):
		return errHangs
	}
	defer func() { <-w.turn }()
	age := time.Since(w.last)
	if w.s == nil || age > freshFor {
		if age > forgetAfter {
			w.m.last = time.Time{}
		}
		s, err := w.m.Sample()
		if err != nil {
			return err
		}
		w.s, w.last = s, time.Now()
	}
	f(w.s)
	return nil
}

// Every hands f a sample each interval, the first one with rates after a second at
// most, until done is closed or f says that it has enough.
func (w *Watch) Every(done <-chan struct{}, interval time.Duration, f func(*model.Sample) (more bool)) error {
	for {
		var more, rates bool
		if err := w.Sample(func(s *model.Sample) { more, rates = f(s), s.Seconds > 0 }); err != nil || !more {
			return err
		}
		pause := interval
		if !rates {
			pause = min(interval, time.Second)
		}
		select {
		case <-done:
			return nil
		case <-time.After(pause):
		}
	}
}
