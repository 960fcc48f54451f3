package identity

import (
	"sync/atomic"
	"time"
)

// clock is the machine's clock and how far it is from the controller's. A
// person sets clocks, so the machine's own is never assumed right; but nor is
// it moved for a difference that the network alone explains.
type clock struct {
	local  func() time.Time
	offset atomic.Int64 // nanoseconds that the controller is ahead
}

const skewTolerated = 2 * time.Second

func (c *clock) now() time.Time {
	return c.local().Add(time.Duration(c.offset.Load()))
}

func (c *clock) observe(controller time.Time) {
	// Round(0) drops the monotonic reading: it is the wall clocks that differ.
	ahead := controller.Round(0).Sub(c.local().Round(0))
	if ahead.Abs() <= skewTolerated {
		ahead = 0
	}
	c.offset.Store(int64(ahead))
}
