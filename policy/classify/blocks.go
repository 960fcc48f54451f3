package classify

import (
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"weft/model"
	"weft/policy"
)

// Block is a range of addresses, with its class for peers of no workload and for
// workloads: of the rules that hold all of it that no longer block takes.
type Block struct {
	World, Managed *Class
	uses           int    // how many blocks and exceptions of rules are this prefix
	made           uint64 // serial of the table it was made for
	open           bool   // it is being made: steps is what it will be made of
	steps          [2][]Step
}

// longest returns the longest chain of both.
func (b *Block) longest() int { return max(b.World.longestChain(), b.Managed.longestChain()) }

// blockEdit changes the blocks of one table into those of the next. What both have
// is never written to: each block that changes is made anew.
type blockEdit struct {
	*update
	lpm   *bart.Table[*Block]
	whole bool // nobody else has lpm
}

// blocks puts the edits in force. A new block begins with the rules of the one it
// lies in, so that all it takes is to remove rules from the blocks they hold, and
// to add them.
func (u *update) blocks() {
	t := u.table
	t.blocks, t.lengths = u.old.blocks, u.old.lengths
	removed, added := blocksOf(u.removed), blocksOf(u.added)
	if len(removed)+len(added) == 0 {
		return
	}
	e := &blockEdit{update: u, lpm: u.old.blocks}
	if 8*(len(removed)+len(added)) > e.lpm.Size() {
		e.lpm, e.whole = e.lpm.Clone(), true
	}
	var fresh []netip.Prefix
	for _, b := range added {
		fresh = append(append(fresh, b.Prefix), b.Except...)
	}
	slices.SortFunc(fresh, model.ComparePrefix) // a prefix before those in it
	for _, p := range fresh {
		e.own(p).uses++
	}
	for _, b := range removed {
		for p, was := range e.within(b.Prefix) {
			if was.holds(b.rank) {
				e.own(p).remove(b.rank)
			}
		}
		e.own(b.Prefix).uses--
		for _, p := range b.Except {
			e.own(p).uses--
		}
	}
	for _, b := range added {
		for p := range e.within(b.Prefix) {
			if !b.Excepts(p) {
				e.own(p).add(Step{Rank: b.rank, Rule: b.rule}, b.IncludeManaged)
			}
		}
	}
	e.finish()
}

type ruleBlock struct {
	ranked
	*policy.Block
}

func blocksOf(list []ranked) (out []ruleBlock) {
	for _, r := range list {
		for i := range r.rule.Peers {
			p := &r.rule.Peers[i]
			for j := range p.Blocks {
				out = append(out, ruleBlock{r, &p.Blocks[j]})
			}
		}
	}
	return out
}

// within returns the blocks in a prefix as they are now; they may be changed
// meanwhile.
func (e *blockEdit) within(p netip.Prefix) iter.Seq2[netip.Prefix, *Block] {
	type entry struct {
		prefix netip.Prefix
		block  *Block
	}
	var list []entry
	for p, b := range e.lpm.Subnets(p) {
		list = append(list, entry{p, b})
	}
	return func(yield func(netip.Prefix, *Block) bool) {
		for _, x := range list {
			if !yield(x.prefix, x.block) {
				return
			}
		}
	}
}

// own returns a block that may be written to.
func (e *blockEdit) own(p netip.Prefix) *Block {
	serial := e.table.serial
	was, known := e.lpm.Get(p)
	if known && was.made == serial {
		return was
	}
	b := &Block{made: serial, open: true}
	if known {
		b.uses = was.uses
	} else {
		_, was, _ = e.lpm.LookupPrefixLPM(p)
	}
	if was != nil {
		b.steps = [2][]Step{slices.Clone(was.of(0)), slices.Clone(was.of(1))}
	}
	if e.whole {
		e.lpm.Insert(p, b)
	} else {
		e.lpm = e.lpm.InsertPersist(p, b)
	}
	e.table.touched = append(e.table.touched, p.Masked())
	return b
}

// of returns the rules that hold the block, for peers of no workload and for
// workloads.
func (b *Block) of(kind int) []Step {
	switch {
	case b.open:
		return b.steps[kind]
	case kind == 0:
		return b.World.made()
	}
	return b.Managed.made()
}

func (b *Block) holds(rank uint64) bool {
	is := func(s Step) bool { return s.Rank == rank }
	return slices.ContainsFunc(b.of(0), is) || slices.ContainsFunc(b.of(1), is)
}

func (b *Block) remove(rank uint64) {
	for kind := range b.steps {
		b.steps[kind] = slices.DeleteFunc(b.steps[kind], func(s Step) bool { return s.Rank == rank })
	}
}

// add adds a step, once.
func (b *Block) add(s Step, managed bool) {
	for kind := range b.steps {
		if n := len(b.steps[kind]); (kind == 0 || managed) && (n == 0 || b.steps[kind][n-1].Rank != s.Rank) {
			b.steps[kind] = append(b.steps[kind], s)
		}
	}
}

// finish makes the classes of what has changed.
func (e *blockEdit) finish() {
	t := e.table
	t.lengths = maps.Clone(e.old.lengths)
	if t.lengths == nil {
		t.lengths = lengths{}
	}
	for _, p := range t.touched {
		if was := e.old.Block(p); was != nil {
			t.lengths.note(was.longest(), -1)
		}
		b, _ := e.lpm.Get(p)
		switch {
		case b.uses == 0 && e.whole:
			e.lpm.Delete(p)
			continue
		case b.uses == 0:
			e.lpm = e.lpm.DeletePersist(p)
			continue
		}
		b.World, b.Managed = e.class(b.steps[0]), e.class(b.steps[1])
		b.open, b.steps = false, [2][]Step{}
		t.lengths.note(b.longest(), 1)
	}
	t.blocks = e.lpm
}
