package plan

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"maps"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"

	"weft/policy"
	"weft/wire/wirepb"
)

// A section's digest names its content: it is made of digests of parts, which
// many hosts share, and not of the whole as encoded, which may be megabytes that
// nobody asks for.

// pack is what follows from a set of rulesets: every host that has the same set
// shares it.
type pack struct {
	key       string // digest of the policy section
	policy    *wirepb.Section_Policy
	selectors []*wirepb.SelectorMembers
	// everybody is set where a rule asks whether a peer is of the fleet at all:
	// such a host has the whole book of addresses. Others have these.
	everybody bool
	wanted    *roaring.Bitmap
	addresses []*address
	wire      []*wirepb.AddressIdentity
	digest    [32]byte
	hosts     int
	asks      *asks // nil where no rule has a selector of peers
	stale     bool  // members of a selector, or addresses, are others
}

// packOf returns the pack of a set of rulesets.
func (s *segments) packOf(used map[*ruleset]bool) *pack {
	byKey := map[string]*ruleset{}
	for r := range used {
		byKey[r.wire.Key] = r
	}
	keys := slices.Sorted(maps.Keys(byKey))
	sum := sha256.New()
	addText(sum, keys...)
	key := hex.EncodeToString(sum.Sum(nil))
	p := s.packs[key]
	if p != nil && !p.stale {
		return p
	}
	if p == nil {
		p = &pack{key: key}
		s.packs[key] = p
		out := &wirepb.PolicySection{}
		for _, k := range keys {
			out.Rulesets = append(out.Rulesets, byKey[k].wire)
		}
		p.policy = &wirepb.Section_Policy{Policy: out}
		if p.asks = s.callers.asksOf(byKey); p.asks != nil {
			for _, text := range p.asks.texts {
				if s.packsOf[text] == nil {
					s.packsOf[text] = map[*pack]bool{}
				}
				s.packsOf[text][p] = true
			}
		}
	}
	s.fill(p, byKey)
	return p
}

// fill looks up whom the selectors of a pack match, and where they are.
func (s *segments) fill(p *pack, rulesets map[string]*ruleset) {
	lists := map[string]*memberList{}
	p.everybody, p.stale, p.selectors, p.addresses, p.wire = false, false, nil, nil, nil
	for _, r := range rulesets {
		p.everybody = p.everybody || r.everybody
		for i, text := range r.texts {
			if lists[text] == nil {
				lists[text] = s.list(text, r.selectors[i])
			}
		}
	}
	sum := sha256.New()
	p.wanted = roaring.New()
	for _, text := range slices.Sorted(maps.Keys(lists)) {
		l := lists[text]
		p.selectors = append(p.selectors, l.wire)
		sum.Write(l.digest[:])
		if !p.everybody {
			p.wanted.AddMany(l.wire.Identities)
		}
	}
	for it := p.wanted.Iterator(); it.HasNext(); {
		if x := s.byID[policy.Identity(it.Next())]; x != nil {
			p.addresses = append(p.addresses, x.addresses...)
		}
	}
	slices.SortFunc(p.addresses, byLocated)
	text := []byte{3}
	for _, a := range p.addresses {
		text = appendLocated(text, a.located)
		p.wire = append(p.wire, a.wire)
	}
	sum.Write(text)
	sum.Sum(p.digest[:0])
}

// write makes the policy section of a host, and what its identity section is made
// of.
func (s *segments) write(h *hostPart) {
	used := map[*ruleset]bool{}
	h.subjects = nil
	var text []byte
	for _, m := range h.members {
		if !m.who.subject() {
			continue
		}
		g := m.who.group
		used[g.enforced], used[g.staged] = true, true
		out := &wirepb.PolicySubject{Workload: m.id, Identity: uint32(m.who.id), Ruleset: g.enforced.wire.Key}
		if g.staged.wire.Key != out.Ruleset {
			out.Staged = g.staged.wire.Key
		}
		h.subjects = append(h.subjects, out)
		for _, t := range []string{out.Workload, out.Ruleset, out.Staged} {
			text = append(binary.BigEndian.AppendUint32(text, uint32(len(t))), t...)
		}
		text = binary.BigEndian.AppendUint32(text, out.Identity)
	}
	h.digest = sha256.Sum256(text)
	p := s.packOf(used)
	if p.hosts++; h.pack != nil {
		s.unpack(h)
	}
	if h.pack = p; p.everybody {
		s.everybody[h] = true
	} else {
		delete(s.everybody, h)
	}
	s.put(h.name, SectionPolicy, &wirepb.Section{Name: SectionPolicy, Digest: p.key, Body: p.policy})
	s.callers.ask(h, p.asks)
	s.reread[h] = true
}

// unpack lets go of a host's pack.
func (s *segments) unpack(h *hostPart) {
	if h.pack == nil {
		return
	}
	if h.pack.hosts--; h.pack.hosts == 0 {
		delete(s.packs, h.pack.key)
		if h.pack.asks != nil {
			for _, text := range h.pack.asks.texts {
				if delete(s.packsOf[text], h.pack); len(s.packsOf[text]) == 0 {
					delete(s.packsOf, text)
				}
			}
		}
	}
	h.pack = nil
}

// identitySection makes one of what is written of a host and of addresses: all
// where rules ask about everybody, else those that selectors can find.
func (s *segments) identitySection(h *hostPart) *wirepb.Section {
	out := &wirepb.IdentitySection{Subjects: h.subjects, Selectors: h.pack.selectors}
	sum := sha256.New()
	sum.Write(h.digest[:])
	sum.Write(h.pack.digest[:])
	if len(out.Subjects) > 0 {
		add, hidden := s.view(h)
		list := h.pack.addresses
		if out.Addresses = h.pack.wire; h.pack.everybody {
			s.whole()
			list, out.Addresses = s.book.list, s.book.wire
			sum.Write(s.book.digest[:])
		} else {
			other := func(l located) bool { return !h.pack.wanted.Contains(uint32(l.id)) }
			add, hidden = slices.DeleteFunc(add, other), slices.DeleteFunc(hidden, other)
		}
		if len(add)+len(hidden) > 0 {
			out.Addresses = merge(list, add, hidden)
		}
		var text []byte
		for _, l := range add {
			text = appendLocated(text, l)
		}
		text = append(text, 2)
		for _, l := range hidden {
			text = appendLocated(text, l)
		}
		sum.Write(text)
	}
	s.writeCallers(h, out, sum)
	return &wirepb.Section{Name: SectionIdentity, Digest: hex.EncodeToString(sum.Sum(nil)), Body: &wirepb.Section_Identity{Identity: out}}
}

// merge is a list of addresses as one host sees it.
func merge(list []*address, add, hidden []located) []*wirepb.AddressIdentity {
	out := make([]*wirepb.AddressIdentity, 0, len(list)+len(add))
	for _, a := range list {
		for len(add) > 0 && byAddress(add[0], a.located) < 0 {
			out, add = append(out, newAddress(add[0]).wire), add[1:]
		}
		if len(hidden) > 0 && hidden[0] == a.located {
			hidden = hidden[1:]
			continue
		}
		out = append(out, a.wire)
	}
	for _, l := range add {
		out = append(out, newAddress(l).wire)
	}
	return out
}

func addText(sum hash.Hash, texts ...string) {
	for _, t := range texts {
		sum.Write(binary.BigEndian.AppendUint32(nil, uint32(len(t))))
		sum.Write([]byte(t))
	}
}
