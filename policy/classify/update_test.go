package classify

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"

	"weft/model"
	"weft/policy"
	"weft/policy/policytest"
)

// A table made from another is the one that would be made from nothing, and the
// other stays what it was.
func TestUpdateEqualsBuild(t *testing.T) {
	worlds := 200
	if testing.Short() {
		worlds = 30
	}
	kept, anew := 0, 0
	for seed := range uint64(worlds) {
		g := policytest.New(seed)
		e := newEditor(g)
		table := Build(e.table(), e.members)
		for step := range 8 {
			e.edit()
			before := describe(table)
			next := Update(table, e.table(), e.members)
			if got, want := describe(next), describe(Build(e.table(), e.members)); got != want {
				t.Fatalf("seed %d step %d:\ngot\n%s\nwant\n%s", seed, step, got, want)
			}
			if after := describe(table); after != before {
				t.Fatalf("seed %d step %d: the old table has changed:\nfrom\n%s\nto\n%s", seed, step, before, after)
			}
			if again := Update(next, e.table(), e.members); again != next {
				t.Fatalf("seed %d step %d: a table was made where nothing had changed", seed, step)
			}
			if _, known := next.Since(table); known {
				kept++
			} else if next != table {
				anew++
			}
			table = next
		}
	}
	t.Logf("%d tables made from another, %d from nothing", kept, anew)
	if kept < 5*worlds {
		t.Errorf("%d tables made from another, %d from nothing", kept, anew)
	}
}

// One rule more shares all that it is not about.
func TestUpdateTouchesWhatIsEdited(t *testing.T) {
	e := newEditor(policytest.New(1))
	e.rules = nil
	for i := range 1000 {
		e.rules = append(e.rules, blockRule(i))
	}
	old := Build(e.table(), nil)
	e.rules = slices.Insert(e.rules, 500, blockRule(5000))
	now := Update(old, e.table(), nil)
	if c, known := now.Since(old); !known || c.Names || len(c.Blocks) != 1 || c.Blocks[0].String() != "10.0.19.136/32" {
		t.Errorf("changes %+v, known %t", c, known)
	}
	shared := 0
	for p, b := range now.Blocks() {
		if old.Block(p) == b {
			shared++
		}
	}
	if shared != 1000 {
		t.Errorf("%d blocks are shared", shared)
	}
}

