package plan

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"

	"weft/policy"
	"weft/wire/wirepb"
)

// holders are the identities that claim an address, each once for every claim.
type holders []policy.Identity

// one is the only identity there is, else 0.
func (h holders) one() policy.Identity {
	for _, id := range h {
		if id != h[0] {
			return 0
		}
	}
	if len(h) == 0 {
		return 0
	}
	return h[0]
}

// places are the hosts on which an address is claimed, each once for every claim.
type places []*hostPart

// one is the only host there is, else nil.
func (p places) one() *hostPart {
	for _, h := range p {
		if h != p[0] {
			return nil
		}
	}
	if len(p) == 0 {
		return nil
	}
	return p[0]
}

// book is the fleet's: who claims what, and, while a host needs all of it, the
// whole in order.
type book struct {
	claims map[netip.Addr]holders
	places map[netip.Addr]places      // the hosts of those who claim, in step with claims
	owners map[netip.Addr][]*hostPart // hosts whose own book has the address too
	moved  map[netip.Addr]policy.Identity
	list   []*address // ascending, without what is ambiguous; nil until needed
	wire   []*wirepb.AddressIdentity
	shards [bookShards][32]byte
	digest [32]byte
}

// bookShards bounds what has to be digested again where one address changes. An
// address is in the same one whatever others there are.
const bookShards = 256

func newBook() book {
	return book{claims: map[netip.Addr]holders{}, places: map[netip.Addr]places{}, owners: map[netip.Addr][]*hostPart{}, moved: map[netip.Addr]policy.Identity{}}
}

func (b *book) shard(a netip.Addr) int {
	raw := a.As16()
	n := binary.BigEndian.Uint64(raw[:8])*0x9e3779b97f4a7c15 ^ binary.BigEndian.Uint64(raw[8:])*0xff51afd7ed558ccd
	return int(n >> 56)
}

// note remembers who had an address before the first change of this plan.
func (b *book) note(a netip.Addr) {
	if _, known := b.moved[a]; !known {
		b.moved[a] = b.claims[a].one()
	}
}

// claim enters a workload's addresses into the books.
func (s *segments) claim(h *hostPart, m *member) {
	m.fleet, m.own = claimsOf(m.Workload, s.interfaces[h.name])
	for _, a := range m.fleet {
		s.book.note(a)
		s.book.claims[a] = append(s.book.claims[a], m.who.id)
		s.callers.touch(h, s.book.places[a].one())
		s.book.places[a] = append(s.book.places[a], h)
	}
	for _, a := range m.own {
		if len(h.own[a]) == 0 {
			s.book.owners[a] = append(s.book.owners[a], h)
		}
		h.own[a] = append(h.own[a], m.who.id)
	}
}

func (s *segments) unclaim(h *hostPart, m *member) {
	for _, a := range m.fleet {
		s.book.note(a)
		s.book.claims[a], s.book.places[a] = remove(s.book.claims[a], m.who.id), remove(s.book.places[a], h)
		s.callers.touch(h, s.book.places[a].one())
		if len(s.book.claims[a]) == 0 {
			delete(s.book.claims, a)
			delete(s.book.places, a)
		}
	}
	for _, a := range m.own {
		if h.own[a] = remove(h.own[a], m.who.id); len(h.own[a]) > 0 {
			continue
		}
		delete(h.own, a)
		if s.book.owners[a] = remove(s.book.owners[a], h); len(s.book.owners[a]) == 0 {
			delete(s.book.owners, a)
		}
	}
}

