package nft

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"

	"weft/agent/datapath"
	"weft/policy"
	"weft/policy/classify"
)

// member is a subject in a namespace.
type member struct {
	subject *datapath.Subject
	cgroup  uint64 // id, 0 where it has none
	level   int    // of the cgroup in its tree; the root's is 0
}

// plan turns the state into the content of one namespace's sets. It remembers
// the numbers it gave, and nothing else that decides.
type plan struct {
	verdicts, classes, views, peers *numbers

	outcomes map[uint32]outcome // by number
	current  map[string]view    // by place
	peerOf   map[place]uint32
	resolved map[*classify.Table]map[[5]*classify.Class]uint32
	spans    map[uint32][]value32 // of each class
}

// view is the peers' classes as one ruleset, and perhaps one subject, sees them.
type view struct {
	number  uint32
	classes map[uint32]uint32 // by peer
}

// value32 is a span's first value and its verdict's number.
type value32 struct{ first, verdict uint32 }

// place is all of an address that a class depends on.
type place struct {
	identity policy.Identity
	entities policy.EntitySet
	block    netip.Prefix // the longest that a rule of the namespace names
	owners   string       // the workloads at it that ask where they are themselves
	family   bool
}

func newPlan() *plan {
	return &plan{verdicts: newNumbers(), classes: newNumbers(), views: newNumbers(), peers: newNumbers(), outcomes: map[uint32]outcome{},
		current: map[string]view{}, peerOf: map[place]uint32{}, resolved: map[*classify.Table]map[[5]*classify.Class]uint32{}, spans: map[uint32][]value32{}}
}

// make returns the content for the members; base is the one that has what no
// cgroup gives to another, nil for none.
func (p *plan) make(members []member, base *member, addresses *addresses, epoch uint32) content {
	c := newContent()
	askers := map[string]asker{}
	bind := func(m *member, put func(role uint32, asker string)) {
		for _, d := range roles {
			a := asker{name: d.String() + " " + m.subject.Ruleset.Key, role: d, table: m.subject.Ruleset.Table(d)}
			if a.table.EntityMask&selfBit != 0 {
				a.owner = m.subject.Workload
				a.name += " " + a.owner
			}
			askers[a.name] = a
			put(uint32(d), a.name)
		}
	}
	names := map[string]map[string]string{setViews: {}, setCgroups: {}, setLabels: {}}
	for i := range members {
		m := &members[i]
		if m.cgroup == 0 {
			continue
		}
		bind(m, func(role uint32, asker string) {
			names[setCgroups][cgroupKey(role, m.cgroup)] = asker
			names[setLabels][labelKey(role, m.cgroup, epoch)] = asker
		})
	}
	if base != nil {
		bind(base, func(role uint32, asker string) { names[setViews][viewKey(role)] = asker })
	}
	p.peersAndClasses(c, askers, members, base, addresses)
	for set, keys := range names {
		for k, asker := range keys {
			c[set][k] = value{data: p.current[asker].number}
		}
	}
	return c
}

// peersAndClasses fills the sets of peers, classes and ports.
func (p *plan) peersAndClasses(c content, askers map[string]asker, members []member, base *member, addresses *addresses) {
	order := slices.Sorted(maps.Keys(askers))
	var blocks bart.Table[netip.Prefix]
	owners := map[netip.Addr]string{}
	live := map[*classify.Table]bool{}
	for _, name := range order {
		a := askers[name]
		live[a.table] = true
		for p := range a.table.Blocks() {
			blocks.Insert(p, p)
		}
	}
	for i := range members {
		p.own(owners, members[i].subject, members[i].subject.Addresses, order, askers)
	}
	if base != nil {
		p.own(owners, base.subject, slices.Concat(base.subject.Addresses, loopbackAddresses), order, askers)
	}
	for t := range p.resolved {
		if !live[t] {
			delete(p.resolved, t)
		}
	}
	ranges := addresses.cut(&blocks, owners)
	example := map[place]netip.Addr{}
	for _, r := range ranges {
		if _, ok := example[r.place]; !ok {
			example[r.place] = r.first
		}
	}
	// Places on which all askers say the same are one peer.
	groups := map[string][]place{}
	tuples := map[string][]uint32{}
	for pl, addr := range example {
		tuple := make([]uint32, len(order))
		var key []byte
		for i, name := range order {
			tuple[i] = p.class(askers[name], pl, addr)
			key = binary.BigEndian.AppendUint32(key, tuple[i])
		}
		groups[string(key)] = append(groups[string(key)], pl)
		tuples[string(key)] = tuple
	}
	numbers := p.numberPeers(groups)
	p.peerOf = map[place]uint32{}
	usedClasses := map[uint32]bool{}
	byView := make([]map[uint32]uint32, len(order))
	for i := range byView {
		byView[i] = map[uint32]uint32{}
	}
	for key, list := range groups {
		for _, pl := range list {
			p.peerOf[pl] = numbers[key]
		}
		for i, class := range tuples[key] {
			byView[i][numbers[key]] = class
			usedClasses[class] = true
		}
	}
	p.fill(c, order, byView, usedClasses, ranges)
}

