package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"weft/model"
)

// Ruleset is what a datapath loads for one subject identity; identities whose
// rules are the same share one. It names peers by selector: who belongs to a
// selector is shipped apart (Identities.Members), so that a workload that starts
// changes no ruleset. Read only.
type Ruleset struct {
	Mode            model.Mode
	Ingress, Egress Table
}

// NewRuleset puts a ruleset together again, as one that came over a wire: rules
// stand in the order in which they are tried.
func NewRuleset(mode model.Mode, ingress, egress []*Rule, ingressDefaults, egressDefaults []Default) *Ruleset {
	s := &Ruleset{Mode: mode, Ingress: Table{Rules: ingress, Defaults: ingressDefaults}, Egress: Table{Rules: egress, Defaults: egressDefaults}}
	s.Ingress.index()
	s.Egress.index()
	return s
}

// Table holds one direction: rules in the order they are tried, then defaults.
type Table struct {
	Rules []*Rule
	// Defaults are tried in order after the rules; the last has no condition.
	Defaults []Default

	// Made when they are first asked for: an agent, with its own tables, never does.
	selectors func() []model.Selector
	blocks    func() []BlockEntry
}

// Selectors are those the rules name, sorted and distinct.
func (t *Table) Selectors() []model.Selector { return t.selectors() }

// Blocks are the entries of one longest-prefix-match table for all rules, sorted.
// The entry found says for every rule whether a block matches.
func (t *Table) Blocks() []BlockEntry { return t.blocks() }

// Rule is one line of a table.
type Rule struct {
	ID        RuleID
	Tier      model.Tier
	Policy    string
	Name      string // the rule's name, or "#INDEX"
	Action    model.Action
	Stateful  bool
	Processes []model.PolicyProcess // of the subject; one must match, none is no condition
	Peers     []Peer                // one must match, none is no condition
	Ports     []Port                // one must match, none is no condition
	place     place
}

// Peer is one alternative of a rule. Exactly one of the first four is set.
type Peer struct {
	Selector  *model.Selector // never "*", which is the entity fleet
	Entities  EntitySet
	Blocks    []Block
	Names     []string
	Processes []model.PolicyProcess // of the peer, on top of the above
}

// Block is a parsed model.IPBlock.
type Block struct {
	Prefix         netip.Prefix
	Except         []netip.Prefix
	IncludeManaged bool
}

// Port is a protocol with a range of destination ports, or of type<<8|code for
// ICMP and ICMPv6. Protocols without either have the range 0 to 65535.
type Port struct {
	Protocol    uint8
	First, Last uint16
}

// Default is what becomes of packets no rule decides.
type Default struct {
	Processes []model.PolicyProcess // of the subject, as in Rule
	Action    model.Action
}

// BlockEntry is a range of addresses and the rules (by place in Table.Rules,
// ascending) one of whose blocks holds all of it that no longer entry takes.
type BlockEntry struct {
	Prefix  netip.Prefix
	World   []int // for addresses of no workload
	Managed []int // for addresses of workloads
}

// PortPrefix is a range of ports as a value and the number of its bits that count.
type PortPrefix struct {
	Value uint16
	Bits  int
}

// Prefixes cuts the range into the fewest prefixes, ascending: at most 30.
func (p Port) Prefixes() []PortPrefix {
	var out []PortPrefix
	for first, last := uint32(p.First), uint32(p.Last); first <= last; {
		size := uint32(1)
		for size < 1<<16 && first&(size<<1-1) == 0 && first+size<<1-1 <= last {
			size <<= 1
		}
		bits := 16
		for s := size; s > 1; s >>= 1 {
			bits--
		}
		out = append(out, PortPrefix{uint16(first), bits})
		first += size
	}
	return out
}

func (p Port) String() string {
	name := model.ProtocolName(p.Protocol)
	switch {
	case p.First == 0 && p.Last == 65535:
		return name
	case model.IsICMP(p.Protocol) && p.First == p.Last:
		return fmt.Sprintf("%s/%d.%d", name, p.First>>8, p.First&0xff)
	case model.IsICMP(p.Protocol):
		return fmt.Sprintf("%s/%d", name, p.First>>8)
	case p.First == p.Last:
		return fmt.Sprintf("%s/%d", name, p.First)
	}
	return fmt.Sprintf("%s/%d-%d", name, p.First, p.Last)
}

// Excepts says whether an exception holds all of a prefix.
func (b *Block) Excepts(p netip.Prefix) bool {
	return slices.ContainsFunc(b.Except, func(x netip.Prefix) bool { return x.Bits() <= p.Bits() && x.Contains(p.Addr()) })
}

func (b Block) String() string {
	s := b.Prefix.String()
	if len(b.Except) > 0 {
		s += " except " + strings.Trim(fmt.Sprint(b.Except), "[]")
	}
	if b.IncludeManaged {
		s += " with managed"
	}
	return s
}

func (p Peer) String() string {
	var s string
	switch {
	case p.Selector != nil:
		s = "(" + p.Selector.String() + ")"
	case p.Entities != 0:
		s = p.Entities.String()
	case len(p.Blocks) > 0:
		s = "[" + join(p.Blocks) + "]"
	default:
		s = strings.Join(p.Names, ",")
	}
	return s + processText(p.Processes)
}

