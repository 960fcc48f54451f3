package bpf

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"weft/agent/connection"
	"weft/internal/bpfmap"
)

// Forget takes lines out that the last whole visit saw to have ended, and that have
// had no packet since.
func (d *Driver) Forget() error {
	d.visiting.Lock()
	defer d.visiting.Unlock()
	d.live = nil // some of it goes, and is counted as such
	return firstError(d.forgetEnded, d.forgetPast, d.forgetRefused)
}

// forgetEach is how many lines may have ended, and how long ago the last ones were
// taken out, before it is worth while to go through the table again.
const (
	forgetEach  = 4096
	forgetAfter = 30 * time.Second
)

// forgetEnded has the kernel do it: a flood leaves a million of them.
func (d *Driver) forgetEnded() error {
	if d.visited.NowNs == 0 || d.ended == 0 || d.ended < forgetEach && time.Duration(d.visited.NowNs)-d.forgot < forgetAfter {
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

func (d *Driver) visitLines(now time.Duration, visit func(*connection.Line) bool) (done bool, err error) {
	p, err := d.lookAt()
	if err != nil {
		return false, err
	}
	d.keep = p.keeps()
	held, ended := uint32(0), uint32(0)
	done, err = d.reader.read(d.objects.Conns, func(k *policyConnKey, c *policyConn) bool {
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
		d.visited, d.held, d.ended = visitedAt(now, &d.keep), held, ended
	}
	return done, err
}

func (d *Driver) visitPast(visit func(*connection.Line) bool) (done bool, err error) {
	return d.pastReader.read(d.objects.PastConns, func(k *policyPastKey, c *policyConn) bool {
		d.live.add(c)
		d.describe(&k.Key, c, &d.line)
		d.line.Ended = true
		d.past = append(d.past, *k)
		d.pastSum.add(c)
		return visit(&d.line)
	})
}

func (d *Driver) visitRefused(now time.Duration, visit func(*connection.Line) bool) error {
	_, err := d.reader.read(d.objects.Denied, func(k *policyConnKey, c *policyConn) bool {
		d.describe(k, c, &d.line)
		d.line.Refused = true
		if d.line.Ended = d.keep.over(k, c, now-time.Duration(c.LastNs)); d.line.Ended {
			d.tried = append(d.tried, *k)
		}
		return visit(&d.line)
	})
	return err
}

// readEach is how many lines are read at a time.
const readEach = 4096

// reader is where lines are read into.
type reader[K any] struct {
	keys   []K
	values []policyConn
}

func newReader[K any]() *reader[K] {
	return &reader[K]{make([]K, readEach), make([]policyConn, readEach)}
}

// read shows all that a map of lines holds until show returns false.
func (r *reader[K]) read(m *ebpf.Map, show func(*K, *policyConn) bool) (done bool, err error) {
	if done, err = bpfmap.Each(m, r.keys, r.values, show); err != nil {
		err = fmt.Errorf("read the connection table: %w", err)
	}
	return done, err
}
