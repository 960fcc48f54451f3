package bpf

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
	"weft/policy/classify"
)

// The flags and numbers of maps.h.
const (
	tableIdentities = 1
	tableBlocks     = 2
	tableNames      = 4
	tableProcesses  = 8
	tableRejects    = 16

	condExe    = 1
	condUser   = 2
	condCgroup = 4
	condNever  = 8

	slotMachineNetNS = 1
	slotUnnamed      = 2
)

var actionNumbers = map[model.Action]uint8{model.ActionAllow: 1, model.ActionDeny: 2, model.ActionReject: 3, model.ActionPass: 4, model.ActionLog: 5}

var actions = [...]model.Action{"", model.ActionAllow, model.ActionDeny, model.ActionReject, model.ActionPass, model.ActionLog}

// entityShift makes host, the first of the special entities, the first bit.
const entityShift = 3

// table says that a table is wanted and returns its number.
func (s *store) table(t *classify.Table) (uint32, error) {
	if p := s.tables[t]; p != nil {
		s.wanted[p] = true
		return p.number, nil
	}
	if n := t.Steps(); n > classify.MaxSteps {
		return 0, fmt.Errorf("%d rules could be tried for one connection, %d at most: too many rules with processes, Pass or Log lie over one another; give them ports or peers that differ", n, classify.MaxSteps)
	}
	if p := s.heirs[t]; p != nil {
		return p.number, s.planTurn(p, t)
	}
	s.last.table++
	p := &placed{number: s.last.table, table: t}
	s.tables[t], s.numbers[p.number], s.wanted[p] = p, p, true
	s.fresh = append(s.fresh, p)
	for _, m := range t.Identities {
		class, err := s.take(m.Class())
		if err != nil {
			return 0, err
		}
		s.maps.identities.add(policyIdentityKey{Table: p.number, Identity: uint32(m.Identity)}, class)
	}
	for prefix, b := range t.Blocks() {
		value, err := s.block(b)
		if err != nil {
			return 0, err
		}
		s.maps.blocks.add(blockKey(p.number, prefix), value)
	}
	var err error
	if p.fallback, err = s.fallback(t); err != nil {
		return 0, err
	}
	s.maps.defaults.add(p.number, p.fallback.policyChain)
	head, err := s.head(p.number, t)
	if err != nil {
		return 0, err
	}
	s.maps.tables.add(p.number, head)
	return p.number, nil
}

func (s *store) block(b *classify.Block) (out policyBlock, err error) {
	if out.World, err = s.take(b.World); err == nil {
		out.Managed, err = s.take(b.Managed)
	}
	return out, err
}

// head is what is under a table's number alone.
func (s *store) head(number uint32, t *classify.Table) (out policyTable, err error) {
	out = policyTable{EntityMask: uint32(t.EntityMask) >> entityShift, Defaults: number}
	for _, x := range []struct {
		class  *classify.Class
		number *uint32
	}{{t.Any, &out.Any}, {t.World, &out.World}, {t.Fleet, &out.Fleet}} {
		if *x.number, err = s.take(x.class); err != nil {
			return out, err
		}
	}
	for set, class := range t.Entities {
		if out.Entities[set>>entityShift], err = s.take(class); err != nil {
			return out, err
		}
	}
	for flag, is := range map[uint32]bool{tableIdentities: len(t.Identities) > 0, tableBlocks: t.HasBlocks(), tableNames: t.HasNames(), tableRejects: t.Rejects()} {
		if is {
			out.Flags |= flag
		}
	}
	return out, nil
}

// class finds a class that says the same, or adds it.
func (s *store) class(c *classify.Class) (*storedClass, error) {
	out := &storedClass{chains: make([]*storedChain, 0, len(c.Entries))}
	key := make([]byte, 0, 16*len(c.Entries))
	release := func() {
		for _, chain := range out.chains {
			s.giveChain(chain)
		}
	}
	for _, x := range c.Entries {
		chain, err := s.chain(x.Chain)
		if err != nil {
			release()
			return nil, err
		}
		out.chains = append(out.chains, chain)
		any := byte(0)
		if x.AnyProtocol {
			any = 1
		}
		key = append(key, any, x.Protocol, byte(x.PortBits))
		key = binary.BigEndian.AppendUint16(key, x.Port)
		key = binary.BigEndian.AppendUint32(key, chain.First)
		key = binary.BigEndian.AppendUint32(key, chain.Count)
	}
	if same := s.byContent[string(key)]; same != nil {
		release()
		return same, nil
	}
	s.last.class++
	out.number, out.key = s.last.class, string(key)
	s.byContent[out.key] = out
	out.ports = make([]policyPortKey, len(c.Entries))
	for i, x := range c.Entries {
		k := &out.ports[i]
		k.Prefixlen, k.Class = 32, out.number
		if !x.AnyProtocol {
			k.Prefixlen, k.Protocol = uint32(40+x.PortBits), x.Protocol
			binary.BigEndian.PutUint16(k.Port[:], x.Port)
		}
		s.maps.ports.add(*k, out.chains[i].policyChain)
	}
	return out, nil
}