// settle gives moved addresses to whoever has them now, and has the hosts written
// again that need to know.
func (s *segments) settle() {
	ids := map[policy.Identity]bool{}
	var gone, come []*address
	for a, before := range s.book.moved {
		now := s.book.claims[a].one()
		for _, h := range s.book.owners[a] {
			s.touched[h] = true // whether or not one has it, it may have been hidden
		}
		if before == now {
			continue
		}
		if x := s.byID[before]; x != nil {
			i := slices.IndexFunc(x.addresses, func(o *address) bool { return o.addr == a })
			gone = append(gone, x.addresses[i])
			x.addresses = slices.Delete(x.addresses, i, i+1)
			ids[before] = true
		}
		if x := s.byID[now]; x != nil {
			n := newAddress(located{a, now})
			i, _ := slices.BinarySearchFunc(x.addresses, n, byLocated)
			x.addresses = slices.Insert(x.addresses, i, n)
			come = append(come, n)
			ids[now] = true
		}
	}
	clear(s.book.moved)
	for id := range ids {
		for _, text := range s.ids.Selectors(id) {
			s.touchPeers(text)
		}
	}
	if s.book.list != nil {
		s.book.change(gone, come)
	}
	if len(gone)+len(come) > 0 {
		maps.Copy(s.reread, s.everybody)
	}
}

func byLocated(a, b *address) int { return byAddress(a.located, b.located) }

// whole makes the list of everything, for hosts that need it.
func (s *segments) whole() {
	if s.book.list != nil {
		return
	}
	var all []*address
	for _, x := range s.byID {
		all = append(all, x.addresses...)
	}
	s.book.list, s.book.wire = []*address{}, nil
	s.book.change(nil, all)
}

func (b *book) change(gone, come []*address) {
	if len(gone)+len(come) == 0 && b.list == nil {
		return
	}
	if len(gone)+len(come) > 64 {
		drop := map[*address]bool{}
		for _, g := range gone {
			drop[g] = true
		}
		b.list = append(slices.DeleteFunc(b.list, func(a *address) bool { return drop[a] }), come...)
		slices.SortFunc(b.list, byLocated)
	} else {
		for _, g := range gone {
			if i, ok := slices.BinarySearchFunc(b.list, g, byLocated); ok {
				b.list = slices.Delete(b.list, i, i+1)
			}
		}
		for _, c := range come {
			i, _ := slices.BinarySearchFunc(b.list, c, byLocated)
			b.list = slices.Insert(b.list, i, c)
		}
	}
	// Sections that were sent share the last list: another is made.
	b.wire = make([]*wirepb.AddressIdentity, len(b.list))
	for i, a := range b.list {
		b.wire[i] = a.wire
	}
	b.seal(gone, come)
}

// seal digests the shards that have changed.
func (b *book) seal(gone, come []*address) {
	changed, text := map[int]bool{}, map[int][]byte{}
	for _, list := range [][]*address{gone, come} {
		for _, a := range list {
			changed[b.shard(a.addr)] = true
		}
	}
	for _, a := range b.list {
		if n := b.shard(a.addr); changed[n] {
			text[n] = appendLocated(text[n], a.located)
		}
	}
	for n := range changed {
		b.shards[n] = [32]byte{}
		if len(text[n]) > 0 {
			b.shards[n] = sha256.Sum256(text[n])
		}
	}
	all := make([]byte, 0, 32*bookShards)
	for i := range b.shards {
		all = append(all, b.shards[i][:]...)
	}
	b.digest = sha256.Sum256(all)
}

func appendLocated(b []byte, l located) []byte {
	raw := l.addr.As16()
	return binary.BigEndian.AppendUint32(append(append(b, byte(l.addr.BitLen())), raw[:]...), uint32(l.id))
}

// view joins the fleet's book and a host's own: add are the entries to add, and
// hidden the fleet's addresses that somebody on the host has too.
func (s *segments) view(h *hostPart) (add, hidden []located) {
	for a, list := range h.own {
		id := list.one()
		fleet, taken := s.book.claims[a]
		switch other := fleet.one(); {
		case taken && other != id:
			if other != 0 {
				hidden = append(hidden, located{a, other})
			}
		case !taken && id != 0:
			add = append(add, located{a, id})
		}
	}
	slices.SortFunc(add, byAddress)
	slices.SortFunc(hidden, byAddress)
	return add, hidden
}
