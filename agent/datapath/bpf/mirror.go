package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// mirror is a map of the kernel and what it holds, so that only differences are
// written.
type mirror[K, V comparable] struct {
	kernel *ebpf.Map
	have   map[K]V
}

// batch is how many entries one system call writes.
const batch = 1024

// newMirror reads what a map holds.
func newMirror[K, V comparable](m *ebpf.Map) (*mirror[K, V], error) {
	out := &mirror[K, V]{kernel: m, have: map[K]V{}}
	var key K
	var value V
	it := m.Iterate()
	for it.Next(&key, &value) {
		out.have[key] = value
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read map %s: %w", m, err)
	}
	return out, nil
}

// put writes what is new or another.
func (m *mirror[K, V]) put(want map[K]V) error {
	keys, values := make([]K, 0, batch), make([]V, 0, batch)
	flush := func() error {
		if len(keys) == 0 {
			return nil
		}
		if n, err := m.kernel.BatchUpdate(keys, values, nil); err != nil {
			for i := 0; i < n && i < len(keys); i++ {
				m.have[keys[i]] = values[i]
			}
			return fmt.Errorf("write %d entries to %s (it holds %d of %d): %w", len(keys), m.kernel, len(m.have), m.kernel.MaxEntries(), err)
		}
		for i, k := range keys {
			m.have[k] = values[i]
		}
		keys, values = keys[:0], values[:0]
		return nil
	}
	for k, v := range want {
		if old, ok := m.have[k]; ok && old == v {
			continue
		}
		keys, values = append(keys, k), append(values, v)
		if len(keys) == batch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// drop deletes what is not wanted.
func (m *mirror[K, V]) drop(want map[K]V) error {
	for k := range m.have {
		if _, ok := want[k]; ok {
			continue
		}
		if err := m.kernel.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from %s: %w", m.kernel, err)
		}
		delete(m.have, k)
	}
	return nil
}