func processText(list []model.PolicyProcess) string {
	var out []string
	for _, p := range list {
		out = append(out, describeProcess(p))
	}
	if len(out) == 0 {
		return ""
	}
	return " run by " + strings.Join(out, " or ")
}

func describeProcess(p model.PolicyProcess) string {
	var out []string
	for _, f := range [][2]string{{"", p.Exe}, {"user ", p.User}, {"cgroup ", p.Cgroup}} {
		if f[1] != "" {
			out = append(out, f[0]+f[1])
		}
	}
	if len(out) == 0 {
		return "an unknown process"
	}
	return strings.Join(out, " ")
}

func join[T fmt.Stringer](list []T) string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = v.String()
	}
	return strings.Join(out, ", ")
}

// Equal says whether two rules are the same in all but their place.
func (r *Rule) Equal(o *Rule) bool {
	return r == o || r.ID == o.ID && r.Tier == o.Tier && r.Policy == o.Policy && r.Name == o.Name && r.Action == o.Action && r.Stateful == o.Stateful &&
		slices.Equal(r.Processes, o.Processes) && slices.Equal(r.Ports, o.Ports) && slices.EqualFunc(r.Peers, o.Peers, equalPeers)
}

func equalPeers(p, o Peer) bool {
	return (p.Selector == nil) == (o.Selector == nil) && (p.Selector == nil || p.Selector.String() == o.Selector.String()) && p.Entities == o.Entities &&
		slices.Equal(p.Names, o.Names) && slices.Equal(p.Processes, o.Processes) && slices.EqualFunc(p.Blocks, o.Blocks, equalBlocks)
}

func equalBlocks(b, o Block) bool {
	return b.Prefix == o.Prefix && b.IncludeManaged == o.IncludeManaged && slices.Equal(b.Except, o.Except)
}

func (r *Rule) String() string {
	peers, ports := join(r.Peers), join(r.Ports)
	if len(r.Peers) == 0 {
		peers = "every peer"
	}
	if len(r.Ports) == 0 {
		ports = "every port"
	}
	state := ""
	if !r.Stateful {
		state = " stateless"
	}
	return fmt.Sprintf("%s %s/%s/%s: %s%s%s | %s | %s", r.ID, r.Tier, r.Policy, r.Name, r.Action, state, processText(r.Processes), peers, ports)
}

// String prints everything that decides, the same for the same input.
func (s *Ruleset) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "mode %s\n", s.Mode)
	for _, d := range []Direction{Ingress, Egress} {
		fmt.Fprintf(&b, "%s\n%s", d, s.table(d))
	}
	return b.String()
}

func (t *Table) String() string {
	var b strings.Builder
	for _, r := range t.Rules {
		fmt.Fprintf(&b, "  %s\n", r)
	}
	for _, e := range t.Blocks() {
		fmt.Fprintf(&b, "  block %s world %v managed %v\n", e.Prefix, e.World, e.Managed)
	}
	for _, d := range t.Defaults {
		fmt.Fprintf(&b, "  default %s%s\n", d.Action, processText(d.Processes))
	}
	return b.String()
}

func (s *Ruleset) table(d Direction) *Table {
	if d == Egress {
		return &s.Egress
	}
	return &s.Ingress
}

// index says how Selectors and Blocks are made of the rules.
func (t *Table) index() {
	rules := t.Rules
	t.selectors = sync.OnceValue(func() []model.Selector { return selectorsOf(rules) })
	t.blocks = sync.OnceValue(func() []BlockEntry { return blocksOf(rules) })
}

func selectorsOf(rules []*Rule) (out []model.Selector) {
	selectors := map[string]*model.Selector{}
	for _, r := range rules {
		for _, p := range r.Peers {
			if p.Selector != nil {
				selectors[p.Selector.String()] = p.Selector
			}
		}
	}
	for _, text := range slices.Sorted(maps.Keys(selectors)) {
		out = append(out, *selectors[text])
	}
	return out
}

func blocksOf(rules []*Rule) (out []BlockEntry) {
	var prefixes []netip.Prefix
	for _, r := range rules {
		for _, p := range r.Peers {
			for _, b := range p.Blocks {
				prefixes = append(append(prefixes, b.Prefix), b.Except...)
			}
		}
	}
	slices.SortFunc(prefixes, model.ComparePrefix)
	for _, p := range slices.Compact(prefixes) {
		out = append(out, BlockEntry{Prefix: p})
	}
	for i, r := range rules {
		for _, p := range r.Peers {
			for _, b := range p.Blocks {
				addBlock(out, i, b)
			}
		}
	}
	return out
}

// addBlock marks the entries within a block and outside its exceptions.
func addBlock(entries []BlockEntry, rule int, b Block) {
	at, _ := slices.BinarySearchFunc(entries, b.Prefix, func(e BlockEntry, p netip.Prefix) int { return model.ComparePrefix(e.Prefix, p) })
	for ; at < len(entries) && b.Prefix.Contains(entries[at].Prefix.Addr()); at++ {
		e := &entries[at]
		if b.Excepts(e.Prefix) {
			continue
		}
		e.World = appendOnce(e.World, rule)
		if b.IncludeManaged {
			e.Managed = appendOnce(e.Managed, rule)
		}
	}
}

func appendOnce(list []int, v int) []int {
	if n := len(list); n > 0 && list[n-1] == v {
		return list
	}
	return append(list, v)
}
