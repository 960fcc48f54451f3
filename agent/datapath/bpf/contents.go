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

// contents is what the maps of the tables should hold. They are keyed by numbers
// that are never given twice, so that a new state stands beside the old one until
// a slot is turned over to it.
type contents struct {
	tables     map[uint32]policyTable
	identities map[policyIdentityKey]uint32
	blocks     map[policyBlockKey]policyBlock
	ports      map[policyPortKey]policyChain
	defaults   map[uint32]policyChain
	steps      map[uint32]policyStep
	conditions map[policyConditionKey]policyCondition
}

func newContents() *contents {
	return &contents{tables: map[uint32]policyTable{}, identities: map[policyIdentityKey]uint32{}, blocks: map[policyBlockKey]policyBlock{},
		ports: map[policyPortKey]policyChain{}, defaults: map[uint32]policyChain{}, steps: map[uint32]policyStep{}, conditions: map[policyConditionKey]policyCondition{}}
}

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
)

var actionNumbers = map[model.Action]uint8{model.ActionAllow: 1, model.ActionDeny: 2, model.ActionReject: 3, model.ActionPass: 4, model.ActionLog: 5}

var actions = [...]model.Action{"", model.ActionAllow, model.ActionDeny, model.ActionReject, model.ActionPass, model.ActionLog}

// entityShift makes host, the first of the special entities, the first bit.
const entityShift = 3

// encoder writes tables as contents, with the numbers that equal things have had
// before.
type encoder struct {
	*contents
	old, now *numbers
	resolve  func(model.PolicyProcess) (policyCondition, error)
}

// numbers are what has been given to what: by ruleset key and direction, by a
// chain's and a class's content.
type numbers struct {
	last       *counters
	tables     map[string]uint32
	chains     map[string]policyChain
	classes    map[string]uint32
	conditions map[string]uint32
}

// counters are the last numbers given.
type counters struct{ table, step, class, condition uint32 }

func newNumbers(last *counters) *numbers {
	return &numbers{last: last, tables: map[string]uint32{}, chains: map[string]policyChain{}, classes: map[string]uint32{}, conditions: map[string]uint32{}}
}

// table adds a table and returns its number.
func (e *encoder) table(key string, d policy.Direction, t *classify.Table) (uint32, error) {
	key = fmt.Sprintf("%s/%s", key, d)
	if n, ok := e.now.tables[key]; ok {
		return n, nil
	}
	if n := t.Steps(); n > classify.MaxSteps {
		return 0, fmt.Errorf("ruleset %s: %d rules could be tried for one connection, %d at most: too many rules with processes, Pass or Log lie over one another; give them ports or peers that differ", key, n, classify.MaxSteps)
	}
	n, ok := e.old.tables[key]
	if !ok {
		e.now.last.table++
		n = e.now.last.table
	}
	e.now.tables[key] = n
	classes := make([]uint32, len(t.Classes))
	for i, c := range t.Classes {
		if i == 0 {
			continue
		}
		number, err := e.class(t, c)
		if err != nil {
			return 0, err
		}
		classes[i] = number
	}
	out := policyTable{Any: classes[t.Any], World: classes[t.World], Fleet: classes[t.Fleet], EntityMask: uint32(t.EntityMask) >> entityShift, Defaults: n}
	for set, class := range t.Entities {
		out.Entities[set>>entityShift] = classes[class]
	}
	for id, class := range t.Identities {
		e.identities[policyIdentityKey{Table: n, Identity: uint32(id)}] = classes[class]
		out.Flags |= tableIdentities
	}
	for _, b := range t.Blocks {
		e.blocks[blockKey(n, b.Prefix)] = policyBlock{World: classes[b.World], Managed: classes[b.Managed]}
		out.Flags |= tableBlocks
	}
	if len(t.Names) > 0 {
		out.Flags |= tableNames
	}
	if slices.ContainsFunc(t.Rules, func(r *policy.Rule) bool { return r.Action == model.ActionReject }) {
		out.Flags |= tableRejects
	}
	chain, err := e.fallback(t)
	if err != nil {
		return 0, err
	}
	e.defaults[n] = chain
	e.tables[n] = out
	return n, nil
}