// fill writes the sets, and forgets what is in none of them.
func (p *plan) fill(c content, order []string, byView []map[uint32]uint32, usedClasses map[uint32]bool, ranges []addressRange) {
	current := map[string]view{}
	for i, name := range order {
		v, ok := p.current[name]
		if !ok || !extends(v.classes, byView[i]) {
			v.number = p.views.fresh()
		}
		v.classes = byView[i]
		current[name] = v
		for peer, class := range v.classes {
			c[setClasses][be32(v.number, peer)] = value{data: class}
		}
	}
	p.current = current
	usedVerdicts := map[uint32]bool{}
	for class := range usedClasses {
		spans := p.spans[class]
		for i, s := range spans {
			end := uint32(classify.EverySpan + 1)
			if i+1 < len(spans) {
				end = spans[i+1].first
			}
			c[setPorts][portKey(class, s.first)] = value{end: portKey(class, end), data: s.verdict}
			usedVerdicts[s.verdict] = true
		}
	}
	for i := 0; i < len(ranges); {
		j := i + 1
		for j < len(ranges) && p.peerOf[ranges[j].place] == p.peerOf[ranges[i].place] && ranges[j].first.Is4() == ranges[i].first.Is4() {
			j++
		}
		c[setPeers][addrKey(ranges[i].first)] = value{end: afterAddr(ranges[j-1].last), data: p.peerOf[ranges[i].place]}
		i = j
	}
	p.classes.keep(usedClasses)
	p.verdicts.keep(usedVerdicts)
	for n := range p.spans {
		if !usedClasses[n] {
			delete(p.spans, n)
		}
	}
	for n := range p.outcomes {
		if !usedVerdicts[n] {
			delete(p.outcomes, n)
		}
	}
	for _, m := range p.resolved {
		for k, n := range m {
			if !usedClasses[n] {
				delete(m, k)
			}
		}
	}
}

// extends says whether no peer of both has another class in the second.
func extends(old, now map[uint32]uint32) bool {
	for peer, class := range old {
		if other, ok := now[peer]; ok && other != class {
			return false
		}
	}
	return true
}

// numberPeers lets a group keep a number that one of its places had.
func (p *plan) numberPeers(groups map[string][]place) map[string]uint32 {
	out := map[string]uint32{}
	taken := map[uint32]bool{}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		best := uint32(0)
		for _, pl := range groups[key] {
			if n := p.peerOf[pl]; n != 0 && !taken[n] && (best == 0 || n < best) {
				best = n
			}
		}
		if best == 0 {
			best = p.peers.fresh()
		}
		taken[best] = true
		out[key] = best
	}
	return out
}

// class returns the number of the class a place has for an asker.
func (p *plan) class(a asker, pl place, addr netip.Addr) uint32 {
	end := policy.End{Addr: addr, Identity: pl.identity, Entities: pl.entities}
	if a.owner != "" && strings.Contains(pl.owners, ownerMark(a.owner)) {
		end.Entities |= selfBit
	}
	classes := a.table.ClassesOf(&end)
	known := p.resolved[a.table]
	if known == nil {
		known = map[[5]*classify.Class]uint32{}
		p.resolved[a.table] = known
	}
	if n, ok := known[classes]; ok {
		return n
	}
	// The classes of a table are the same whichever direction it is read for,
	// but a table has one direction.
	spans := a.table.Resolve(classes)
	list := make([]value32, len(spans))
	digest := sha256.New()
	for i, s := range spans {
		o := outcomeOf(a.role, s.Verdict)
		n := p.verdicts.of(o.key())
		p.outcomes[n] = o
		list[i] = value32{s.First, n}
		digest.Write([]byte(be32(s.First, n)))
	}
	n := p.classes.of(string(digest.Sum(nil)))
	p.spans[n] = list
	known[classes] = n
	return n
}
