package classify

import (
	"cmp"
	"encoding/binary"
	"slices"

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

// Entry is one prefix of a class and the place of its chain in Table.Chains.
type Entry struct {
	PortKey
	Chain int
}

// Class is a longest-prefix table over protocol and port, sorted so that a
// prefix comes before those within it. Where no entry matches, no rule does.
type Class []Entry

// lookup returns the longest prefix's chain, or -1. It is linear: a datapath has
// its own way, and Judge is there to compare with it.
func (c Class) lookup(protocol uint8, port uint16) int {
	for i := len(c) - 1; i >= 0; i-- {
		if c[i].contains(PortKey{Protocol: protocol, Port: port, PortBits: 16}) {
			return c[i].Chain
		}
	}
	return -1
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

// class interns the class of a set of steps, given in any order.
func (b *builder) class(steps []Step) int {
	if len(steps) == 0 {
		return 0
	}
	slices.SortStableFunc(steps, func(a, b Step) int { return cmp.Compare(a.Rank, b.Rank) })
	key := Chain(steps).key()
	if n, ok := b.classes[key]; ok {
		return n
	}
	own := map[PortKey]Chain{}
	for _, s := range steps {
		for _, k := range b.ports(s) {
			own[k] = append(own[k], s)
		}
	}
	keys := make([]PortKey, 0, len(own))
	for k := range own {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, comparePortKey)
	var out Class
	type open struct {
		key   PortKey
		chain Chain
		index int
	}
	var stack []open
	for _, k := range keys {
		for len(stack) > 0 && !stack[len(stack)-1].key.contains(k) {
			stack = stack[:len(stack)-1]
		}
		chain, above := b.cut(own[k]), -1
		if len(stack) > 0 {
			chain, above = b.merge(stack[len(stack)-1].chain, chain), stack[len(stack)-1].index
		}
		index := b.chain(chain)
		stack = append(stack, open{k, chain, index})
		if index != above {
			out = append(out, Entry{k, index})
		}
	}
	n := b.intern(out)
	b.classes[key] = n
	return n
}

// intern gives equal classes one number.
func (b *builder) intern(c Class) int {
	var key []byte
	for _, e := range c {
		any := byte(0)
		if e.AnyProtocol {
			any = 1
		}
		key = append(key, any, e.Protocol, byte(e.PortBits))
		key = binary.BigEndian.AppendUint16(key, e.Port)
		key = binary.BigEndian.AppendUint32(key, uint32(e.Chain))
	}
	if n, ok := b.byEntries[string(key)]; ok {
		return n
	}
	n := len(b.table.Classes)
	b.table.Classes = append(b.table.Classes, c)
	b.byEntries[string(key)] = n
	return n
}

func (b *builder) chain(c Chain) int {
	key := c.key()
	if n, ok := b.chains[key]; ok {
		return n
	}
	n := len(b.table.Chains)
	b.table.Chains = append(b.table.Chains, c)
	b.chains[key] = n
	return n
}

func (b *builder) ports(s Step) []PortKey {
	if b.portKeys[s.Rank] == nil {
		b.portKeys[s.Rank] = portKeys(s.Rule)
	}
	return b.portKeys[s.Rank]
}
