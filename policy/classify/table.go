package classify

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/gaissmai/bart"

	"weft/model"
	"weft/policy"
)

// Table is one direction of a ruleset, ready for lookup. Read only.
type Table struct {
	Rules    []*policy.Rule
	Defaults []policy.Default
	Chains   []Chain
	// Classes holds every class; the first is empty and matches nothing.
	Classes []Class
	// Any is the class of every peer.
	Any int
	// World is that of peers of no workload; Fleet is that of workloads whose
	// identity is not in Identities.
	World, Fleet int
	// Identities are the classes of identities that a selector names.
	Identities map[policy.Identity]int
	// Blocks are one longest-prefix table; sorted, a prefix before those in it.
	Blocks []Block
	lpm    *bart.Table[int] // places in Blocks
	// Entities are the classes of every set of the special entities that the
	// rules name; EntityMask holds those.
	Entities   map[policy.EntitySet]int
	EntityMask policy.EntitySet
	// Names are the peers by name; ForNames makes tables of them.
	Names []Names
}

// Block is a range of addresses, with its class for peers of no workload and
// for workloads.
type Block struct {
	Prefix         netip.Prefix
	World, Managed int
}

// Names is a peer known by the names its address was looked up by.
type Names struct {
	Patterns []string
	step     Step
}

// Members returns the identities that a selector matches; it must know every
// selector of the ruleset.
type Members func(model.Selector) *roaring.Bitmap

type builder struct {
	table     *Table
	classes   map[string]int // by the steps they are made of
	byEntries map[string]int
	chains    map[string]int
	portKeys  map[int][]PortKey
	passes    map[model.Tier]bool // tiers with a Pass rule
}

func newBuilder(rules []*policy.Rule, defaults []policy.Default) *builder {
	b := &builder{classes: map[string]int{}, byEntries: map[string]int{"": 0}, chains: map[string]int{}, portKeys: map[int][]PortKey{}, passes: map[model.Tier]bool{},
		table: &Table{lpm: &bart.Table[int]{}, Rules: rules, Defaults: defaults, Classes: []Class{nil}, Identities: map[policy.Identity]int{}, Entities: map[policy.EntitySet]int{}}}
	for _, r := range rules {
		if r.Action == model.ActionPass {
			b.passes[r.Tier] = true
		}
	}
	return b
}

// Build makes the table of one direction.
func Build(t *policy.Table, members Members) *Table {
	b := newBuilder(t.Rules, t.Defaults)
	out := b.table
	var anyPeer, world, fleet []Step
	entities := map[policy.EntitySet][]Step{}
	bySelector := map[string][]Step{}
	for rank, r := range t.Rules {
		if len(r.Peers) == 0 {
			anyPeer = append(anyPeer, Step{Rank: rank, Rule: r})
		}
		for i := range r.Peers {
			p := &r.Peers[i]
			step := Step{Rank: rank, Rule: r, Peer: p.Processes}
			switch {
			case p.Selector != nil:
				text := p.Selector.String()
				bySelector[text] = append(bySelector[text], step)
			case len(p.Names) > 0:
				out.Names = append(out.Names, Names{Patterns: p.Names, step: step})
			}
			for n, e := range model.Entities {
				bit := policy.EntitySet(1 << n)
				switch {
				case p.Entities&bit == 0:
				case e == model.EntityAny:
					anyPeer = append(anyPeer, step)
				case e == model.EntityWorld:
					world = append(world, step)
				case e == model.EntityFleet:
					fleet = append(fleet, step)
				default:
					entities[bit] = append(entities[bit], step)
					out.EntityMask |= bit
				}
			}
		}
	}
	out.Any, out.World, out.Fleet = b.class(anyPeer), b.class(world), b.class(fleet)
	b.identities(t, members, bySelector, fleet)
	b.blocks(t)
	for set := out.EntityMask; set != 0; set = (set - 1) & out.EntityMask { // every subset but the empty one
		var steps []Step
		for bit, list := range entities {
			if set&bit != 0 {
				steps = append(steps, list...)
			}
		}
		out.Entities[set] = b.class(steps)
	}
	return out
}

// identities gives each identity that a selector matches the class of all it
// matches; those that match the same selectors share it.
func (b *builder) identities(t *policy.Table, members Members, bySelector map[string][]Step, fleet []Step) {
	texts := slices.Sorted(maps.Keys(bySelector))
	matched := map[policy.Identity][]byte{}
	for _, s := range t.Selectors() {
		n, ok := slices.BinarySearch(texts, s.String())
		if !ok {
			continue
		}
		for it := members(s).Iterator(); it.HasNext(); {
			id := policy.Identity(it.Next())
			matched[id] = binary.BigEndian.AppendUint32(matched[id], uint32(n))
		}
	}
	shared := map[string]int{}
	for id, m := range matched {
		class, ok := shared[string(m)]
		if !ok {
			steps := slices.Clone(fleet)
			for rest := m; len(rest) > 0; rest = rest[4:] {
				steps = append(steps, bySelector[texts[binary.BigEndian.Uint32(rest)]]...)
			}
			class = b.class(steps)
			shared[string(m)] = class
		}
		b.table.Identities[id] = class
	}
}

func (b *builder) blocks(t *policy.Table) {
	steps := func(ranks []int) []Step {
		var out []Step
		for _, rank := range ranks {
			out = append(out, Step{Rank: rank, Rule: t.Rules[rank]})
		}
		return out
	}
	for _, e := range t.Blocks() {
		b.table.lpm.Insert(e.Prefix, len(b.table.Blocks))
		b.table.Blocks = append(b.table.Blocks, Block{Prefix: e.Prefix, World: b.class(steps(e.World)), Managed: b.class(steps(e.Managed))})
	}
}

// ForNames returns a table of what is about an address looked up by these names
// and nothing else, in its class Any; nil where no rule is.
func (t *Table) ForNames(names []string) *Table {
	var steps []Step
	for i := range t.Names {
		if policy.NameMatches(t.Names[i].Patterns, names) {
			steps = append(steps, t.Names[i].step)
		}
	}
	if len(steps) == 0 {
		return nil
	}
	b := newBuilder(t.Rules, t.Defaults)
	b.table.Any = b.class(steps)
	return b.table
}

// String counts what the table holds.
func (t *Table) String() string {
	entries := 0
	for _, c := range t.Classes {
		entries += len(c)
	}
	var b strings.Builder
	for _, part := range []struct {
		n    int
		what string
	}{{len(t.Rules), "rules"}, {len(t.Classes) - 1, "classes"}, {entries, "port entries"}, {len(t.Chains), "chains"}, {len(t.Identities), "identities"}, {len(t.Blocks), "blocks"}} {
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Itoa(part.n) + " " + part.what)
	}
	return b.String()
}
