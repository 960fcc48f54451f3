package bpf

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"weft/policy/classify"
)

// turn is a table that takes the place of another under its number: each entry
// that differs is written, or deleted, by itself. It is allowed where no packet can
// meet two of those entries (see oneKind), so that each is judged by the old table
// or by the new one.
type turn struct {
	placed     *placed
	table      *classify.Table
	head       *policyTable // nil where it stays
	identities changes[policyIdentityKey, uint32]
	blocks     changes[policyBlockKey, policyBlock]
	before     []*classify.Class // that it uses no more
}

// changes are made in this order, and what goes goes last.
type changes[K, V comparable] struct {
	keys   []K
	values []V
	gone   []K
}

func (c *changes[K, V]) set(k K, v V) { c.keys, c.values = append(c.keys, k), append(c.values, v) }

// write writes what is new or another in a map.
func (c *changes[K, V]) write(m *mirror[K, V]) error {
	for i, k := range c.keys {
		m.set(k, c.values[i])
	}
	return m.write()
}

// erase deletes the rest, after all is written.
func (c *changes[K, V]) erase(m *mirror[K, V]) error {
	for _, k := range c.gone {
		m.unset(k)
	}
	return m.erase()
}

// oneKind says whether a table was made from another so that only one kind of
// entries differs: the head, those of identities, or those of blocks. A packet looks
// at the head once, and at one entry of each other kind.
func oneKind(old, now *classify.Table) bool {
	c, known := now.Since(old)
	if !known || c.Names || !slices.EqualFunc(old.Defaults, now.Defaults, classify.SameDefault) {
		return false
	}
	kinds := 0
	for _, differs := range []bool{!sameHead(old, now), !slices.EqualFunc(old.Identities, now.Identities, sameMember), len(c.Blocks) > 0} {
		if differs {
			kinds++
		}
	}
	return kinds <= 1
}

func sameHead(a, b *classify.Table) bool {
	return a.Any == b.Any && a.World == b.World && a.Fleet == b.Fleet && a.EntityMask == b.EntityMask && maps.Equal(a.Entities, b.Entities) &&
		(len(a.Identities) > 0) == (len(b.Identities) > 0) && a.HasBlocks() == b.HasBlocks() && a.Rejects() == b.Rejects()
}

func sameMember(a, b classify.Member) bool { return a.Identity == b.Identity && a.Class() == b.Class() }

// planTurn takes what a table needs to take the place of another.
func (s *store) planTurn(p *placed, t *classify.Table) error {
	x := &turn{placed: p, table: t}
	s.tables[t], s.wanted[p] = p, true
	s.turns = append(s.turns, x)
	old := p.table
	if !sameHead(old, t) {
		head, err := s.head(p.number, t)
		if err != nil {
			return err
		}
		x.head = &head
		x.before = append(slices.Collect(maps.Values(old.Entities)), old.Any, old.World, old.Fleet)
	}
	if err := s.turnIdentities(x, old.Identities, t.Identities); err != nil {
		return err
	}
	return s.turnBlocks(x)
}

func (s *store) turnIdentities(x *turn, old, now []classify.Member) error {
	key := func(m classify.Member) policyIdentityKey {
		return policyIdentityKey{Table: x.placed.number, Identity: uint32(m.Identity)}
	}
	for len(old)+len(now) > 0 {
		switch {
		case len(now) == 0 || len(old) > 0 && old[0].Identity < now[0].Identity:
			x.identities.gone = append(x.identities.gone, key(old[0]))
			x.before = append(x.before, old[0].Class())
			old = old[1:]
			continue
		case len(old) > 0 && sameMember(old[0], now[0]):
			old, now = old[1:], now[1:]
			continue
		}
		class, err := s.take(now[0].Class())
		if err != nil {
			return err
		}
		x.identities.set(key(now[0]), class)
		if len(old) > 0 && old[0].Identity == now[0].Identity {
			x.before = append(x.before, old[0].Class())
			old = old[1:]
		}
		now = now[1:]
	}
	return nil
}

// turnBlocks writes the longest prefixes first and deletes the shortest first: at
// any time the longest one that holds an address is its block of the old table or
// of the new.
func (s *store) turnBlocks(x *turn) error {
	c, _ := x.table.Since(x.placed.table)
	list := slices.Clone(c.Blocks)
	slices.SortFunc(list, func(a, b netip.Prefix) int { return cmp.Compare(b.Bits(), a.Bits()) })
	for _, p := range list {
		if b := x.table.Block(p); b != nil {
			value, err := s.block(b)
			if err != nil {
				return err
			}
			x.blocks.set(blockKey(x.placed.number, p), value)
		} else {
			x.blocks.gone = append(x.blocks.gone, blockKey(x.placed.number, p))
		}
		if b := x.placed.table.Block(p); b != nil {
			x.before = append(x.before, b.World, b.Managed)
		}
	}
	slices.Reverse(x.blocks.gone)
	return nil
}

// turn makes the tables that keep their number say what they are to say, but for
// entries that go.
func (s *store) turn() error {
	for _, x := range s.turns {
		if err := firstError(
			func() error { return x.blocks.write(s.maps.blocks) },
			func() error { return x.identities.write(s.maps.identities) },
			func() error {
				if x.head != nil {
					s.maps.tables.set(x.placed.number, *x.head)
				}
				return s.maps.tables.write()
			},
		); err != nil {
			return err
		}
	}
	return nil
}

// turned takes away the entries that go.
func (s *store) turned() error {
	for _, x := range s.turns {
		if err := x.blocks.erase(s.maps.blocks); err != nil {
			return err
		}
		if err := x.identities.erase(s.maps.identities); err != nil {
			return err
		}
	}
	return nil
}
