package classify

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"

	"weft/model"
	"weft/policy"
)

// Member is an identity that a selector names.
type Member struct {
	Identity policy.Identity
	group    *group
}

// Class is that of all that the identity matches.
func (m Member) Class() *Class { return m.group.class }

// group is what identities share that the same selectors match.
type group struct {
	selectors []*selector // by text
	class     *Class
}

// selector is one that rules name, with those rules.
type selector struct {
	model.Selector
	text    string
	members *roaring.Bitmap
	steps   []Step
}

func findMember(list []Member, id policy.Identity) (int, bool) {
	return slices.BinarySearchFunc(list, id, func(m Member, id policy.Identity) int { return cmp.Compare(m.Identity, id) })
}

// identities gives each identity that a selector matches the class of all it
// matches, and says whether any has another one than before. Only those are looked
// at that a selector matches, or has matched, which is not as before.
func (u *update) identities(members Members) (changed bool) {
	t, old := u.table, u.old
	others := u.otherSelectors(members)
	_, fleet := u.lists[place{kind: fleetPeer}]
	t.selectors, t.Identities, t.longestOfIdentities = old.selectors, old.Identities, old.longestOfIdentities
	if len(others) == 0 && !fleet {
		return t.Lacks != old.Lacks
	}
	t.selectors = maps.Clone(old.selectors)
	if t.selectors == nil {
		t.selectors = map[string]*selector{}
	}
	of := map[policy.Identity][]*selector{} // that match it now
	for text := range others {
		if s := old.selectors[text]; s != nil {
			for it := s.members.Iterator(); it.HasNext(); {
				of[policy.Identity(it.Next())] = nil
			}
		}
	}
	for _, text := range slices.Sorted(maps.Keys(others)) {
		s := others[text]
		if s == nil {
			delete(t.selectors, text)
			continue
		}
		t.selectors[text] = s
		for it := s.members.Iterator(); it.HasNext(); {
			id := policy.Identity(it.Next())
			of[id] = append(of[id], s)
		}
	}
	groups := u.newGroups()
	list := make([]Member, 0, len(old.Identities)+len(of))
	for _, m := range old.Identities { // those that no other selector matches
		now, ok := of[m.Identity]
		for _, s := range m.group.selectors {
			if _, other := others[s.text]; ok && !other {
				now = append(now, s)
			}
		}
		switch {
		case ok:
			of[m.Identity] = now
		case fleet:
			list = append(list, Member{m.Identity, groups.of(m.group.selectors)})
		default:
			list = append(list, m)
		}
	}
	for id, selectors := range of {
		if len(selectors) > 0 {
			slices.SortFunc(selectors, func(a, b *selector) int { return cmp.Compare(a.text, b.text) })
			list = append(list, Member{id, groups.of(selectors)})
		}
	}
	slices.SortFunc(list, func(a, b Member) int { return cmp.Compare(a.Identity, b.Identity) })
	t.Identities, t.longestOfIdentities = list, 0
	for _, m := range list {
		t.longestOfIdentities = max(t.longestOfIdentities, m.group.class.longestChain())
	}
	return true
}

// otherSelectors are those whose rules or members are not as before, nil for one
// that no rule names any more.
func (u *update) otherSelectors(members Members) map[string]*selector {
	out := map[string]*selector{}
	known := func(s model.Selector) *roaring.Bitmap {
		if b := members(s); b != nil {
			return b
		}
		u.table.Lacks = s.String()
		return roaring.New()
	}
	for text, s := range u.old.selectors {
		added, edited := u.lists[place{kind: selectedPeer, selector: text}]
		steps := s.steps
		if edited {
			if steps = u.edit(steps, added); len(steps) == 0 {
				out[text] = nil
				continue
			}
		}
		if b := known(s.Selector); edited || b != s.members && !b.Equals(s.members) {
			out[text] = &selector{s.Selector, text, b, steps}
		}
	}
	for p, added := range u.lists {
		if p.kind == selectedPeer && u.old.selectors[p.selector] == nil && len(added) > 0 {
			s := u.selected[p.selector]
			out[p.selector] = &selector{s, p.selector, known(s), added}
		}
	}
	return out
}

// groups makes one group of the same selectors.
type groups struct {
	update  *update
	numbers map[*selector]uint32
	known   map[string]*group
}

func (u *update) newGroups() *groups {
	return &groups{u, map[*selector]uint32{}, map[string]*group{}}
}

func (g *groups) of(selectors []*selector) *group {
	key := make([]byte, 0, 64)
	for _, s := range selectors {
		n, ok := g.numbers[s]
		if !ok {
			n = uint32(len(g.numbers))
			g.numbers[s] = n
		}
		key = binary.BigEndian.AppendUint32(key, n)
	}
	if known := g.known[string(key)]; known != nil {
		return known
	}
	steps := slices.Clone(g.update.table.lists[place{kind: fleetPeer}])
	for _, s := range selectors {
		steps = append(steps, s.steps...)
	}
	out := &group{slices.Clone(selectors), g.update.class(steps)}
	g.known[string(key)] = out
	return out
}
