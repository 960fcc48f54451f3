package probe

import (
	"math/bits"
	"time"
)

// Latencies are counted in buckets that grow with what they count: below 128 ns
// each nanosecond has its own, and above each doubling has 128. So a percentile is
// right within 1 %, however many there are, in 56 KiB.
const (
	subBits = 7
	sub     = 1 << subBits
	buckets = (64 - subBits + 1) * sub
)

// histogram counts latencies. The zero value is ready.
type histogram struct {
	counts   [buckets]uint64
	n        uint64
	sum      float64 // nanoseconds
	min, max time.Duration
}

func bucket(d time.Duration) int {
	v := uint64(max(d, 0))
	if v < sub {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return (shift+1)*sub + int(v>>shift) - sub
}

// upper is the largest latency of a bucket.
func upper(i int) time.Duration {
	if i < sub {
		return time.Duration(i)
	}
	shift := i/sub - 1
	return time.Duration((uint64(i%sub+sub)+1)<<shift - 1)
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(d)]++
	if h.n == 0 || d < h.min {
		h.min = d
	}
	h.n, h.sum, h.max = h.n+1, h.sum+float64(d), max(h.max, d)
}

func (h *histogram) merge(o *histogram) {
	if o.n == 0 {
		return
	}
	for i, n := range o.counts {
		h.counts[i] += n
	}
	if h.n == 0 || o.min < h.min {
		h.min = o.min
	}
	h.n, h.sum, h.max = h.n+o.n, h.sum+o.sum, max(h.max, o.max)
}

// quantile is the latency that so many, from 0 to 1, do not exceed.
func (h *histogram) quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := uint64(q*float64(h.n) + 0.999999)
	seen := uint64(0)
	for i, n := range h.counts {
		if seen += n; n > 0 && seen >= rank {
			return max(h.min, min(upper(i), h.max))
		}
	}
	return h.max
}
