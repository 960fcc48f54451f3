package classify

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/gaissmai/bart"

	"weft/model"
	"weft/policy"
)

// Table is one direction of a ruleset, ready for lookup. Read only: what two
// tables have in common, they share.
type Table struct {
	Defaults []policy.Default
	// Any is the class of every peer.
	Any *Class
	// World is that of peers of no workload; Fleet is that of workloads whose
	// identity is not in Identities.
	World, Fleet *Class
	// Identities are those that a selector names, ascending.
	Identities []Member
	// Entities are the classes of every set of the special entities that the
	// rules name; EntityMask holds those.
	Entities   map[policy.EntitySet]*Class
	EntityMask policy.EntitySet
	// Lacks is a selector whose members are not known, "" where there is none.
	Lacks string

	rules     []*policy.Rule
	ranks     []uint64 // of rules
	passes    map[model.Tier]int
	rejects   int
	lists     map[place][]Step // what is about peers of a kind
	selectors map[string]*selector
	names     []byName
	blocks    *bart.Table[*Block] // one longest-prefix table
	lengths   lengths             // of the blocks' chains
	// longestOfIdentities is the longest chain of their classes.
	longestOfIdentities int

	serial, base uint64         // base is the serial of the table it was made from
	touched      []netip.Prefix // blocks that are not as in the base
}

// place is a kind of peers that all have the same class, or a selector.
type place struct {
	kind     placeKind
	entity   policy.EntitySet
	selector string
}

type placeKind uint8

const (
	anyPeer placeKind = iota
	worldPeer
	fleetPeer
	entityPeer
	selectedPeer
)

// byName is a peer known by the names its address was looked up by.
type byName struct {
	patterns []string
	step     Step
}

// Members returns the identities that a selector matches, nil where they are not
// known. What it has returned never changes.
type Members func(model.Selector) *roaring.Bitmap

var serials atomic.Uint64

// nothing is the table that every first one is made from.
func nothing() *Table {
	return &Table{lists: map[place][]Step{}, blocks: &bart.Table[*Block]{}, Entities: map[policy.EntitySet]*Class{}}
}

// Build makes the table of one direction.
func Build(t *policy.Table, members Members) *Table { return Update(nil, t, members) }

// Update makes the table of one direction from that of the ruleset as it was
// before, nil for none: it costs what has changed. It says what Build would say,
// and is the old one itself where nothing has changed.
func Update(old *Table, t *policy.Table, members Members) *Table {
	if old != nil {
		if e, ok := compare(old, t.Rules); ok {
			return e.update(old, t.Defaults, members)
		}
	}
	old = nothing()
	e, _ := compare(old, t.Rules)
	return e.update(old, t.Defaults, members)
}

// Identity returns the class of an identity that a selector names.
func (t *Table) Identity(id policy.Identity) (*Class, bool) {
	if i, ok := findMember(t.Identities, id); ok {
		return t.Identities[i].Class(), true
	}
	return nil, false
}

// Blocks visits the ranges of addresses that rules name.
func (t *Table) Blocks() iter.Seq2[netip.Prefix, *Block] { return t.blocks.All() }

// Block returns the block of a prefix that rules name, nil for another.
func (t *Table) Block(p netip.Prefix) *Block {
	b, _ := t.blocks.Get(p)
	return b
}

// HasBlocks says whether a rule names a range of addresses.
func (t *Table) HasBlocks() bool { return t.blocks.Size() > 0 }

// HasNames says whether a rule names peers by name.
func (t *Table) HasNames() bool { return len(t.names) > 0 }

// Rejects says whether a rule rejects.
func (t *Table) Rejects() bool { return t.rejects > 0 }

// Rules are those of the table in the order they are tried.
func (t *Table) Rules() []*policy.Rule { return t.rules }

// Changes is where a table is not as the one it was made from, as far as that is
// more than a few classes.
type Changes struct {
	Names bool
	// Blocks are prefixes, of both or of one of them.
	Blocks []netip.Prefix
}

// Since returns what has changed since another table; it is not known, but where
// this one was made from that.
func (t *Table) Since(old *Table) (c Changes, known bool) {
	return Changes{!slices.EqualFunc(t.names, old.names, func(a, b byName) bool { return a.step.Rank == b.step.Rank && a.step.Rule == b.step.Rule }), t.touched}, t.base == old.serial
}

// ForNames returns the class of an address looked up by these names, as far as
// it has one for that; nil where no rule is.
func (t *Table) ForNames(names []string) *Class {
	var steps []Step
	for i := range t.names {
		if policy.NameMatches(t.names[i].patterns, names) {
			steps = append(steps, t.names[i].step)
		}
	}
	return newClasses(t.passes).class(steps)
}

// classes visits every class once.
func (t *Table) classes() iter.Seq[*Class] {
	return func(yield func(*Class) bool) {
		seen := map[*Class]bool{nil: true}
		visit := func(list ...*Class) bool {
			for _, c := range list {
				if !seen[c] {
					seen[c] = true
					if !yield(c) {
						return false
					}
				}
			}
			return true
		}
		if !visit(t.Any, t.World, t.Fleet) || !visit(slices.Collect(maps.Values(t.Entities))...) {
			return
		}
		for _, m := range t.Identities {
			if !visit(m.Class()) {
				return
			}
		}
		for _, b := range t.blocks.All() {
			if !visit(b.World, b.Managed) {
				return
			}
		}
	}
}

// String counts what the table holds.
func (t *Table) String() string {
	classes, entries := 0, 0
	for c := range t.classes() {
		classes++
		entries += len(c.Entries)
	}
	var b strings.Builder
	for _, part := range []struct {
		n    int
		what string
	}{{len(t.rules), "rules"}, {classes, "classes"}, {entries, "port entries"}, {len(t.Identities), "identities"}, {t.blocks.Size(), "blocks"}} {
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Itoa(part.n) + " " + part.what)
	}
	return b.String()
}

// lengths counts things by the length of their longest chain.
type lengths map[int]int

func (l lengths) most() int {
	most := 0
	for n := range l {
		most = max(most, n)
	}
	return most
}

// note counts one more, or one less.
func (l lengths) note(length, by int) {
	if l[length] += by; l[length] == 0 {
		delete(l, length)
	}
}
