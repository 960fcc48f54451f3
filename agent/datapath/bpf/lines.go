package bpf

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"

	"weft/agent/connection"
)

// lines is the connection table, or that of those turned down.
type lines struct {
	table    *ebpf.Map
	refused  bool
	pressure pressure
	ending   []policyConnKey // that were last visited as ended
}

// forget takes lines out that have ended, unless one has begun anew or goes on.
func (d *Driver) forget(t *lines, now time.Duration) error {
	err := takeOut(d, t.table, t.ending, func(k *policyConnKey, c *policyConn) bool {
		return t.pressure.ended(k, c, now-time.Duration(c.LastNs))
	})
	t.ending = t.ending[:0]
	return err
}

// forgetPast takes out what was visited of lines that made way.
func (d *Driver) forgetPast() error {
	err := takeOut(d, d.objects.PastConns, d.past, func(*policyPastKey, *policyConn) bool { return true })
	d.past = d.past[:0]
	return err
}

// takeOutEach is how many lines are taken out before their counts are kept.
const takeOutEach = 1024

// takeOut takes those lines out that may still go.
func takeOut[K any](d *Driver, table *ebpf.Map, keys []K, may func(*K, *policyConn) bool) error {
	gone := tally{}
	for i := range keys {
		var c policyConn
		if table.Lookup(&keys[i], &c) == nil && may(&keys[i], &c) && table.LookupAndDelete(&keys[i], &c) == nil {
			gone.add(&c)
		}
		if i%takeOutEach == takeOutEach-1 {
			if err := d.keepRetired(gone); err != nil {
				return err
			}
		}
	}
	return d.keepRetired(gone)
}

func (d *Driver) visitLines(t *lines, now time.Duration, visit func(*connection.Line) bool) (done bool, err error) {
	count := uint32(0)
	done, err = d.reader.read(t.table, func(k *policyConnKey, c *policyConn) bool {
		count++
		d.live.add(c)
		d.describe(k, c, &d.line)
		d.line.Refused = t.refused
		if d.line.Ended = t.pressure.ended(k, c, now-time.Duration(c.LastNs)); d.line.Ended {
			t.ending = append(t.ending, *k)
		}
		return visit(&d.line)
	})
	if !done && err == nil && !t.refused {
		t.pressure = pressureOf(count, t.table.MaxEntries())
	}
	return done, err
}

func (d *Driver) visitPast(visit func(*connection.Line) bool) (done bool, err error) {
	return d.pastReader.read(d.objects.PastConns, func(k *policyPastKey, c *policyConn) bool {
		d.live.add(c)
		d.describe(&k.Key, c, &d.line)
		d.line.Ended = true
		d.past = append(d.past, *k)
		return visit(&d.line)
	})
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
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, r.keys, r.values, nil)
		end := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !end {
			return false, fmt.Errorf("read the connection table: %w", err)
		}
		for i := range n {
			if !show(&r.keys[i], &r.values[i]) {
				return true, nil
			}
		}
		if end {
			return false, nil
		}
	}
}
