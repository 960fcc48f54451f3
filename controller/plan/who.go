package plan

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"weft/model"
	"weft/policy"
	"weft/wire/policywire"
	"weft/wire/wirepb"
)

// who is an identity, and all that depends on it.
type who struct {
	id     policy.Identity
	text   string
	labels map[string]string
	mode   model.Mode
	moded  bool
	// entries are the subject selectors it matches, by number.
	entries []*entry
	group   *rulegroup
	count   int // workloads
	where   hostCounts
	// addresses are those of the fleet's book that are its alone.
	addresses []*address
}

// subject says whether its packets are looked at.
func (w *who) subject() bool { return w.moded || w.group.people }

// address is one of the fleet's book, written for the wire once for all hosts.
type address struct {
	located
	wire *wirepb.AddressIdentity
}

func newAddress(l located) *address {
	return &address{l, &wirepb.AddressIdentity{Address: policywire.EncodeAddress(l.addr), Identity: uint32(l.id)}}
}

// member is a workload with its identity, and the addresses it claims.
type member struct {
	*model.Workload
	who        *who
	id         string // on its host
	fleet, own []netip.Addr
}

// modeGroup is a group with a mode.
type modeGroup struct {
	mode model.Mode
	spec model.GroupSpec
}

// modesOf lists the groups that have a mode and hold together.
func modesOf(r *Resolver, groups []*model.Group) []modeGroup {
	var out []modeGroup
	for _, g := range groups {
		if g.Spec.Mode == "" {
			continue
		}
		if _, err := r.Members(g.Spec); err != nil {
			continue // said of the group
		}
		out = append(out, modeGroup{g.Spec.Mode, g.Spec})
	}
	return out
}

// project returns the identity labels among all labels of a workload, and their
// canonical text.
func (s *segments) project(labels map[string]string) (map[string]string, string) {
	set := make(map[string]string, len(s.keyList))
	var text []byte
	for _, k := range s.keyList {
		if v, has := labels[k]; has {
			set[k] = v
			text = append(append(append(append(text, k...), 0), v...), '\n')
		}
	}
	return set, string(text)
}

// meet finds the identity of every workload that has come. New ones are numbered
// in the order of their texts.
func (s *segments) meet(come []*model.Workload) ([]*who, error) {
	out, fresh := make([]*who, len(come)), map[string]*who{}
	for i, w := range come {
		set, text := s.project(w.Metadata.Labels)
		x := s.byText[text]
		if x == nil {
			x = fresh[text]
		}
		if x == nil {
			x = &who{text: text, labels: set}
			fresh[text] = x
		}
		out[i] = x
	}
	for _, text := range slices.Sorted(maps.Keys(fresh)) {
		x := fresh[text]
		if s.number == nil {
			s.last++
			x.id = s.last
		} else {
			var err error
			if x.id, err = s.number(x.labels); err != nil {
				return nil, err
			}
		}
		for _, g := range s.modes {
			if s.resolver.holds(g.spec, x.labels) {
				x.mode, x.moded = x.mode.Stricter(g.mode), true
			}
		}
		s.byText[text], s.byID[x.id] = x, x
		s.labels.set(x.id, x.labels)
		for _, sel := range s.ids.Adopt(x.id, x.labels) {
			if e := s.entries[sel]; e != nil {
				x.entries = append(x.entries, e)
			}
			s.regrouped[sel] = true
		}
		slices.SortFunc(x.entries, func(a, b *entry) int { return cmp.Compare(a.number, b.number) })
		s.rekey[x] = true
	}
	return out, nil
}

// lose forgets an identity that nobody has any more.
func (s *segments) lose(x *who) {
	for _, sel := range s.ids.Remove(x.id) {
		s.regrouped[sel] = true
	}
	delete(s.byText, x.text)
	delete(s.byID, x.id)
	delete(s.rekey, x)
	s.labels.delete(x.id)
	if x.group != nil {
		x.group.drop(s, x)
	}
}
