package classify

import (
	"encoding/binary"
	"slices"

	"weft/model"
	"weft/policy"
)

// Step is a rule that matches in all but processes.
type Step struct {
	// Rank orders the rules of a table, lower first. A rule keeps its rank from
	// one table to the next that is made from it.
	Rank uint64
	Rule *policy.Rule
	// Peer narrows to these processes of the peer; none is no condition.
	Peer []model.PolicyProcess
}

// final says whether nothing after the step can count.
func (s *Step) final() bool {
	return s.unconditional() && s.Rule.Action != model.ActionLog && s.Rule.Action != model.ActionPass
}

func (s *Step) unconditional() bool { return len(s.Rule.Processes) == 0 && len(s.Peer) == 0 }

// Chain is the rules that match one class of peers on one range of ports, by
// rank, without those that an earlier one makes void.
type Chain []Step

// merge adds the steps of two chains and cuts what is void.
func (b *classes) merge(x, y Chain) Chain {
	out := make(Chain, 0, len(x)+len(y))
	for len(x)+len(y) > 0 {
		if len(y) == 0 || len(x) > 0 && x[0].Rank <= y[0].Rank {
			out, x = append(out, x[0]), x[1:]
		} else {
			out, y = append(out, y[0]), y[1:]
		}
	}
	return b.cut(out)
}

// cut drops what comes after a final step, what an unconditional Pass skips, and
// a step that says again what one of the same rank says. Where the table has a
// Pass in the tier of the final step, a chain of another dimension may skip that
// tier, so the later tiers stay.
func (b *classes) cut(c Chain) Chain {
	out := c[:0:0]
	var over model.Tier
	for i, s := range c {
		if over != "" && s.Rule.Tier == over {
			continue
		}
		if len(out) > 0 && out[len(out)-1].Rank == s.Rank && (out[len(out)-1].unconditional() || slices.Equal(out[len(out)-1].Peer, s.Peer)) {
			continue
		}
		out = append(out, c[i])
		if s.final() && b.passes[s.Rule.Tier] == 0 {
			break
		}
		if s.final() || s.Rule.Action == model.ActionPass && s.unconditional() {
			over = s.Rule.Tier
		}
	}
	return out
}

// appendKey appends what tells chains of one table apart.
func (c Chain) appendKey(b []byte) []byte {
	for _, s := range c {
		b = binary.BigEndian.AppendUint64(b, s.Rank)
		b = binary.AppendUvarint(b, uint64(len(s.Peer)))
		for _, p := range s.Peer {
			b = append(b, p.Exe+"\x00"+p.User+"\x00"+p.Cgroup+"\x00"...)
		}
	}
	return b
}
