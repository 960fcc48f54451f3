package classify

import (
	"weft/policy"
)

// Load is how much of a datapath's room something takes.
type Load struct {
	Tables     int // one for each direction of a ruleset
	Ports      int // entries of all classes
	Steps      int // of all chains
	Identities int // that selectors match, for each table
	Blocks     int
}

// Capacity is what the maps of the bpf driver hold; agent/datapath/bpf/maps.h has
// the same numbers, and a test there compares them.
var Capacity = Load{Tables: 4 * MaxSubjects, Ports: 1 << 22, Steps: 1 << 22, Identities: 1 << 22, Blocks: 1 << 21}

const (
	// MaxSubjects is how many workloads of one host can be judged.
	MaxSubjects = 4096
	// MaxAddresses is how many addresses of known peers a host can hold.
	MaxAddresses = 1 << 20
)

// Room is how much a host's rulesets may take together: half the capacity, for
// while they are replaced the old ones stand beside the new.
func Room() Load {
	c := Capacity
	return Load{c.Tables / 2, c.Ports / 2, c.Steps / 2, c.Identities / 2, c.Blocks / 2}
}

// Load returns what the table takes at most: what it has in common with another
// is counted twice.
func (t *Table) Load() Load {
	l := Load{Tables: 1, Identities: len(t.Identities), Blocks: t.blocks.Size(), Steps: len(t.Defaults)}
	chains := map[*Step]bool{}
	for c := range t.classes() {
		l.Ports += len(c.Entries)
		for _, e := range c.Entries {
			if first := &e.Chain[0]; !chains[first] {
				chains[first] = true
				l.Steps += len(e.Chain)
			}
		}
	}
	return l
}

// Add adds another load.
func (l *Load) Add(o Load) {
	l.Tables += o.Tables
	l.Ports += o.Ports
	l.Steps += o.Steps
	l.Identities += o.Identities
	l.Blocks += o.Blocks
}

// Exceeds returns the first part that is larger than the room for it, in words
// for a person; "" where there is none.
func (l Load) Exceeds(room Load) (what string, need, most int) {
	for _, x := range []struct {
		what       string
		need, most int
	}{
		{"rulesets, by direction", l.Tables, room.Tables},
		{"entries of peers by ports", l.Ports, room.Ports},
		{"steps of rules", l.Steps, room.Steps},
		{"identities of peers", l.Identities, room.Identities},
		{"blocks of addresses", l.Blocks, room.Blocks},
	} {
		if x.need > x.most {
			return x.what, x.need, x.most
		}
	}
	return "", 0, 0
}

// LoadOf returns what a ruleset takes, and the most steps that a verdict by it can.
func LoadOf(r *policy.Ruleset, members Members) (l Load, steps int) {
	for _, t := range []*policy.Table{&r.Ingress, &r.Egress} {
		b := Build(t, members)
		l.Add(b.Load())
		steps = max(steps, b.Steps(), len(b.Defaults))
	}
	return l, steps
}
