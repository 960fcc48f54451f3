package main

import (
	"fmt"
	"net/netip"
	"os"
	"time"
)

// flood is a way to send datagrams at a firewall with n rules.
type flood struct {
	name   string
	to     func(n int) rule
	fresh  bool // each datagram is a connection of its own
	denied bool // by every firewall
	every  bool // with every number of rules, not just the fewest and the most
}

var floods = []flood{
	{name: "UDP, one connection, last of %s rules", to: lastUDP},
	{name: "UDP, each packet a new connection, first of %s rules", to: func(int) rule { return firstUDP() }, fresh: true},
	{name: "UDP, each packet a new connection, last of %s rules", to: lastUDP, fresh: true, every: true},
	{name: "UDP, each packet a new connection, none of %s rules", to: func(int) rule { return missed() }, fresh: true, denied: true},
}

// floodLimit keeps all new connections of a flood within every connection table.
const floodLimit = 80_000

// flooded is what became of a flood.
type flooded struct {
	sent, judged, got, overflow int
	rate                        float64 // judged in a second
}

// flood sends for about as long as told, and waits until all is judged.
func (s *site) flood(f flood, n int, length time.Duration) (out flooded, err error) {
	to := f.to(n)
	if !f.fresh {
		if err := s.stand(to); err != nil {
			return out, err
		}
	}
	limit, err := s.pace(to, f.fresh, length)
	if err != nil {
		return out, err
	}
	if err := s.sink.reset(to); err != nil {
		return out, err
	}
	before, err := s.counters.read()
	if err != nil {
		return out, err
	}
	began := time.Now()
	if out.sent, err = s.frames.send(to, f.fresh, limit, began.Add(length)); err != nil {
		return out, err
	}
	now, last, err := s.drained(before.in + out.sent)
	if err != nil {
		return out, err
	}
	out.judged, out.overflow = now.in-before.in, now.overflow-before.overflow
	out.rate = float64(out.judged) / last.Sub(began).Seconds()
	if s.wall == nil || !f.denied {
		out.got, err = s.arrived(to, out.judged-out.overflow)
		if err == nil && out.got == 0 {
			err = fmt.Errorf("of %d datagrams that a rule allows, none arrived", out.sent)
		}
		return out, err
	}
	time.Sleep(time.Millisecond)
	if out.got, err = s.arrived(to, 0); err == nil && out.got > 0 {
		err = fmt.Errorf("of %d datagrams that no rule allows, %d arrived", out.sent, out.got)
	}
	return out, err
}

// stand opens the standing connection: each end has said something.
func (s *site) stand(to rule) error {
	if err := s.sink.reset(to); err != nil {
		return err
	}
	if _, err := s.frames.send(to, false, 1, time.Now().Add(time.Second)); err != nil {
		return err
	}
	if n, err := s.arrived(to, 1); err != nil || n == 0 {
		return fmt.Errorf("open a connection: %d datagrams arrived: %w", n, err)
	}
	a := Answer{to.port, netip.AddrPortFrom(to.source, firstFlowPort)}
	return s.sink.Call("Sink.Answer", a, &struct{}{})
}

// pace finds how many datagrams a firewall judges in a time, so that no queue
// is left to be judged after it. The quickest of a few trials counts: others may
// have had to wait for a processor.
func (s *site) pace(to rule, fresh bool, length time.Duration) (int, error) {
	const trials, trial, quick = 3, 16, 2 * time.Millisecond
	best := time.Duration(0)
	for range trials {
		before, err := s.counters.read()
		if err != nil {
			return 0, err
		}
		began := time.Now()
		if _, err := s.frames.send(to, fresh, trial, began.Add(time.Second)); err != nil {
			return 0, err
		}
		_, last, err := s.drained(before.in + trial)
		if err != nil {
			return 0, err
		}
		if took := last.Sub(began); best == 0 || took < best {
			best = took
		}
		if best < quick {
			return floodLimit, nil
		}
	}
	return min(floodLimit, max(trial, int(trial*length/best))), nil
}

// drained waits until so many packets have come in, or no more do, and says when
// the last came.
func (s *site) drained(want int) (now count, last time.Time, err error) {
	last = time.Now()
	for seen := -1; ; {
		if now, err = s.counters.read(); err != nil {
			return now, last, err
		}
		if now.in != seen {
			seen, last = now.in, time.Now()
		}
		if now.in >= want || time.Since(last) > 100*time.Millisecond {
			return now, last, nil
		}
		time.Sleep(20 * time.Microsecond)
	}
}

// arrived waits until the sink has so many, for a while, and says how many it has.
func (s *site) arrived(to rule, want int) (int, error) {
	for end := time.Now().Add(time.Second); ; time.Sleep(100 * time.Microsecond) {
		a, err := s.sink.read(to)
		if err != nil || a.Packets >= want || time.Now().After(end) {
			return a.Packets, err
		}
	}
}

// flood measures one flood at one site.
func (b *bench) flood(x *subject, f flood) error {
	name := fmt.Sprintf(f.name, grouped(x.n))
	out, cost, err := quietest(b, func() (flooded, error) { return x.site.flood(f, x.n, b.length) }, x.forget)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b.add("S1", name+": rate", x, "packets/s", out.rate)
	if b.atEnd(x) {
		b.add("S1", name+": CPU for each packet", x, "µs", cost/float64(out.judged)*1e6)
	}
	b.series.Add("S1", "datagrams that the sink had no room for (RcvbufErrors)", "all", "packets", float64(out.overflow))
	if want := out.sent; (x.site.wall == nil || !f.denied) && want-out.got > want/1000 {
		fmt.Fprintf(os.Stderr, "bench/firewall: %s, %s: %d of %d datagrams were lost, %d for want of room\n", x.name, name, want-out.got, want, out.overflow)
	}
	return nil
}
