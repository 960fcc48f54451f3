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
	out := &mirror[K, V]{kernel: m}
	_, err := out.refresh()
	return out, err
}

// refresh reads the map again and returns how many entries are not what we wrote.
func (m *mirror[K, V]) refresh() (changed int, err error) {
	now := make(map[K]V, len(m.have))
	var key K
	var value V
	it := m.kernel.Iterate()
	for it.Next(&key, &value) {
		now[key] = value
		if old, ok := m.have[key]; !ok || old != value {
			changed++
		}
	}
	if err := it.Err(); err != nil {
		return 0, fmt.Errorf("read map %s: %w", m.kernel, err)
	}
	for k := range m.have {
		if _, ok := now[k]; !ok {
			changed++
		}
	}
	m.have = now
	return changed, nil
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
