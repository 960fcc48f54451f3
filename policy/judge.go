package policy

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"sort"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/gaissmai/bart"

	"weft/model"
)

// row has one bit for each rule of a table.
type row []uint64

func (r row) set(i int) { r[i/64] |= 1 << (i % 64) }

// judge is a table turned into bit vectors: for every value of a dimension the
// rules that accept it. The rules that match are the rows of the packet's values
// taken together.
type judge struct {
	rules    []*Rule
	defaults []Default
	mode     model.Mode
	nextTier []int  // the first rule of the next tier
	inexact  []bool // the rule has processes or names: rows only preselect it

	anyPeer, named row // rules without peers; rules with names
	entities       []row
	identities     map[Identity]row
	members        map[*model.Selector]*roaring.Bitmap
	blocks         bart.Table[[2]row] // world, managed
	anyPort        row
	ports          map[uint8]*portRows
}

// portRows cuts 0 to 65535 into intervals; bounds are their first values.
type portRows struct {
	bounds []uint32
	rows   []row
}

func newJudge(t *Table, mode model.Mode, ids *Identities) *judge {
	n := len(t.Rules)
	words := (n + 63) / 64
	j := &judge{rules: t.Rules, defaults: t.Defaults, mode: mode, nextTier: make([]int, n), inexact: make([]bool, n),
		anyPeer: make(row, words), named: make(row, words), entities: make([]row, len(model.Entities)), identities: map[Identity]row{},
		members: map[*model.Selector]*roaring.Bitmap{}, anyPort: make(row, words), ports: map[uint8]*portRows{}}
	for i := range j.entities {
		j.entities[i] = make(row, words)
	}
	bySelector := map[string]row{}
	for i := n - 1; i >= 0; i-- {
		j.nextTier[i] = i + 1
		if i+1 < n && t.Rules[i+1].Tier == t.Rules[i].Tier {
			j.nextTier[i] = j.nextTier[i+1]
		}
	}
	for i, r := range t.Rules {
		j.addPeers(i, r, ids, bySelector, words)
		if len(r.Ports) == 0 {
			j.anyPort.set(i)
		}
	}
	j.addIdentities(t, ids, bySelector, words)
	for _, e := range t.Blocks() {
		rows := [2]row{make(row, words), make(row, words)}
		for k, list := range [][]int{e.World, e.Managed} {
			for _, i := range list {
				rows[k].set(i)
			}
		}
		j.blocks.Insert(e.Prefix, rows)
	}
	j.addPorts()
	return j
}

func (j *judge) addPeers(i int, r *Rule, ids *Identities, bySelector map[string]row, words int) {
	j.inexact[i] = len(r.Processes) > 0
	if len(r.Peers) == 0 {
		j.anyPeer.set(i)
	}
	for _, p := range r.Peers {
		j.inexact[i] = j.inexact[i] || len(p.Processes)+len(p.Names) > 0
		if p.Selector != nil {
			text := p.Selector.String()
			if bySelector[text] == nil {
				bySelector[text] = make(row, words)
			}
			bySelector[text].set(i)
			j.members[p.Selector] = ids.Members(*p.Selector)
		}
		for k := range j.entities {
			if p.Entities&(1<<k) != 0 {
				j.entities[k].set(i)
			}
		}
		if len(p.Names) > 0 {
			j.named.set(i)
		}
	}
}

// addIdentities gives each identity the rules whose selectors it matches;
// identities that match the same selectors share a row.
func (j *judge) addIdentities(t *Table, ids *Identities, bySelector map[string]row, words int) {
	matched := map[Identity][]byte{}
	selectors := t.Selectors()
	for k, s := range selectors {
		for it := ids.Members(s).Iterator(); it.HasNext(); {
			id := Identity(it.Next())
			matched[id] = binary.BigEndian.AppendUint32(matched[id], uint32(k))
		}
	}
	shared := map[string]row{}
	for id, m := range matched {
		if shared[string(m)] == nil {
			sum := make(row, words)
			for rest := m; len(rest) > 0; rest = rest[4:] {
				for w, v := range bySelector[selectors[binary.BigEndian.Uint32(rest)].String()] {
					sum[w] |= v
				}
			}
			shared[string(m)] = sum
		}
		j.identities[id] = shared[string(m)]
	}
}

func (j *judge) addPorts() {
	for _, r := range j.rules {
		for _, p := range r.Ports {
			pr := j.ports[p.Protocol]
			if pr == nil {
				pr = &portRows{bounds: []uint32{0}}
				j.ports[p.Protocol] = pr
			}
			pr.bounds = append(pr.bounds, uint32(p.First), uint32(p.Last)+1)
		}
	}
	for _, pr := range j.ports {
		slices.Sort(pr.bounds)
		pr.bounds = slices.Compact(pr.bounds)
		pr.rows = make([]row, len(pr.bounds))
		for i := range pr.rows {
			pr.rows[i] = slices.Clone(j.anyPort)
		}
	}
	for i, r := range j.rules {
		for _, p := range r.Ports {
			pr := j.ports[p.Protocol]
			for k := sort.Search(len(pr.bounds), func(k int) bool { return pr.bounds[k] >= uint32(p.First) }); k < len(pr.bounds) && pr.bounds[k] <= uint32(p.Last); k++ {
				pr.rows[k].set(i)
			}
		}
	}
}

func (pr *portRows) row(key uint16) row {
	lo, hi := 0, len(pr.bounds)
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; pr.bounds[mid] <= uint32(key) {
			lo = mid
		} else {
			hi = mid
		}
	}
	return pr.rows[lo]
}

// next returns the first rule from i on that accepts the protocol, the port and,
// as far as rows can tell, the peer; the number of rules where there is none.
func (j *judge) next(i int, protocol uint8, key uint16, peer *End) int {
	n := len(j.rules)
	if i >= n {
		return n
	}
	port := j.anyPort
	if pr := j.ports[protocol]; pr != nil {
		port = pr.row(key)
	}
	var rows [4 + 16]row // any, named, identity, block and one for each entity
	have := 1
	rows[0] = j.anyPeer
	if len(peer.Names) > 0 {
		rows[have] = j.named
		have++
	}
	if r := j.identities[peer.Identity]; r != nil {
		rows[have] = r
		have++
	}
	if j.blocks.Size() > 0 && peer.Addr.IsValid() {
		if found, ok := j.blocks.Lookup(peer.Addr.Unmap()); ok {
			rows[have] = found[0]
			if peer.Identity != 0 {
				rows[have] = found[1]
			}
			have++
		}
	}
	for set := peer.entities() & (1<<len(model.Entities) - 1); set != 0; set &= set - 1 {
		rows[have] = j.entities[bits.TrailingZeros16(uint16(set))]
		have++
	}
	mask := ^uint64(0) << (i % 64)
	for w := i / 64; w < len(port); w++ {
		if mask &= port[w]; mask != 0 {
			var sum uint64
			for _, r := range rows[:have] {
				sum |= r[w]
			}
			if sum &= mask; sum != 0 {
				return w*64 + bits.TrailingZeros64(sum)
			}
		}
		mask = ^uint64(0)
	}
	return n
}
