// Package bpfmap goes through maps of the kernel with few system calls.
package bpfmap

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// Each shows what a map holds until show returns false; then it is done before the
// end. Entries are read into keys and values, which are of one length, as many at a
// time: what is shown is the caller's own until show returns.
func Each[K, V any](m *ebpf.Map, keys []K, values []V, show func(*K, *V) bool) (done bool, err error) {
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		end := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !end {
			return false, fmt.Errorf("read %s: %w", m, err)
		}
		for i := range n {
			if !show(&keys[i], &values[i]) {
				return true, nil
			}
		}
		if end {
			return false, nil
		}
	}
}

// Delete deletes keys; it may be that some are not there.
func Delete[K any](m *ebpf.Map, keys []K) error {
	for len(keys) > 0 {
		n, err := m.BatchDelete(keys, nil)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			n, err = n+1, nil // the one after those that were there
		}
		if err != nil {
			return fmt.Errorf("delete from %s: %w", m, err)
		}
		keys = keys[n:]
	}
	return nil
}
