package bpf

import (
	"errors"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"
)

// followRing hands over what comes in a ring, but for what is shorter than it has
// to be, until the ring is closed. What f is handed is its own only until it returns.
// Where one had to be waited for, it and those that follow within gather are read
// together: programs wake who waits, and nobody else.
func followRing(r *ringbuf.Reader, least int, gather time.Duration, f func([]byte)) {
	var rec ringbuf.Record
	for {
		waits := rec.Remaining == 0
		err := r.ReadInto(&rec)
		if waits && err == nil {
			time.Sleep(gather)
		}
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err == nil && len(rec.RawSample) >= least:
			f(rec.RawSample)
		}
	}
}
