package classify

import (
	"maps"
	"slices"

	"weft/model"
	"weft/policy"
)

// ranked is a rule and its rank.
type ranked struct {
	rank uint64
	rule *policy.Rule
}

// edits is how a list of rules differs from that of another table. A rule that is
// another now is both removed and added.
type edits struct {
	rules          []*policy.Rule
	ranks          []uint64
	removed, added []ranked
	gone           map[uint64]bool // ranks of those removed
}

// Ranks are given with gaps between them. A rule that is put between two others
// takes a rank not far behind the first, for the next is likely to come after it.
const (
	rankGap  = 1 << 40 // 2^23 rules in a row
	rankStep = 1 << 30
	rankEnd  = 1 << 63
)

// compare says what makes the rules of the table those given. It is not ok where
// it is better to begin anew: most of the rules are others, no rank is left between
// two, or other tiers have a Pass, on which all chains depend.
func compare(old *Table, rules []*policy.Rule) (e *edits, ok bool) {
	e = &edits{rules: rules, gone: map[uint64]bool{}}
	was, n, first := old.rules, len(rules), 0
	for first < min(len(was), n) && was[first].Equal(rules[first]) {
		first++
	}
	last := 0 // how many at the end are the same
	for last < min(len(was), n)-first && was[len(was)-1-last].Equal(rules[n-1-last]) {
		last++
	}
	e.ranks = make([]uint64, n)
	copy(e.ranks, old.ranks[:first])
	copy(e.ranks[n-last:], old.ranks[len(was)-last:])
	most := max(16, n/4)
	if len(was) == 0 {
		most = n
	}
	ok = e.match(old, rules[first:n-last], first, len(was)-last, most) && e.rank() && (len(was) == 0 || e.samePasses(old.passes))
	return e, ok
}

// match finds the rules in the middle, by their ids, among those of the table from
// first to end. Those that stay keep their ranks and their order; rank 0 is none.
// It gives up beyond so many edits.
func (e *edits) match(old *Table, rules []*policy.Rule, first, end, most int) bool {
	places := make(map[policy.RuleID]int, end-first)
	for i := first; i < end; i++ {
		places[old.rules[i].ID] = i
	}
	next := first
	for j, r := range rules {
		if len(e.added)+len(e.removed) > most {
			return false
		}
		i, ok := places[r.ID]
		stays := ok && i >= next
		for ; stays && next < i; next++ {
			e.remove(old, next)
		}
		if stays {
			next = i + 1
			e.ranks[first+j] = old.ranks[i]
			if old.rules[i].Equal(r) {
				continue
			}
			e.remove(old, i)
		}
		e.added = append(e.added, ranked{e.ranks[first+j], r})
	}
	for ; next < end; next++ {
		e.remove(old, next)
	}
	return len(e.added)+len(e.removed) <= most
}

func (e *edits) remove(old *Table, i int) {
	e.removed = append(e.removed, ranked{old.ranks[i], old.rules[i]})
	e.gone[old.ranks[i]] = true
}

// rank gives ranks to those that have none.
func (e *edits) rank() bool {
	next := 0 // of those added
	for i, low := 0, uint64(0); i < len(e.ranks); {
		if e.ranks[i] != 0 {
			low = e.ranks[i]
			i++
			continue
		}
		run := i
		for run < len(e.ranks) && e.ranks[run] == 0 {
			run++
		}
		step := uint64(rankGap)
		if run < len(e.ranks) {
			step = min(rankStep, (e.ranks[run]-low)/uint64(run-i+1))
		}
		if step == 0 || low+uint64(run-i)*step >= rankEnd {
			return false
		}
		for ; i < run; i++ {
			low += step
			e.ranks[i] = low
			for e.added[next].rank != 0 {
				next++
			}
			e.added[next].rank = low
		}
	}
	return true
}

// samePasses says whether the same tiers have a rule with Pass as before.
func (e *edits) samePasses(before map[model.Tier]int) bool {
	has := func(passes map[model.Tier]int) []model.Tier { return slices.Sorted(maps.Keys(passes)) }
	return slices.Equal(has(e.passes(before)), has(before))
}

// passes counts rules with Pass.
func (e *edits) passes(before map[model.Tier]int) map[model.Tier]int {
	out := map[model.Tier]int{}
	maps.Copy(out, before)
	for _, r := range e.removed {
		if r.rule.Action == model.ActionPass {
			if out[r.rule.Tier]--; out[r.rule.Tier] == 0 {
				delete(out, r.rule.Tier)
			}
		}
	}
	for _, r := range e.added {
		if r.rule.Action == model.ActionPass {
			out[r.rule.Tier]++
		}
	}
	return out
}
