package bpf

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/cilium/ebpf"
)

// stand is a map of the kernel in which another stands, so that it can be exchanged
// under programs that run: for one of another size, since a table of hashes takes as
// much as it may ever hold.
type stand struct {
	outer *ebpf.Map
	inner *ebpf.MapSpec
	most  int // entries
	now   ebpf.MapID
}

// leastRoom is that of a map with little in it, and slack how many times as much as
// it holds a map must have room for to be exchanged for a smaller one.
const (
	leastRoom = 1024
	slack     = 8
)

// newStanding reads what the map holds that stands there. Where there is none yet, as
// before programs run for the first time, it is made.
func newStanding[K, V comparable](outer *ebpf.Map, inner *ebpf.MapSpec, most int) (*mirror[K, V], error) {
	s := &stand{outer: outer, inner: inner, most: most}
	var m *ebpf.Map
	err := outer.Lookup(uint32(0), &m)
	switch {
	case err == nil:
		s.now, err = idOf(m)
	case errors.Is(err, ebpf.ErrKeyNotExist):
		if m, err = s.make(leastRoom); err == nil {
			err = s.set(m)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("find what stands in %s: %w", outer, err)
	}
	out, err := newMirror[K, V](m)
	if out != nil {
		out.stand = s
	}
	return out, err
}

func (s *stand) make(room uint32) (*ebpf.Map, error) {
	spec := s.inner.Copy()
	spec.MaxEntries = room
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("make %s for %d entries: %w", spec.Name, room, err)
	}
	return m, nil
}

// set has programs look into m from now on.
func (s *stand) set(m *ebpf.Map) error {
	id, err := idOf(m)
	if err != nil {
		return err
	}
	if err := s.outer.Put(uint32(0), m); err != nil {
		return fmt.Errorf("exchange %s: %w", s.inner.Name, err)
	}
	s.now = id
	return nil
}

// restore puts m back where another stands in its place, and returns how many do.
func (s *stand) restore(m *ebpf.Map) (changed int, err error) {
	if s == nil {
		return 0, nil
	}
	var now ebpf.MapID
	if err := s.outer.Lookup(uint32(0), &now); err == nil && now == s.now {
		return 0, nil
	}
	return 1, s.set(m)
}

func idOf(m *ebpf.Map) (ebpf.MapID, error) {
	info, err := m.Info()
	if err != nil {
		return 0, fmt.Errorf("ask for the number of %s: %w", m, err)
	}
	id, ok := info.ID()
	if !ok {
		return 0, fmt.Errorf("%s has no number: Linux 4.13 is needed", m)
	}
	return id, nil
}

// with is how many entries there are when those are written, of which some may be
// there.
func (m *mirror[K, V]) with(keys []K) int {
	n := len(m.have) + len(keys)
	if m.stand == nil || n <= int(m.kernel.MaxEntries()) {
		return n // at most, which fits
	}
	n = len(m.have)
	for _, k := range keys {
		if _, ok := m.have[k]; !ok {
			n++
		}
	}
	return n
}

// fit exchanges a map that stands in another where so many entries do not fit, or
// leave most of it empty.
func (m *mirror[K, V]) fit(n int) error {
	if m.stand == nil {
		return nil
	}
	has, room := m.kernel.MaxEntries(), roomFor(n)
	if n <= int(has) && int(room)*slack > int(has) {
		return nil
	}
	if n > m.stand.most {
		return fmt.Errorf("%d entries do not fit into %s, which has room for %d", n, m.stand.inner.Name, m.stand.most)
	}
	next, err := m.stand.make(room)
	if err != nil {
		return err
	}
	keys, values := make([]K, 0, batch), make([]V, 0, batch)
	flush := func() error {
		if _, err := next.BatchUpdate(keys, values, nil); err != nil {
			return fmt.Errorf("copy %s: %w", m.stand.inner.Name, err)
		}
		keys, values = keys[:0], values[:0]
		return nil
	}
	for k, v := range m.have {
		if keys, values = append(keys, k), append(values, v); len(keys) == batch {
			if err = flush(); err != nil {
				break
			}
		}
	}
	if err == nil && len(keys) > 0 {
		err = flush()
	}
	if err == nil {
		err = m.stand.set(next)
	}
	if err != nil {
		return errors.Join(err, next.Close())
	}
	before := m.kernel
	m.kernel = next
	return before.Close()
}

// close lets go of a map that stands in another, which keeps it.
func (m *mirror[K, V]) close() error {
	if m == nil {
		return nil
	}
	return m.kernel.Close()
}

// roomFor is the size of a map for so many entries: a power of two, as hashes are
// kept.
func roomFor(n int) uint32 {
	return max(leastRoom, uint32(1)<<bits.Len32(uint32(max(n, 1)-1)))
}