// chain takes a chain.
func (s *store) chain(c classify.Chain) (*storedChain, error) {
	steps := make([]policyStep, len(c))
	var conditions []*storedCondition
	for i, x := range c {
		subject, err := s.condition(x.Rule.Processes, &conditions)
		peer := uint32(0)
		if err == nil {
			peer, err = s.condition(x.Peer, &conditions)
		}
		if err != nil {
			s.giveConditions(conditions)
			return nil, fmt.Errorf("policy %s rule %s: %w", x.Rule.Policy, x.Rule.Name, err)
		}
		steps[i] = policyStep{Rule: uint64(x.Rule.ID), Rank: x.Rank, SubjectCondition: subject, PeerCondition: peer,
			Action: actionNumbers[x.Rule.Action], Tier: tierNumber(x.Rule.Tier)}
		if !x.Rule.Stateful {
			steps[i].Stateless = 1
		}
	}
	return s.place(steps, conditions), nil
}

// fallback takes the chain of a table's defaults.
func (s *store) fallback(t *classify.Table) (*storedChain, error) {
	if len(t.Defaults) > classify.MaxSteps {
		return nil, fmt.Errorf("%d policies with processes isolate one subject, %d at most", len(t.Defaults), classify.MaxSteps)
	}
	steps := make([]policyStep, len(t.Defaults))
	var conditions []*storedCondition
	for i, d := range t.Defaults {
		subject, err := s.condition(d.Processes, &conditions)
		if err != nil {
			s.giveConditions(conditions)
			return nil, err
		}
		steps[i] = policyStep{SubjectCondition: subject, Action: actionNumbers[d.Action]}
	}
	return s.place(steps, conditions), nil
}

// place takes the chain of these steps, and is handed their conditions.
func (s *store) place(steps []policyStep, conditions []*storedCondition) *storedChain {
	key := make([]byte, 0, 32*len(steps))
	for _, x := range steps {
		key = binary.BigEndian.AppendUint64(key, x.Rule)
		key = binary.BigEndian.AppendUint64(key, x.Rank)
		key = binary.BigEndian.AppendUint32(key, x.SubjectCondition)
		key = binary.BigEndian.AppendUint32(key, x.PeerCondition)
		key = append(key, x.Action, x.Tier, x.Stateless)
	}
	c := s.chains[string(key)]
	if c == nil {
		c = &storedChain{policyChain: policyChain{First: s.last.step + 1, Count: uint32(len(steps))}, key: string(key), conditions: conditions}
		s.last.step += uint32(len(steps))
		s.chains[c.key] = c
		for i, x := range steps {
			s.maps.steps.add(c.First+uint32(i), x)
		}
	} else {
		s.giveConditions(conditions)
	}
	c.uses++
	return c
}

// maxAlternatives is that of maps.h.
const maxAlternatives = 64

// condition takes a condition on processes, adds it to a list and returns its
// number, 0 for none.
func (s *store) condition(processes []model.PolicyProcess, taken *[]*storedCondition) (uint32, error) {
	if len(processes) == 0 {
		return 0, nil
	}
	if len(processes) > maxAlternatives {
		return 0, fmt.Errorf("names %d processes; %d at most, use a second rule for the others", len(processes), maxAlternatives)
	}
	key := fmt.Sprintf("%q", processes)
	c := s.conditions[key]
	if c == nil {
		c = &storedCondition{key: key, processes: processes}
		for _, p := range processes {
			x, err := s.resolve(p)
			if err != nil {
				return 0, err
			}
			c.alternatives = append(c.alternatives, x)
		}
		s.last.condition++
		c.number = s.last.condition
		s.conditions[key] = c
		for i, x := range c.alternatives {
			s.maps.conditions.add(policyConditionKey{Condition: c.number, Alternative: uint32(i)}, x)
		}
	}
	c.uses++
	*taken = append(*taken, c)
	return c.number, nil
}

func tierNumber(t model.Tier) uint8 { return uint8(slices.Index(model.Tiers, t) + 1) }

func blockKey(table uint32, p netip.Prefix) policyBlockKey {
	k := policyBlockKey{Prefixlen: uint32(40 + p.Bits()), Table: table}
	k.Family, k.Address = addressBytes(p.Addr())
	return k
}

func addressKey(book uint32, p netip.Prefix) policyAddressKey {
	k := policyAddressKey{Prefixlen: uint32(40 + p.Bits()), Book: book}
	k.Family, k.Address = addressBytes(p.Addr())
	return k
}

// addressBytes is an address as the programs have it: IPv4 in the first four.
func addressBytes(a netip.Addr) (family uint8, out [16]uint8) {
	a = a.Unmap()
	copy(out[:], a.AsSlice())
	if a.Is4() {
		return 4, out
	}
	return 6, out
}

func readAddress(family uint8, raw [16]uint8) netip.Addr {
	if family == 4 {
		return netip.AddrFrom4([4]byte(raw[:4]))
	}
	return netip.AddrFrom16(raw)
}

// addressContents are the addresses of a state, as a page of a book.
func addressContents(book uint32, s *datapath.State) map[policyAddressKey]policyAddress {
	out := make(map[policyAddressKey]policyAddress, len(s.Addresses))
	for _, a := range s.Addresses {
		p := netip.PrefixFrom(a.Prefix.Addr().Unmap(), cmp.Or(min(a.Prefix.Bits(), a.Prefix.Addr().Unmap().BitLen()), 0)).Masked()
		out[addressKey(book, p)] = policyAddress{Identity: uint32(a.Identity), Entities: uint32(a.Entities&policy.Special) >> entityShift}
	}
	return out
}

// renumbered says whether an address that both have is another identity's now.
func renumbered(before, now []datapath.Address) bool {
	ids := make(map[netip.Prefix]policy.Identity, len(before))
	for _, a := range before {
		ids[a.Prefix] = a.Identity
	}
	for _, a := range now {
		if id, ok := ids[a.Prefix]; ok && id != a.Identity {
			return true
		}
	}
	return false
}
