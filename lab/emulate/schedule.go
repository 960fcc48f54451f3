// Package emulate delays, loses, reorders and slows frames between two network
// devices, in user space: it needs nothing of the kernel but packet sockets,
// so it works where the netem queueing discipline is missing.
package emulate

import (
	"math/rand/v2"
	"time"
)

// Impairment is what a link does to frames in each direction.
type Impairment struct {
	Rate    uint64        // bits of frame per second; 0 is unlimited
	Delay   time.Duration // one way
	Jitter  time.Duration // the delay varies by up to this, drawn evenly; order is kept
	Loss    float64       // share of frames dropped
	Reorder float64       // share of frames that leave at once and so overtake
	MTU     int           // of layer 3; larger frames are dropped
	Seed    uint64
}

// Limits of what a direction holds; what comes on top is dropped and counted.
const (
	// maxQueue frames wait for their time. A Gbit/s for 100 ms are 8,300.
	maxQueue = 16384
	// maxBacklog is how long a frame may wait for a link of limited rate.
	maxBacklog = 200 * time.Millisecond
	// maxSpare buffers are kept after a burst.
	maxSpare = 1024
	etherLen = 14
)

// schedule decides the fate of each frame of one direction. It is a function
// of the impairment, the times and sizes of frames, and the seed.
type schedule struct {
	Impairment
	draw *rand.Rand
	// free is when the line is free again, last when the latest frame that
	// keeps its place arrives.
	free, last time.Time
}

func newSchedule(i Impairment, direction uint64) schedule {
	return schedule{Impairment: i, draw: rand.New(rand.NewPCG(i.Seed, direction))}
}

// verdict on a frame.
type verdict uint8

const (
	pass verdict = iota
	lost         // drawn
	full         // no room in the queue before the line
	tooBig
)

// next says when a frame of size bytes that begins now arrives. Every frame
// costs the same draws, so that one frame more or less moves no other.
func (s *schedule) next(now time.Time, size int) (time.Time, verdict) {
	loss, jitter, reorder := s.draw.Float64(), s.draw.Float64(), s.draw.Float64()
	if s.MTU > 0 && size > s.MTU+etherLen {
		return time.Time{}, tooBig
	}
	if loss < s.Loss {
		return time.Time{}, lost
	}
	leaves := now
	if s.Rate > 0 {
		if s.free.After(now) {
			leaves = s.free
		}
		if leaves.Sub(now) > maxBacklog {
			return time.Time{}, full
		}
		leaves = leaves.Add(time.Duration(uint64(size) * 8 * uint64(time.Second) / s.Rate))
		s.free = leaves
	}
	if reorder < s.Reorder {
		return leaves, pass
	}
	arrives := leaves.Add(s.Delay + time.Duration((2*jitter-1)*float64(s.Jitter)))
	if arrives.Before(s.last) {
		arrives = s.last
	}
	s.last = arrives
	return arrives, pass
}

// frame waits for its time. Frames of the same time keep their order.
type frame struct {
	at   time.Time
	seq  uint64
	data []byte
}

// queue is a binary heap of frames, the next one first. Its buffers are used
// again, so that a link in steady state allocates nothing.
type queue struct {
	heap  []frame
	spare [][]byte
	seq   uint64
	size  int // of a buffer
}

func (q *queue) len() int { return len(q.heap) }

func (q *queue) buffer() []byte {
	if n := len(q.spare); n > 0 {
		b := q.spare[n-1]
		q.spare = q.spare[:n-1]
		return b
	}
	return make([]byte, q.size)
}

func (q *queue) release(b []byte) {
	if len(q.spare) < maxSpare {
		q.spare = append(q.spare, b[:cap(b)])
	}
}

func (f frame) before(g frame) bool {
	if f.at.Equal(g.at) {
		return f.seq < g.seq
	}
	return f.at.Before(g.at)
}

func (q *queue) push(at time.Time, data []byte) {
	q.seq++
	q.heap = append(q.heap, frame{at, q.seq, data})
	for i := len(q.heap) - 1; i > 0; {
		parent := (i - 1) / 2
		if !q.heap[i].before(q.heap[parent]) {
			break
		}
		q.heap[i], q.heap[parent] = q.heap[parent], q.heap[i]
		i = parent
	}
}

func (q *queue) pop() []byte {
	data := q.heap[0].data
	n := len(q.heap) - 1
	q.heap[0] = q.heap[n]
	q.heap[n] = frame{}
	q.heap = q.heap[:n]
	for i := 0; ; {
		least := i
		for _, child := range [2]int{2*i + 1, 2*i + 2} {
			if child < n && q.heap[child].before(q.heap[least]) {
				least = child
			}
		}
		if least == i {
			return data
		}
		q.heap[i], q.heap[least] = q.heap[least], q.heap[i]
		i = least
	}
}
