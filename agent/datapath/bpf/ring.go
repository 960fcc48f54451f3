package bpf

import (
	"errors"
	"os"

	"github.com/cilium/ebpf/ringbuf"
)

// followRing hands over what comes in a ring, but for what is shorter than it has
// to be, until the ring is closed. What f is handed is its own only until it returns.
func followRing(r *ringbuf.Reader, least int, f func([]byte)) {
	var rec ringbuf.Record
	for {
		err := r.ReadInto(&rec)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err == nil && len(rec.RawSample) >= least:
			f(rec.RawSample)
		}
	}
}
