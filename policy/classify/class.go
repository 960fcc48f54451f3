package classify

import (
	"cmp"
	"slices"

	"weft/model"
	"weft/policy"
)

// PortKey is a prefix over protocol and port.
type PortKey struct {
	// AnyProtocol is set for the empty prefix; the rest is zero then.
	AnyProtocol bool
	Protocol    uint8
	Port        uint16 // destination port, or ICMP type<<8|code
	PortBits    int    // how many bits of Port count
}

func (k PortKey) contains(o PortKey) bool {
	if k.AnyProtocol {
		return true
	}
	return !o.AnyProtocol && k.Protocol == o.Protocol && k.PortBits <= o.PortBits && (k.Port^o.Port)>>(16-k.PortBits) == 0
}

func comparePortKey(a, b PortKey) int {
	switch {
	case a.AnyProtocol != b.AnyProtocol:
		if a.AnyProtocol {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), cmp.Compare(a.PortBits, b.PortBits))
}

// Entry is one prefix of a class and its chain, which is never empty.
type Entry struct {
	PortKey
	Chain Chain
}

// Class is a longest-prefix table over protocol and port. Where no entry matches,
// no rule does; nil has no entries. Read only, and shared by all tables it is the
// same in.
type Class struct {
	// Entries are sorted so that a prefix comes before those within it.
	Entries []Entry
	steps   []Step // what it is made of, by rank
	longest int    // chain
}

// lookup returns the longest prefix's chain, or nil. It is linear: a datapath has
// its own way, and Judge is there to compare with it.
func (c *Class) lookup(protocol uint8, port uint16) Chain {
	for i := c.len() - 1; i >= 0; i-- {
		if c.Entries[i].contains(PortKey{Protocol: protocol, Port: port, PortBits: 16}) {
			return c.Entries[i].Chain
		}
	}
	return nil
}

func (c *Class) len() int {
	if c == nil {
		return 0
	}
	return len(c.Entries)
}

// made returns the steps a class is made of.
func (c *Class) made() []Step {
	if c == nil {
		return nil
	}
	return c.steps
}

func (c *Class) longestChain() int {
	if c == nil {
		return 0
	}
	return c.longest
}

// portKeys are the prefixes a rule's ports make.
func portKeys(r *policy.Rule) []PortKey {
	if len(r.Ports) == 0 {
		return []PortKey{{AnyProtocol: true}}
	}
	var out []PortKey
	for _, p := range r.Ports {
		for _, x := range p.Prefixes() {
			out = append(out, PortKey{Protocol: p.Protocol, Port: x.Value, PortBits: x.Bits})
		}
	}
	return out
}

// classes makes the classes of one table, those of the same steps once.
type classes struct {
	passes  map[model.Tier]int // rules with Pass, by tier
	classes map[string]*Class  // by the steps they are made of
	single  map[uint64]*Class  // by rank, of one step that asks for no process
	chains  map[string]Chain
	ports   map[*policy.Rule][]PortKey
	key     []byte
}

func newClasses(passes map[model.Tier]int) *classes {
	return &classes{passes: passes, classes: map[string]*Class{}, single: map[uint64]*Class{}, chains: map[string]Chain{}, ports: map[*policy.Rule][]PortKey{}}
}

// class returns the class of a set of steps, given in any order. They are kept.
func (b *classes) class(steps []Step) *Class {
	switch {
	case len(steps) == 0:
		return nil
	case len(steps) == 1 && len(steps[0].Peer) == 0:
		return b.ofOne(steps)
	}
	slices.SortStableFunc(steps, func(a, b Step) int { return cmp.Compare(a.Rank, b.Rank) })
	b.key = Chain(steps).appendKey(b.key[:0])
	if c, ok := b.classes[string(b.key)]; ok {
		return c
	}
	out := &Class{steps: steps}
	b.classes[string(b.key)] = out
	type own struct {
		key  PortKey
		step Step
	}
	all := make([]own, 0, len(steps))
	for _, s := range steps {
		for _, k := range b.portKeys(s.Rule) {
			all = append(all, own{k, s})
		}
	}
	slices.SortStableFunc(all, func(a, b own) int { return comparePortKey(a.key, b.key) })
	type open struct {
		key   PortKey
		chain Chain
	}
	var stack []open
	for len(all) > 0 {
		k, chain := all[0].key, Chain(nil)
		for len(all) > 0 && all[0].key == k {
			chain, all = append(chain, all[0].step), all[1:]
		}
		for len(stack) > 0 && !stack[len(stack)-1].key.contains(k) {
			stack = stack[:len(stack)-1]
		}
		var above Chain
		if chain = b.cut(chain); len(stack) > 0 {
			above = stack[len(stack)-1].chain
			chain = b.merge(above, chain)
		}
		chain = b.chain(chain)
		stack = append(stack, open{k, chain})
		if above == nil || &above[0] != &chain[0] {
			out.Entries = append(out.Entries, Entry{k, chain})
			out.longest = max(out.longest, len(chain))
		}
	}
	return out
}

// ofOne returns the class of one step: most classes are.
func (b *classes) ofOne(steps []Step) *Class {
	rank := steps[0].Rank
	if c := b.single[rank]; c != nil {
		return c
	}
	out := &Class{steps: steps, longest: 1}
	b.single[rank] = out
	keys := portKeys(steps[0].Rule)
	slices.SortFunc(keys, comparePortKey)
	out.Entries = make([]Entry, 0, len(keys))
	for _, k := range keys {
		if n := len(out.Entries); n == 0 || !out.Entries[n-1].contains(k) {
			out.Entries = append(out.Entries, Entry{k, steps})
		}
	}
	return out
}

// chain returns the one chain of these steps.
func (b *classes) chain(c Chain) Chain {
	b.key = c.appendKey(b.key[:0])
	if same, ok := b.chains[string(b.key)]; ok {
		return same
	}
	b.chains[string(b.key)] = c
	return c
}

func (b *classes) portKeys(r *policy.Rule) []PortKey {
	keys, ok := b.ports[r]
	if !ok {
		keys = portKeys(r)
		b.ports[r] = keys
	}
	return keys
}
