package bpf

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf"
)

// mirror is a map of the kernel and what it holds, so that only differences are
// written. What is to be written or deleted is collected, and then done in the
// order in which it was said.
type mirror[K, V comparable] struct {
	kernel *ebpf.Map
	stand  *stand // nil where that is always the same map
	have   map[K]V
	keys   []K // to be written
	values []V
	gone   []K // to be deleted
	// orphans are keys whose meaning nobody knows: of a program before this one,
	// or of a change that failed.
	orphans []K
}

// batch is how many entries one system call writes.
const batch = 1024

// newMirror reads what a map holds.
func newMirror[K, V comparable](m *ebpf.Map) (*mirror[K, V], error) {
	out := &mirror[K, V]{kernel: m}
	var err error
	out.have, err = out.read()
	return out, err
}

func (m *mirror[K, V]) read() (map[K]V, error) {
	now := make(map[K]V, len(m.have))
	var key K
	var value V
	it := m.kernel.Iterate()
	for it.Next(&key, &value) {
		now[key] = value
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read map %s: %w", m.kernel, err)
	}
	return now, nil
}

// compare reads the map again and returns how many entries are not what we wrote;
// they are to be put back.
func (m *mirror[K, V]) compare() (changed int, err error) {
	if changed, err = m.stand.restore(m.kernel); err != nil {
		return 0, err
	}
	now, err := m.read()
	if err != nil {
		return 0, err
	}
	for k, v := range m.have {
		if is, ok := now[k]; !ok || is != v {
			m.add(k, v)
			changed++
		}
	}
	for k, v := range now {
		if _, ok := m.have[k]; !ok {
			m.have[k] = v
			m.unset(k)
			changed++
		}
	}
	return changed, nil
}

// set says that an entry is to be written, where it is not there.
func (m *mirror[K, V]) set(k K, v V) {
	if old, ok := m.have[k]; !ok || old != v {
		m.add(k, v)
	}
}

// add says that an entry is to be written that cannot be there: its number is new.
func (m *mirror[K, V]) add(k K, v V) { m.keys, m.values = append(m.keys, k), append(m.values, v) }

// unset says that an entry is to be deleted.
func (m *mirror[K, V]) unset(k K) { m.gone = append(m.gone, k) }

// spare lets go of deleting what was never written.
func (m *mirror[K, V]) spare() {
	m.gone = slices.DeleteFunc(m.gone, func(k K) bool {
		_, ok := m.have[k]
		return !ok
	})
}

// forget lets go of what was to be written or deleted.
func (m *mirror[K, V]) forget() { m.keys, m.values, m.gone = nil, nil, nil }

// disown makes orphans of all that is there.
func (m *mirror[K, V]) disown() { m.orphans = slices.Collect(maps.Keys(m.have)) }

// sweep says that orphans are to be deleted.
func (m *mirror[K, V]) sweep() {
	for _, k := range m.orphans {
		m.unset(k)
	}
	m.orphans = nil
}

// write writes what was set.
func (m *mirror[K, V]) write() error {
	keys, values := m.keys, m.values
	m.keys, m.values = nil, nil
	if err := m.fit(m.with(keys)); err != nil {
		return err
	}
	for len(keys) > 0 {
		most := min(batch, len(keys))
		n, err := m.kernel.BatchUpdate(keys[:most], values[:most], nil)
		if err == nil {
			n = most
		}
		for i := range min(n, most) {
			m.have[keys[i]] = values[i]
		}
		if err != nil {
			return fmt.Errorf("write %d entries to %s (it holds %d of %d): %w", most, m.kernel, len(m.have), m.kernel.MaxEntries(), err)
		}
		keys, values = keys[most:], values[most:]
	}
	return nil
}

// erase deletes what was unset.
func (m *mirror[K, V]) erase() error {
	keys := m.gone
	m.gone = nil
	for len(keys) > 0 {
		most := min(batch, len(keys))
		n, err := m.kernel.BatchDelete(keys[:most], nil)
		switch {
		case err == nil:
			n = most
		case errors.Is(err, ebpf.ErrKeyNotExist): // somebody else has deleted one
			n = min(n+1, most)
		}
		for _, k := range keys[:min(n, most)] {
			delete(m.have, k)
		}
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from %s: %w", m.kernel, err)
		}
		keys = keys[n:]
	}
	return m.fit(len(m.have))
}

// put writes what of a whole is new or another.
func (m *mirror[K, V]) put(want map[K]V) error {
	for k, v := range want {
		m.set(k, v)
	}
	return m.write()
}

// drop deletes what is not in a whole.
func (m *mirror[K, V]) drop(want map[K]V) error {
	for k := range m.have {
		if _, ok := want[k]; !ok {
			m.unset(k)
		}
	}
	return m.erase()
}
