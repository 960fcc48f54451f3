package main

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// trickle sends a datagram about every 100 µs, each a new connection, until it
// is told to stop. The function returned stops it and says how many went.
func (s *site) trickle(to rule) (stop func() (sent int, err error)) {
	var stopped atomic.Bool
	type outcome struct {
		sent int
		err  error
	}
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		for pause := unix.NsecToTimespec(50_000); !stopped.Load() && o.err == nil; unix.Nanosleep(&pause, nil) {
			var n int
			n, o.err = s.frames.send(to, true, 1, time.Now().Add(time.Second))
			o.sent += n
		}
		done <- o
	}()
	return func() (int, error) {
		stopped.Store(true)
		o := <-done
		return o.sent, o.err
	}
}

// addOne adds a rule beneath a trickle of what only it allows, and says how long
// after the call the first datagram arrived.
func (x *subject) addOne(number int) (time.Duration, error) {
	s, r := x.site, rule{source: nth(elsewhere + 2 + number).source, protocol: protocolUDP, port: lastUDP(x.n).port}
	if err := s.sink.reset(r); err != nil {
		return 0, err
	}
	add := s.wall.add(r)
	stop := s.trickle(r)
	defer stop()
	time.Sleep(5 * time.Millisecond)
	if a, err := s.sink.read(r); err != nil || a.Packets > 0 {
		return 0, fmt.Errorf("before the rule was there, %d datagrams had arrived: %w", a.Packets, err)
	}
	began := monotonic()
	if err := add(); err != nil {
		return 0, err
	}
	if n, err := s.arrived(r, 1); err != nil || n == 0 {
		return 0, fmt.Errorf("once the rule was there, %d datagrams arrived: %w", n, err)
	}
	a, err := s.sink.read(r)
	return time.Duration(a.First - began), err
}

// swapped is what a swap of all rules took, and what became of the datagrams
// that were allowed before and after it.
type swapped struct {
	took       time.Duration
	sent, lost int
}

// swap changes all rules but those that the trickle and streams need.
func (x *subject) swap(turn int) (out swapped, err error) {
	s, r := x.site, lastUDP(x.n)
	rules := many(0, x.n)
	if turn%2 == 0 {
		rules = many(64<<16, x.n)
		copy(rules[x.n-2:], []rule{r, lastTCP(x.n)})
	}
	put, err := s.wall.replace(rules)
	if err != nil {
		return out, err
	}
	if err := s.sink.reset(r); err != nil {
		return out, err
	}
	stop := s.trickle(r)
	time.Sleep(20 * time.Millisecond)
	began := time.Now()
	err = put()
	out.took = time.Since(began)
	time.Sleep(20 * time.Millisecond)
	var failed error
	if out.sent, failed = stop(); err != nil || failed != nil {
		return out, fmt.Errorf("swap rules: %w", firstOf(err, failed))
	}
	got, err := s.arrived(r, out.sent)
	out.lost = out.sent - got
	return out, err
}

func firstOf(errs ...error) error {
	return errs[slices.IndexFunc(errs, func(err error) bool { return err != nil })]
}

// changes measures S3: all sites in turns.
func (b *bench) changes(ctx context.Context, subjects []*subject) error {
	slowest := map[*subject]time.Duration{}
	for i := range b.adds {
		for _, x := range subjects {
			if err := ctx.Err(); err != nil {
				return err
			}
			took, err := x.addOne(i)
			if err != nil {
				return fmt.Errorf("%s: add a rule: %w", x.name, err)
			}
			if err := x.forget(); err != nil {
				return err
			}
			slowest[x] = max(slowest[x], took)
			b.add("S3", fmt.Sprintf("one rule added to %s, until the first packet is judged by it", grouped(x.n)), x, "ms", took.Seconds()*1e3)
		}
	}
	for _, x := range subjects {
		b.add("S3", fmt.Sprintf("one rule added to %s, until the first packet is judged by it, slowest of %d", grouped(x.n), b.adds), x, "ms", slowest[x].Seconds()*1e3)
	}
	sent := map[*subject]int{}
	for run := range b.runs {
		for _, x := range subjects {
			if err := ctx.Err(); err != nil {
				return err
			}
			out, err := x.swap(run)
			if err != nil {
				return fmt.Errorf("%s: %w", x.name, err)
			}
			if err := x.forget(); err != nil {
				return err
			}
			b.add("S3", fmt.Sprintf("swap of all %s rules", grouped(x.n)), x, "s", out.took.Seconds())
			lost := fmt.Sprintf("swap of all %s rules: packets lost", grouped(x.n))
			b.add("S3", lost, x, "packets", float64(out.lost))
			sent[x] += out.sent
			b.series.Note("S3", lost, x.name, "packets", fmt.Sprintf("of %s sent in all runs", grouped(sent[x])))
		}
	}
	return nil
}
