package classify

import (
	"slices"

	"weft/model"
)

// Span is a range of protocols and ports on which a peer gets one verdict.
// First and Last are protocol<<16 | port (or ICMP type<<8|code), both included.
type Span struct {
	First, Last uint32
	Verdict     Verdict
}

// EverySpan is the last value a Span can have: protocol 255, port 65535.
const EverySpan = 1<<24 - 1

// Resolve says the verdicts on every protocol and port for a peer of these
// classes (see ClassesOf), where nothing is known of processes: for a datapath
// that cannot merge chains itself. The spans ascend, leave no gap, and two
// neighbours never say the same.
func (t *Table) Resolve(classes [5]*Class) []Span {
	var flat [5][]flatSpan
	var starts []uint32
	for i, class := range classes {
		flat[i] = flatten(class)
		for _, s := range flat[i] {
			starts = append(starts, s.first)
		}
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	var out []Span
	var at [5]int
	verdicts := map[[5]*Step]Verdict{}
	for _, first := range starts {
		var chains [5]*Step
		var heads [5]Chain
		for i := range flat {
			for at[i]+1 < len(flat[i]) && flat[i][at[i]+1].first <= first {
				at[i]++
			}
			if heads[i] = flat[i][at[i]].chain; len(heads[i]) > 0 {
				chains[i] = &heads[i][0]
			}
		}
		v, ok := verdicts[chains]
		if !ok {
			v = t.decide(heads, &model.PolicyProcess{}, &model.PolicyProcess{})
			verdicts[chains] = v
		}
		if n := len(out); n == 0 || out[n-1].Verdict != v {
			out = append(out, Span{First: first, Verdict: v})
		}
	}
	for i := range out {
		out[i].Last = EverySpan
		if i+1 < len(out) {
			out[i].Last = out[i+1].First - 1
		}
	}
	return out
}

// flatSpan is where a chain begins to hold; nil is none.
type flatSpan struct {
	first uint32
	chain Chain
}

// flatten turns nested prefixes into the places where the longest one changes.
func flatten(c *Class) []flatSpan {
	type open struct {
		end   uint32 // first value after it
		chain Chain
	}
	out := []flatSpan{{0, nil}}
	put := func(first uint32, chain Chain) {
		if n := len(out); out[n-1].first == first {
			out[n-1].chain = chain
		} else if first <= EverySpan {
			out = append(out, flatSpan{first, chain})
		}
	}
	stack := []open{{EverySpan + 1, nil}}
	pop := func(to uint32) {
		for len(stack) > 1 && stack[len(stack)-1].end <= to {
			end := stack[len(stack)-1].end
			stack = stack[:len(stack)-1]
			put(end, stack[len(stack)-1].chain)
		}
	}
	for i := range c.len() {
		e := &c.Entries[i]
		first, size := uint32(0), uint32(EverySpan+1)
		if !e.AnyProtocol {
			first, size = uint32(e.Protocol)<<16|uint32(e.Port), 1<<(16-e.PortBits)
		}
		pop(first)
		put(first, e.Chain)
		stack = append(stack, open{first + size, e.Chain})
	}
	pop(EverySpan + 1)
	return out
}
