package capture

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"weft/agent/capture/bpf"
	"weft/model"
	"weft/wire/tapstream"
)

const (
	// A batch is sealed when it is this old, so that quiet lines stay prompt.
	flushAfter = 10 * time.Millisecond
	// While frames come, the reader looks at the ring this often by itself and
	// the kernel wakes it only for every 64th record.
	pollEvery = 4
	// After so many empty looks it asks to be woken and sleeps; this often it
	// looks all the same, should a record and the request have crossed.
	emptyLooks = 8
	sleepFor   = 250
	// Records taken under one hold of the lock.
	chunk = 256
)

// reader moves records from the ring to the lines' batches. It never waits for
// a line.
type reader struct {
	c      *Capture
	record tapstream.Record
	raw    rawRecord
	offset int64 // CLOCK_REALTIME - CLOCK_BOOTTIME
	out    []byte
	stop   atomic.Bool
	done   chan struct{}
}

// clockOffset is what to add to CLOCK_BOOTTIME to get nanoseconds since 1970.
func clockOffset() int64 {
	var boot, real, again unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)
	unix.ClockGettime(unix.CLOCK_REALTIME, &real)
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &again)
	return real.Nano() - (boot.Nano()+again.Nano())/2
}

func (r *reader) run(ctx context.Context) {
	defer close(r.done)
	s := r.c.store
	empty := 0
	for !r.stop.Load() && ctx.Err() == nil {
		n, open := r.drain()
		switch {
		case n == chunk:
			continue
		case n > 0 || open:
			empty = 0
		default:
			empty++
		}
		if empty < emptyLooks {
			s.ring.wait(pollEvery)
			continue
		}
		s.control.sleeping(true)
		if s.ring.consumed() == s.ring.produced() && !r.stop.Load() {
			s.ring.wait(sleepFor)
		}
		s.control.sleeping(false)
	}
}

// drain takes up to a chunk of records and seals what is due. open: a batch
// waits for its time.
func (r *reader) drain() (n int, open bool) {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	r.offset = clockOffset()
	for n < chunk {
		b, next := c.store.ring.peek()
		if b == nil {
			break
		}
		r.one(b, next, now)
		n++
	}
	for _, l := range c.slots {
		if l == nil || l.encoder.Len() == 0 {
			continue
		}
		if now.Sub(l.since) >= flushAfter {
			l.seal()
		} else {
			open = true
		}
	}
	return n, open
}

// one takes a record: first it is copied into its line's batch, then counted
// and the ring moved on, which the journal ties together.
func (r *reader) one(b []byte, next uint64, now time.Time) {
	s := r.c.store
	if !r.raw.parse(b) || r.raw.line >= bpf.MaxLines || r.c.slots[r.raw.line] == nil {
		s.ring.advance(next) // of a line that is gone, with its ledger
		return
	}
	l := r.c.slots[r.raw.line]
	r.record = tapstream.Record{
		Time: int64(r.raw.bootNS) + r.offset, Length: r.raw.length, Workload: r.raw.workload, GSOSize: r.raw.gsoSize,
		Segments: r.raw.segments, VLANTCI: r.raw.vlanTCI, VLANProto: r.raw.vlanProto, Flags: r.raw.flags, Data: r.raw.data,
	}
	l.add(&r.record, now)
	taken := l.counts.count(wordTaken)
	s.control.journal(s.ring.consumed(), l.slot, taken)
	l.counts.set(wordTaken, taken.Add(model.Count{Packets: uint64(r.raw.segments), Bytes: uint64(r.raw.length)}))
	s.ring.advance(next)
}
