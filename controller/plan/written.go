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

// written is what a host's identity section says besides addresses.
type written struct {
	subjects  []*wirepb.PolicySubject
	selectors []*wirepb.SelectorMembers
	digest    [32]byte
}

// A section's digest names its content: it is made of digests of parts, which
// many hosts share, and not of the whole as encoded, which may be megabytes that
// nobody asks for.

// writePolicy makes both sections of a host.
func (s *segments) write(h *hostPart) {
	keys, lists := map[string]*wirepb.Ruleset{}, map[string]*memberList{}
	h.written = written{}
	everybody := false
	use := func(r *ruleset) string {
		if _, done := keys[r.wire.Key]; done {
			return r.wire.Key
		}
		keys[r.wire.Key] = r.wire
		everybody = everybody || r.everybody
		for i, text := range r.texts {
			if lists[text] == nil {
				lists[text] = s.list(text, r.selectors[i])
			}
		}
		return r.wire.Key
	}
	sum := sha256.New()
	for _, m := range h.members {
		if !m.who.subject() {
			continue
		}
		out := &wirepb.PolicySubject{Workload: m.id, Identity: uint32(m.who.id), Ruleset: use(m.who.group.enforced)}
		if key := use(m.who.group.staged); key != out.Ruleset {
			out.Staged = key
		}
		h.written.subjects = append(h.written.subjects, out)
		addText(sum, out.Workload, out.Ruleset, out.Staged)
		addNumber(sum, out.Identity)
	}
	sum.Write([]byte{1})
	wanted := roaring.New()
	for _, text := range slices.Sorted(maps.Keys(lists)) {
		l := lists[text]
		h.written.selectors = append(h.written.selectors, l.wire)
		sum.Write(l.digest[:])
		if !everybody {
			wanted.AddMany(l.wire.Identities)
		}
	}
	sum.Sum(h.written.digest[:0])
	if h.everybody = everybody; everybody {
		s.everybody[h] = true
	} else {
		delete(s.everybody, h)
	}
	s.put(h.name, SectionPolicy, s.policySection(keys))
	s.put(h.name, SectionIdentity, s.identitySection(h, wanted))
}

// policySection makes one, or finds one that another host has.
func (s *segments) policySection(rulesets map[string]*wirepb.Ruleset) *wirepb.Section {
	keys := slices.Sorted(maps.Keys(rulesets))
	sum := sha256.New()
	for _, k := range keys {
		addText(sum, k)
	}
	digest := hex.EncodeToString(sum.Sum(nil))
	body := s.bodies[digest]
	if body == nil {
		out := &wirepb.PolicySection{}
		for _, k := range keys {
			out.Rulesets = append(out.Rulesets, rulesets[k])
		}
		body = &wirepb.Section_Policy{Policy: out}
		s.bodies[digest] = body
	}
	return &wirepb.Section{Name: SectionPolicy, Digest: digest, Body: body}
}

// identitySection makes one of what is written and of addresses: all where rules
// ask about everybody, else those of the identities wanted.
func (s *segments) identitySection(h *hostPart, wanted *roaring.Bitmap) *wirepb.Section {
	out := &wirepb.IdentitySection{Subjects: h.written.subjects, Selectors: h.written.selectors}
	sum := sha256.New()
	sum.Write(h.written.digest[:])
	if len(out.Subjects) > 0 {
		add, hidden := s.view(h)
		if h.everybody {
			s.whole()
			out.Addresses = s.book.wire
			if len(add)+len(hidden) > 0 {
				out.Addresses = s.book.merge(add, hidden)
			}
			sum.Write(s.book.digest[:])
			var text []byte
			for _, l := range add {
				text = appendLocated(text, l)
			}
			text = append(text, 2)
			for _, l := range hidden {
				text = appendLocated(text, l)
			}
			sum.Write(text)
		} else {
			list := s.wanted(wanted, add, hidden)
			var text []byte
			for _, a := range list {
				text = appendLocated(text, a.located)
				out.Addresses = append(out.Addresses, a.wire)
			}
			sum.Write([]byte{3})
			sum.Write(text)
		}
	}
	return &wirepb.Section{Name: SectionIdentity, Digest: hex.EncodeToString(sum.Sum(nil)), Body: &wirepb.Section_Identity{Identity: out}}
}

// wanted lists the addresses of identities, ascending.
func (s *segments) wanted(ids *roaring.Bitmap, add, hidden []located) []*address {
	var out []*address
	for it := ids.Iterator(); it.HasNext(); {
		if x := s.byID[policy.Identity(it.Next())]; x != nil {
			out = append(out, x.addresses...)
		}
	}
	for _, l := range add {
		if ids.Contains(uint32(l.id)) {
			out = append(out, newAddress(l))
		}
	}
	if len(hidden) > 0 {
		out = slices.DeleteFunc(out, func(a *address) bool { return slices.Contains(hidden, a.located) })
	}
	slices.SortFunc(out, byLocated)
	return out
}

// merge is the whole book as one host sees it.
func (b *book) merge(add, hidden []located) []*wirepb.AddressIdentity {
	out := make([]*wirepb.AddressIdentity, 0, len(b.list)+len(add))
	for _, a := range b.list {
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
		addNumber(sum, uint32(len(t)))
		sum.Write([]byte(t))
	}
}

func addNumber(sum hash.Hash, n uint32) {
	sum.Write(binary.BigEndian.AppendUint32(nil, n))
}