// class adds a class and returns its number.
func (e *encoder) class(t *classify.Table, c classify.Class) (uint32, error) {
	chains := make([]policyChain, len(c))
	key := make([]byte, 0, 16*len(c))
	for i, x := range c {
		chain, err := e.chain(t.Chains[x.Chain])
		if err != nil {
			return 0, err
		}
		chains[i] = chain
		any := byte(0)
		if x.AnyProtocol {
			any = 1
		}
		key = append(key, any, x.Protocol, byte(x.PortBits))
		key = binary.BigEndian.AppendUint16(key, x.Port)
		key = binary.BigEndian.AppendUint32(key, chain.First)
		key = binary.BigEndian.AppendUint32(key, chain.Count)
	}
	n, ok := e.now.classes[string(key)]
	if ok {
		return n, nil
	}
	if n, ok = e.old.classes[string(key)]; !ok {
		e.now.last.class++
		n = e.now.last.class
	}
	e.now.classes[string(key)] = n
	for i, x := range c {
		k := policyPortKey{Prefixlen: 32, Class: n}
		if !x.AnyProtocol {
			k.Prefixlen, k.Protocol = uint32(40+x.PortBits), x.Protocol
			binary.BigEndian.PutUint16(k.Port[:], x.Port)
		}
		e.ports[k] = chains[i]
	}
	return n, nil
}

// chain adds a chain and returns where its steps are.
func (e *encoder) chain(c classify.Chain) (policyChain, error) {
	steps := make([]policyStep, len(c))
	for i, s := range c {
		subject, err := e.condition(s.Rule.Processes)
		if err != nil {
			return policyChain{}, fmt.Errorf("policy %s rule %s: %w", s.Rule.Policy, s.Rule.Name, err)
		}
		peer, err := e.condition(s.Peer)
		if err != nil {
			return policyChain{}, fmt.Errorf("policy %s rule %s: %w", s.Rule.Policy, s.Rule.Name, err)
		}
		steps[i] = policyStep{Rule: uint64(s.Rule.ID), Rank: uint64(s.Rank), SubjectCondition: subject, PeerCondition: peer,
			Action: actionNumbers[s.Rule.Action], Tier: tierNumber(s.Rule.Tier)}
		if !s.Rule.Stateful {
			steps[i].Stateless = 1
		}
	}
	return e.place(steps), nil
}

// fallback is the chain of a table's defaults.
func (e *encoder) fallback(t *classify.Table) (policyChain, error) {
	if len(t.Defaults) > classify.MaxSteps {
		return policyChain{}, fmt.Errorf("%d policies with processes isolate one subject, %d at most", len(t.Defaults), classify.MaxSteps)
	}
	steps := make([]policyStep, len(t.Defaults))
	for i, d := range t.Defaults {
		subject, err := e.condition(d.Processes)
		if err != nil {
			return policyChain{}, err
		}
		steps[i] = policyStep{SubjectCondition: subject, Action: actionNumbers[d.Action]}
	}
	return e.place(steps), nil
}

func (e *encoder) place(steps []policyStep) policyChain {
	key := make([]byte, 0, 32*len(steps))
	for _, s := range steps {
		key = binary.BigEndian.AppendUint64(key, s.Rule)
		key = binary.BigEndian.AppendUint64(key, s.Rank)
		key = binary.BigEndian.AppendUint32(key, s.SubjectCondition)
		key = binary.BigEndian.AppendUint32(key, s.PeerCondition)
		key = append(key, s.Action, s.Tier, s.Stateless)
	}
	c, ok := e.now.chains[string(key)]
	if ok {
		return c
	}
	if c, ok = e.old.chains[string(key)]; !ok {
		c = policyChain{First: e.now.last.step + 1, Count: uint32(len(steps))}
		e.now.last.step += uint32(len(steps))
	}
	e.now.chains[string(key)] = c
	for i, s := range steps {
		e.steps[c.First+uint32(i)] = s
	}
	return c
}

// maxAlternatives is that of maps.h.
const maxAlternatives = 64

// condition adds a condition on processes and returns its number, 0 for none.
func (e *encoder) condition(list []model.PolicyProcess) (uint32, error) {
	if len(list) == 0 {
		return 0, nil
	}
	if len(list) > maxAlternatives {
		return 0, fmt.Errorf("names %d processes; %d at most, use a second rule for the others", len(list), maxAlternatives)
	}
	alternatives := make([]policyCondition, len(list))
	var key []byte
	for i, p := range list {
		c, err := e.resolve(p)
		if err != nil {
			return 0, err
		}
		alternatives[i] = c
		key = fmt.Appendf(key, "%d %d %d %d %d;", c.Flags, c.Exe, c.Uid, c.Level, c.Cgroup)
	}
	n, ok := e.now.conditions[string(key)]
	if ok {
		return n, nil
	}
	if n, ok = e.old.conditions[string(key)]; !ok {
		e.now.last.condition++
		n = e.now.last.condition
	}
	e.now.conditions[string(key)] = n
	for i, c := range alternatives {
		e.conditions[policyConditionKey{Condition: n, Alternative: uint32(i)}] = c
	}
	return n, nil
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