// Where rules are put again and again into one place, ranks run out and are given
// anew.
func TestRanksRunOut(t *testing.T) {
	e := newEditor(policytest.New(1))
	e.rules = []*policy.Rule{blockRule(0), blockRule(1)}
	table, renumbered := Build(e.table(), nil), 0
	for i := range 300 {
		e.rules = slices.Insert(e.rules, 1, blockRule(2+i))
		next := Update(table, e.table(), nil)
		if _, known := next.Since(table); !known {
			renumbered++
		}
		if table = next; !slices.IsSorted(table.ranks) || len(slices.Compact(slices.Clone(table.ranks))) != len(e.rules) {
			t.Fatalf("ranks %x", table.ranks)
		}
	}
	if got, want := describe(table), describe(Build(e.table(), nil)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if renumbered == 0 || renumbered > 15 {
		t.Errorf("renumbered %d times", renumbered)
	}
}

func blockRule(i int) *policy.Rule {
	prefix, err := model.ParseCIDR(fmt.Sprintf("10.%d.%d.%d/32", i>>16, i>>8&255, i&255))
	if err != nil {
		panic(err)
	}
	return &policy.Rule{ID: policy.RuleID(i + 1), Tier: model.TierApplication, Action: model.ActionAllow,
		Peers: []policy.Peer{{Blocks: []policy.Block{{Prefix: prefix, IncludeManaged: true}}}}, Ports: []policy.Port{{Protocol: 6, First: 80, Last: 80}}}
}

// editor changes a list of rules, and who is who.
type editor struct {
	policytest.Gen
	rules    []*policy.Rule
	pool     []*policy.Rule // of other worlds, to add
	defaults []policy.Default
	who      map[string]*roaring.Bitmap
	last     policy.RuleID
}

func newEditor(g policytest.Gen) *editor {
	e := &editor{Gen: g, who: map[string]*roaring.Bitmap{}, defaults: []policy.Default{{Action: model.ActionDeny}}}
	for len(e.pool) < 30 {
		w := g.World()
		set, err := policy.Compile(w)
		if err != nil {
			panic(err)
		}
		for _, r := range set.Rulesets() {
			e.pool = slices.Concat(e.pool, r.Ingress.Rules, r.Egress.Rules)
		}
	}
	for range g.IntN(20) {
		e.add()
	}
	return e
}

func (e *editor) fresh() *policy.Rule {
	r := *policytest.Pick(e.Gen, e.pool...)
	e.last++
	r.ID = e.last
	return &r
}

func (e *editor) add() { e.rules = slices.Insert(e.rules, e.IntN(len(e.rules)+1), e.fresh()) }

func (e *editor) edit() {
	e.rules = slices.Clone(e.rules)
	for range 1 + e.IntN(3) {
		switch n := len(e.rules); {
		case n == 0 || e.IntN(3) == 0:
			e.add()
		case e.IntN(4) == 0:
			i := e.IntN(n)
			e.rules = slices.Delete(e.rules, i, i+1)
		case e.IntN(4) == 0: // one moves
			i := e.IntN(n)
			r := e.rules[i]
			e.rules = slices.Delete(e.rules, i, i+1)
			e.rules = slices.Insert(e.rules, e.IntN(n), r)
		case e.IntN(3) == 0: // somebody starts, or ends
			for text, b := range e.who {
				b = b.Clone()
				b.Flip(uint64(e.IntN(6)+1), uint64(e.IntN(6)+1))
				e.who[text] = b
			}
		case e.IntN(8) == 0:
			e.defaults = []policy.Default{{Action: policytest.Pick(e.Gen, model.ActionAllow, model.ActionDeny)}}
		default: // one is another
			r := e.fresh()
			r.ID = e.rules[e.IntN(n)].ID
			e.rules[slices.IndexFunc(e.rules, func(x *policy.Rule) bool { return x.ID == r.ID })] = r
		}
	}
	slices.SortStableFunc(e.rules, func(a, b *policy.Rule) int { // tiers stand together
		return cmp.Compare(slices.Index(model.Tiers, a.Tier), slices.Index(model.Tiers, b.Tier))
	})
}

// table hands out copies of some rules, as one does that reads them off a wire.
func (e *editor) table() *policy.Table {
	rules := slices.Clone(e.rules)
	for i, r := range rules {
		if e.IntN(2) == 0 {
			same := *r
			rules[i] = &same
		}
	}
	return &policy.Table{Rules: rules, Defaults: e.defaults}
}

func (e *editor) members(s model.Selector) *roaring.Bitmap {
	b := e.who[s.String()]
	if b == nil {
		b = roaring.New()
		for range e.IntN(5) {
			b.Add(uint32(1 + e.IntN(6)))
		}
		e.who[s.String()] = b
	}
	return b
}

// describe says all that a table says, with places of rules for their ranks.
func describe(t *Table) string {
	places := map[uint64]int{}
	for i, r := range t.ranks {
		places[r] = i
	}
	class := func(c *Class) string {
		var b strings.Builder
		for i := range c.len() {
			e := &c.Entries[i]
			fmt.Fprintf(&b, " %v:", e.PortKey)
			for _, s := range e.Chain {
				fmt.Fprintf(&b, "[%d %s %v]", places[s.Rank], s.Rule, s.Peer)
			}
		}
		return b.String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d rules, %d steps, rejects %t, lacks %q, defaults %v\n", len(t.rules), t.Steps(), t.Rejects(), t.Lacks, t.Defaults)
	for _, x := range []struct {
		what  string
		class *Class
	}{{"any", t.Any}, {"world", t.World}, {"fleet", t.Fleet}} {
		fmt.Fprintf(&b, "%s%s\n", x.what, class(x.class))
	}
	for _, m := range t.Identities {
		fmt.Fprintf(&b, "identity %d%s\n", m.Identity, class(m.Class()))
	}
	for p, x := range t.blocks.AllSorted() {
		fmt.Fprintf(&b, "block %s world%s managed%s\n", p, class(x.World), class(x.Managed))
	}
	for _, set := range slices.Sorted(maps.Keys(t.Entities)) {
		fmt.Fprintf(&b, "entities %s%s\n", set, class(t.Entities[set]))
	}
	for _, n := range t.names {
		fmt.Fprintf(&b, "names %v %d\n", n.patterns, places[n.step.Rank])
	}
	return b.String()
}
