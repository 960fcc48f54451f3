package capture

import (
	"sync"

	"weft/model"
)

// queue holds sealed batches until the tool has acknowledged them, in one
// circular buffer that grows up to a limit. It never waits: what does not fit is
// refused, and the caller counts it as shed.
type queue struct {
	mu      sync.Mutex
	limit   int
	arena   []byte
	entries []batch // the oldest first
	start   int     // entries before it are free
	next    int     // index of the first that this connection has not been given
	written uint64  // highest sequence whose write has returned on this connection
	acked   uint64
}

type batch struct {
	sequence uint64
	off, n   int
	sum      model.Count
}

const smallestArena = 256 << 10

func (q *queue) live() []batch { return q.entries[q.start:] }

// push copies a message in. False: there is no room.
func (q *queue) push(sequence uint64, sum model.Count, msg []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	off, ok := q.place(len(msg))
	for !ok && len(q.arena) < q.limit {
		q.grow()
		off, ok = q.place(len(msg))
	}
	if !ok {
		return false
	}
	copy(q.arena[off:], msg)
	if q.start > 0 && len(q.entries) == cap(q.entries) {
		n := copy(q.entries, q.live())
		q.entries, q.next, q.start = q.entries[:n], q.next-q.start, 0
	}
	q.entries = append(q.entries, batch{sequence, off, len(msg), sum})
	return true
}

// place finds n bytes in a row.
func (q *queue) place(n int) (int, bool) {
	live := q.live()
	if len(live) == 0 {
		return 0, n <= len(q.arena)
	}
	head, last := live[0].off, live[len(live)-1]
	tail := last.off + last.n
	if last.off >= head {
		if n <= len(q.arena)-tail {
			return tail, true
		}
		return 0, n < head
	}
	return tail, n < head-tail
}

func (q *queue) grow() {
	bigger := make([]byte, min(q.limit, max(smallestArena, 2*len(q.arena))))
	off := 0
	for i := range q.live() {
		b := &q.live()[i]
		copy(bigger[off:], q.arena[b.off:b.off+b.n])
		b.off = off
		off += b.n
	}
	q.arena = bigger
}

// rewind begins a connection whose tool has dealt with everything up to last.
func (q *queue) rewind(last uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.acked = max(q.acked, last)
	q.written = q.acked // what is sent again is written again
	q.prune()
	q.next = q.start
}

// take returns the next batch to send; its bytes stay as they are until it is
// both written and acknowledged.
func (q *queue) take() (batch, []byte, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.next >= len(q.entries) {
		return batch{}, nil, false
	}
	b := q.entries[q.next]
	q.next++
	return b, q.arena[b.off : b.off+b.n], true
}

// wrote says that the write of a batch has returned.
func (q *queue) wrote(sequence uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.written = max(q.written, sequence)
	q.prune()
}

// ack frees what the tool has dealt with. False: it names what it was not sent.
func (q *queue) ack(sequence uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.next > q.start && sequence > q.entries[q.next-1].sequence || q.next == q.start && sequence > max(q.written, q.acked) {
		return false
	}
	q.acked = max(q.acked, sequence)
	q.prune()
	return true
}

func (q *queue) prune() {
	through := min(q.acked, q.written)
	for q.start < len(q.entries) && q.entries[q.start].sequence <= through {
		q.start++
	}
	q.next = max(q.next, q.start)
	if q.start == len(q.entries) {
		q.entries, q.start, q.next = q.entries[:0], 0, 0
	}
}

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.live()) == 0
}
