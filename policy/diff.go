package policy

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"weft/model"
)

// Limits of a Diff: it refuses rather than to answer for a part.
const (
	MaxDiffEnds  = 200_000
	MaxDiffCells = 10_000_000
)

// Difference is every change of what becomes of packets between two worlds.
type Difference struct {
	Entries []Entry
	space   *space
	lookup  map[string][]int // by classes and protocol
}

// Entry is a set of packets whose action changes: from one class of sources to
// one class of destinations, over a range of ports.
type Entry struct {
	Source, Destination Identity // 0 is no workload
	Protocol            uint8
	OtherProtocols      bool   // stands for every protocol no rule names; Protocol is one
	First, Last         uint16 // ports, or type<<8|code
	Before, After       model.Action
	Witness             Packet // one of the packets
	Flows               []int  // the recorded flows that are in the set
}

// Diff compares two worlds over the given identities and all that is no workload.
// Both worlds must share their Identities. It is exact for packets both of whose
// ends have one address family and at most one looked-up name each.
func Diff(before, after *World, ids []Identity, flows []Flow) (*Difference, error) {
	return diff(before, after, ids, flows, MaxDiffCells)
}

func diff(before, after *World, ids []Identity, flows []Flow, limit int) (*Difference, error) {
	if before.Identities != after.Identities {
		return nil, fmt.Errorf("diff worlds: they number identities apart; give both the same Identities")
	}
	a, err := Compile(before)
	if err != nil {
		return nil, fmt.Errorf("diff: before: %w", err)
	}
	b, err := Compile(after)
	if err != nil {
		return nil, fmt.Errorf("diff: after: %w", err)
	}
	s := newSpace(ids, a, b)
	if n := s.combinations(len(ids)); n > MaxDiffEnds {
		return nil, fmt.Errorf("diff: the rules tell up to %d ends apart, %d at most; give fewer identities", n, MaxDiffEnds)
	}
	s.enumerate(ids)
	cells := 1
	for _, bounds := range s.bounds {
		cells += len(bounds)
	}
	if n := len(s.classes[Egress]) * len(s.classes[Ingress]) * cells; n > limit {
		return nil, fmt.Errorf("diff: %d cells to compare, %d at most; give fewer identities", n, limit)
	}
	d := &Difference{space: s, lookup: map[string][]int{}}
	d.fill(NewEngine(a), NewEngine(b))
	for i := range flows {
		if e := d.Find(&flows[i].Packet); e != nil {
			e.Flows = append(e.Flows, i)
		}
	}
	return d, nil
}

func (d *Difference) fill(a, b *Engine) {
	protocols := slices.Sorted(maps.Keys(d.space.bounds))
	other := 253 // RFC 3692: for experiments; any that no rule names will do
	for d.space.bounds[uint8(other)] != nil && other > 0 {
		other--
	}
	for i := range d.space.classes[Egress] {
		for k := range d.space.classes[Ingress] {
			src, dst := &d.space.classes[Egress][i], &d.space.classes[Ingress][k]
			if src.Identity == 0 && dst.Identity == 0 || src.Addr.BitLen() != dst.Addr.BitLen() {
				continue
			}
			for _, n := range protocols {
				d.compare(a, b, src, dst, n, d.space.bounds[n], false)
			}
			if d.space.bounds[uint8(other)] == nil {
				d.compare(a, b, src, dst, uint8(other), []uint32{0}, true)
			}
		}
	}
}

func (d *Difference) compare(a, b *Engine, src, dst *End, protocol uint8, bounds []uint32, other bool) {
	open := -1 // the entry the interval before this one is in
	for k, first := range bounds {
		last := uint16(65535)
		if k+1 < len(bounds) {
			last = uint16(bounds[k+1] - 1)
		}
		p := Packet{Source: *src, Destination: *dst, Protocol: protocol}
		switch {
		case model.IsICMP(protocol):
			p.ICMPType, p.ICMPCode = uint8(first>>8), uint8(first)
		case model.HasPorts(protocol):
			p.SourcePort, p.DestinationPort = 49152, uint16(first)
		}
		x, y := a.JudgeBoth(&p).Action(), b.JudgeBoth(&p).Action()
		if x == y {
			open = -1
			continue
		}
		if open >= 0 && d.Entries[open].Before == x && d.Entries[open].After == y {
			d.Entries[open].Last = last
			continue
		}
		open = len(d.Entries)
		key := d.key(&p, protocol, other)
		d.lookup[key] = append(d.lookup[key], open)
		d.Entries = append(d.Entries, Entry{Source: src.Identity, Destination: dst.Identity, Protocol: protocol, OtherProtocols: other,
			First: uint16(first), Last: last, Before: x, After: y, Witness: p})
	}
}

func (d *Difference) key(p *Packet, protocol uint8, other bool) string {
	return fmt.Sprintf("%s|%s|%d|%t", d.space.class(Egress, &p.Source), d.space.class(Ingress, &p.Destination), protocol, other)
}

// Find returns the entry a packet is in, nil where nothing changes for it.
func (d *Difference) Find(p *Packet) *Entry {
	protocol, other := p.Protocol, d.space.bounds[p.Protocol] == nil
	if other {
		for protocol = 253; d.space.bounds[protocol] != nil && protocol > 0; {
			protocol--
		}
	}
	list := d.lookup[d.key(p, protocol, other)]
	k := p.Key()
	at := sort.Search(len(list), func(i int) bool { return d.Entries[list[i]].Last >= k })
	if at < len(list) && d.Entries[list[at]].First <= k {
		return &d.Entries[list[at]]
	}
	return nil
}

// String lists the entries, one a line.
func (d *Difference) String() string {
	var b strings.Builder
	for _, e := range d.Entries {
		ports := Port{e.Protocol, e.First, e.Last}.String()
		if e.OtherProtocols {
			ports = "other protocols"
		}
		fmt.Fprintf(&b, "%s -> %s: %s -> %s, %s, %d recorded flows\n", e.Before, e.After,
			endText(&e.Witness.Source, d.space.identities.Labels(e.Source)), endText(&e.Witness.Destination, d.space.identities.Labels(e.Destination)), ports, len(e.Flows))
	}
	return b.String()
}
