package classify

import (
	"weft/model"
	"weft/policy"
)

// MaxSteps bounds the steps of one verdict, so that a program in the kernel can
// walk them; Steps says how many a table can need.
const MaxSteps = 64

// Verdict is what a table says.
type Verdict struct {
	Action   model.Action
	Rule     *policy.Rule // nil where the default decided
	Stateful bool
	Logged   *policy.Rule // the first Log rule on the way, or nil
}

// Judge is what a datapath does with the table, for drivers without a kernel
// and for tests of those with one.
func (t *Table) Judge(subject, peer *policy.End, protocol uint8, port uint16) Verdict {
	var heads [5]Chain
	for i, class := range t.ClassesOf(peer) {
		heads[i] = class.lookup(protocol, port)
	}
	if len(peer.Names) > 0 {
		heads[4] = t.ForNames(peer.Names).lookup(protocol, port)
	}
	return t.decide(heads, &subject.Process, &peer.Process)
}

// decide merges the chains by rank and returns what the first final step says.
func (t *Table) decide(heads [5]Chain, subject, peer *model.PolicyProcess) Verdict {
	var logged *policy.Rule
	var passed model.Tier
	for {
		first := -1
		for i := range heads {
			if len(heads[i]) > 0 && (first < 0 || heads[i][0].Rank < heads[first][0].Rank) {
				first = i
			}
		}
		if first < 0 {
			break
		}
		s := heads[first][0]
		heads[first] = heads[first][1:]
		r := s.Rule
		if passed != "" && r.Tier == passed || !policy.ProcessMatches(r.Processes, subject) || !policy.ProcessMatches(s.Peer, peer) {
			continue
		}
		switch r.Action {
		case model.ActionLog:
			if logged == nil {
				logged = r
			}
		case model.ActionPass:
			passed = r.Tier
		default:
			return Verdict{Action: r.Action, Rule: r, Stateful: r.Stateful, Logged: logged}
		}
	}
	for _, d := range t.Defaults {
		if policy.ProcessMatches(d.Processes, subject) {
			return Verdict{Action: d.Action, Stateful: true, Logged: logged}
		}
	}
	return Verdict{Action: model.ActionDeny, Stateful: true, Logged: logged}
}

// ClassesOf returns the peer's class in each dimension but the last, names.
func (t *Table) ClassesOf(peer *policy.End) [5]*Class {
	out := [5]*Class{t.Any}
	switch class, ok := t.Identity(peer.Identity); {
	case peer.Identity == 0:
		out[1] = t.World
	case ok:
		out[1] = class
	default:
		out[1] = t.Fleet
	}
	if peer.Addr.IsValid() {
		if b, ok := t.blocks.Lookup(peer.Addr.Unmap()); ok {
			out[2] = b.World
			if peer.Identity != 0 {
				out[2] = b.Managed
			}
		}
	}
	if set := peer.Entities & t.EntityMask; set != 0 {
		out[3] = t.Entities[set]
	}
	return out
}

// Steps returns the most steps a verdict can take: the longest chain of each
// dimension, added up.
func (t *Table) Steps() int {
	entity, names := 0, 0
	for _, c := range t.Entities {
		entity = max(entity, c.longestChain())
	}
	for i := range t.names {
		if !t.names[i].step.final() || i == 0 {
			names++
		}
	}
	return t.Any.longestChain() + max(t.World.longestChain(), t.Fleet.longestChain(), t.longestOfIdentities) + t.lengths.most() + entity + names
}
