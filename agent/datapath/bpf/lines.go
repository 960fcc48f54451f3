package bpf

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"weft/agent/connection"
	"weft/internal/bpfmap"
)

// visits is what readings of the connection table know, and leave to the next and to
// Forget.
type visits struct {
	visiting sync.Mutex // one at a time reads the connection table

	lines     *followed[policyConnKey, policyConn]
	pastLines *followed[policyPastKey, policyConn]
	refused   *followed[policyConnKey, policyConn]
	live      tally

	through  time.Duration   // CLOCK_BOOTTIME of the last visit that went through all of lines
	lookedAt uint64          // how many lines had come before the last visit
	begun    policyBegun     // that is taken
	line     connection.Line // that is shown

	keep  keep   // of the visit that goes on, or was the last
	held  uint32 // lines that it saw go on
	ended uint32 // and to have ended

	visited policyVisited   // the last whole visit, until what it saw to have ended is taken out
	forgot  time.Duration   // CLOCK_BOOTTIME of the visit of which the last ones were taken out
	past    []policyPastKey // lines that made way, and were visited
	pastSum tally           // of past
	tried   []policyConnKey // turned down, and last visited as ended
	unkept  atomic.Uint64   // rules whose share of it found no room
}

// Forget takes lines out that the last whole visit saw to have ended, and that have
// had no packet since.
func (d *Driver) Forget() error {
	d.visiting.Lock()
	defer d.visiting.Unlock()
	d.live = nil // some of it goes, and is counted as such
	return firstError(d.forgetEnded, d.forgetPast, d.forgetRefused)
}

// forgetEach is how many lines may have ended before it is worth while to go through
// the table.
const forgetEach = 4096

// forgetEnded has the kernel do it: a flood leaves a million of them.
func (d *Driver) forgetEnded() error {
	if d.visited.NowNs == 0 || d.ended == 0 || d.ended < forgetEach && time.Duration(d.visited.NowNs)-d.forgot < throughAfter {
		return nil
	}
	d.forgot = time.Duration(d.visited.NowNs)
	if err := d.objects.Visited.Put(uint32(0), d.visited); err != nil {
		return fmt.Errorf("say what was visited of the connection table: %w", err)
	}
	d.visited.NowNs = 0
	if err := iterate(link.IterOptions{Program: d.objects.WeftForget, Map: d.objects.Conns}); err != nil {
		return fmt.Errorf("take what has ended out of the connection table: %w", err)
	}
	return nil
}

// visitedAt is a visit as weft_forget reads it.
func visitedAt(now time.Duration, k *keep) policyVisited {
	return policyVisited{NowNs: uint64(now), EndedNs: uint64(k.ended), OpeningNs: uint64(k.opening), TcpNs: uint64(k.tcp), UnansweredNs: uint64(k.unanswered), AnsweredNs: uint64(k.answered)}
}

// forgetPast takes out what was visited of lines that made way. Nothing changes them.
func (d *Driver) forgetPast() error {
	if err := bpfmap.Delete(d.objects.PastConns, d.past); err != nil {
		return fmt.Errorf("take out the lines that made way: %w", err)
	}
	d.past = d.past[:0]
	gone := d.pastSum
	d.pastSum = tally{}
	return d.keepRetired(gone)
}

// forgetRefused takes out those turned down that were last visited as ended, unless
// they have been tried again.
func (d *Driver) forgetRefused() error {
	now, err := bootTime()
	if err != nil {
		return err
	}
	for i := range d.tried {
		var c policyConn
		k := &d.tried[i]
		if d.objects.Denied.Lookup(k, &c) != nil || !d.keep.over(k, &c, now-time.Duration(c.LastNs)) {
			continue
		}
		if err := d.objects.Denied.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("take out a connection that was turned down: %w", err)
		}
	}
	d.tried = d.tried[:0]
	return nil
}

// throughAfter is how long after the last time a table is gone through although all
// that is in it is known: programs of an agent that was before count for themselves.
const throughAfter = 30 * time.Second

// goThrough has the next visit go through all tables.
func (d *Driver) goThrough() {
	d.visiting.Lock()
	defer d.visiting.Unlock()
	d.through = -throughAfter
}

// cameIn reads how many entries have come into each table.
func (d *Driver) cameIn() (n policyEntries, err error) {
	if err := d.objects.Entries.Lookup(uint32(0), &n); err != nil {
		return n, fmt.Errorf("read how many connections have come: %w", err)
	}
	return n, nil
}

// learnBegun takes the keys of lines that have begun since the last visit, before
// which so many had. Unless it has got all of them, the table is gone through.
func (d *Driver) learnBegun(came uint64) (uint64, error) {
	t := d.lines
	if !t.whole || came-t.came > uint64(d.objects.Begun.MaxEntries()) {
		return came, nil
	}
	next, taken := t.came, uint64(0)
	for next < came || next != t.came+taken {
		b := &d.begun
		if err := d.objects.Begun.LookupAndDelete(nil, b); errors.Is(err, ebpf.ErrKeyNotExist) {
			return came, nil
		} else if err != nil {
			return 0, fmt.Errorf("take the lines that have begun: %w", err)
		}
		if b.Number >= t.came { // else the table was gone through since
			t.learn(&b.Key)
			next, taken = max(next, b.Number+1), taken+1
		}
	}
	t.came = next
	return next, nil
}

func (d *Driver) visitLines(now time.Duration, came uint64, anew bool, visit func(*connection.Line) bool) (done bool, err error) {
	p, err := d.lookAt(came)
	if err != nil {
		return false, err
	}
	d.keep = p.keeps()
	if came, err = d.learnBegun(came); err != nil {
		return false, err
	}
	held, ended := uint32(0), uint32(0)
	through, done, err := d.lines.visit(came, anew, func(k *policyConnKey, c *policyConn) bool {
		d.live.add(c)
		d.describe(k, c, &d.line)
		if d.line.Ended = d.keep.over(k, c, now-time.Duration(c.LastNs)); d.line.Ended {
			ended++
		} else {
			held++
		}
		return visit(&d.line)
	})
	if !done && err == nil {
		d.held, d.ended = held, ended
	}
	if through {
		d.visited, d.through = visitedAt(now, &d.keep), now
	}
	return done, err
}

func (d *Driver) visitPast(came uint64, anew bool, visit func(*connection.Line) bool) (done bool, err error) {
	_, done, err = d.pastLines.visit(came, anew, func(k *policyPastKey, c *policyConn) bool {
		d.live.add(c)
		d.describe(&k.Key, c, &d.line)
		d.line.Ended = true
		d.past = append(d.past, *k)
		d.pastSum.add(c)
		return visit(&d.line)
	})
	return done, err
}

func (d *Driver) visitRefused(now time.Duration, came uint64, anew bool, visit func(*connection.Line) bool) error {
	_, _, err := d.refused.visit(came, anew, func(k *policyConnKey, c *policyConn) bool {
		d.describe(k, c, &d.line)
		d.line.Refused = true
		if d.line.Ended = d.keep.over(k, c, now-time.Duration(c.LastNs)); d.line.Ended {
			d.tried = append(d.tried, *k)
		}
		return visit(&d.line)
	})
	return err
}
