package bpf

import (
	"maps"
	"testing"

	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
	"weft/policy/classify"
	"weft/policy/policytest"
)

// Where a table takes the place of another under its number, each packet is judged
// by the one or by the other after every single write, and by the new one at the
// end. Nothing is left of tables that nobody wants.
func TestTurns(t *testing.T) {
	d := open(t)
	x := &turner{T: t, d: d}
	for seed := range uint64(200) {
		x.world(seed)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d tables anew; turned: %d heads, %d identities, %d blocks, %d alike; %d verdicts", x.anew, x.heads, x.identities, x.blocks, x.alike, x.verdicts)
	if min(x.anew, x.heads, x.identities, x.blocks) == 0 {
		t.Error("not all ways were gone")
	}
	d.store.begin(nil)
	if err := d.store.retire(); err != nil {
		t.Fatal(err)
	}
	for what, n := range map[string]int{"steps": len(d.steps.have), "conditions": len(d.conditions.have), "defaults": len(d.defaults.have), "ports": len(d.ports.have), "blocks": len(d.blocks.have),
		"identities": len(d.identities.have), "tables": len(d.tables.have), "classes": len(d.store.classes) + len(d.store.byContent), "chains": len(d.store.chains)} {
		if n > 0 {
			t.Errorf("%d %s are left", n, what)
		}
	}
}

type turner struct {
	*testing.T
	d                                                *Driver
	anew, heads, identities, blocks, alike, verdicts int
}

// at is one direction of an identity's ruleset.
type at struct {
	id  policy.Identity
	dir policy.Direction
}

func (x *turner) world(seed uint64) {
	g := policytest.New(seed)
	w := g.World()
	tables := map[at]*classify.Table{}
	for step := range 6 {
		for range min(step, 1) { // nothing is edited first
			if n := len(w.Policies); n > 0 {
				w.Policies = append(w.Policies[:n-1:n-1], g.Policy(n))
			}
			if g.IntN(2) == 0 {
				w.Policies = append(w.Policies[:len(w.Policies):len(w.Policies)], g.Policy(100+step))
			}
		}
		set, err := policy.Compile(w)
		if err != nil {
			x.Fatal(err)
		}
		next := map[at]*classify.Table{}
		for _, id := range w.Identities.All() {
			r := set.For(id)
			next[at{id, policy.Ingress}] = classify.Update(tables[at{id, policy.Ingress}], &r.Ingress, w.Identities.Members)
			next[at{id, policy.Egress}] = classify.Update(tables[at{id, policy.Egress}], &r.Egress, w.Identities.Members)
		}
		x.change(g, w, tables, next)
		if x.Failed() {
			x.Errorf("seed %d step %d", seed, step)
			return
		}
		tables = next
	}
}

func (x *turner) change(g policytest.Gen, w *policy.World, old, next map[at]*classify.Table) {
	s := x.d.store
	heirs := map[*classify.Table]*placed{}
	for k, t := range next {
		if p := s.tables[old[k]]; p != nil && t != old[k] && oneKind(old[k], t) {
			heirs[t] = p
		}
	}
	must := func(err error) {
		x.Helper()
		if err != nil {
			x.Fatal(err)
		}
	}
	s.begin(heirs)
	for k, t := range next {
		_, err := s.table(t)
		must(err)
		if old[k] != nil && heirs[t] == nil && t != old[k] {
			x.anew++
		}
	}
	must(s.write())
	var packets []policy.Packet
	for range 12 {
		packets = append(packets, g.Packet(w.Identities.All()))
	}
	for _, turn := range s.turns {
		switch {
		case turn.head != nil:
			x.heads++
		case len(turn.identities.keys)+len(turn.identities.gone) > 0:
			x.identities++
		case len(turn.blocks.keys)+len(turn.blocks.gone) > 0:
			x.blocks++
		default:
			x.alike++
		}
		inSteps(turn.blocks, s.maps.blocks, must, func() { x.judge(turn, packets, false) })
		inSteps(turn.identities, s.maps.identities, must, func() { x.judge(turn, packets, false) })
	}
	must(s.turn())
	must(s.turned())
	for _, turn := range s.turns {
		x.judge(turn, packets, true)
	}
	must(s.retire())
	for _, p := range s.tables {
		x.judge(&turn{placed: p, table: p.table}, packets, true)
	}
}

// inSteps makes the changes one by one.
func inSteps[K, V comparable](c changes[K, V], m *mirror[K, V], must func(error), after func()) {
	for i := range c.keys {
		must((&changes[K, V]{keys: c.keys[i : i+1], values: c.values[i : i+1]}).write(m))
		after()
	}
	for i := range c.gone {
		must((&changes[K, V]{gone: c.gone[i : i+1]}).erase(m))
		after()
	}
}

// judge asks the kernel.
func (x *turner) judge(turn *turn, packets []policy.Packet, done bool) {
	for i := range packets {
		p := &packets[i]
		for _, dir := range []policy.Direction{policy.Ingress, policy.Egress} {
			subject, peer := p.Ends(dir)
			peer.Names, peer.Process.Cgroup = nil, "" // what the programs know of no peer
			f := policyFrame{}
			f.Query.Table = turn.placed.number
			fillQuery(&f, p, subject, peer)
			got := askKernel(x.T, x.d, &f)
			says := func(t *classify.Table) bool {
				v := t.Judge(subject, peer, p.Protocol, p.Key())
				var rule, logged policy.RuleID
				if v.Rule != nil {
					rule = v.Rule.ID
				}
				if v.Logged != nil {
					logged = v.Logged.ID
				}
				return action(uint8(got.Action)) == v.Action && policy.RuleID(got.Rule) == rule && policy.RuleID(got.Logged) == logged && (got.Stateless == 0) == v.Stateful
			}
			x.verdicts++
			if !says(turn.table) && (done || !says(turn.placed.table)) {
				x.Errorf("done %t, %s %+v: the kernel says %+v", done, dir, *p, got)
			}
		}
	}
}

// Which subjects are judged by a table decides whether another may take its place.
func TestHeirs(t *testing.T) {
	d := open(t)
	one, two := manyRules(100), manyRules(101)
	root := d.cfg.CgroupRoot
	first := stateOf(root, one, nil)
	number := func() uint32 {
		for _, slot := range d.slots.have {
			return slot.Tables[policy.Ingress]
		}
		return 0
	}
	if err := d.Apply(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	n := number()
	second := stateOf(root, two, first)
	if err := d.Apply(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if number() != n {
		t.Error("one rule more: another number")
	}
	// The old table is wanted besides.
	third := stateOf(root, one, second)
	both := *third
	both.Subjects = append(both.Subjects, second.Subjects[0])
	both.Subjects[1].Workload, both.Subjects[1].Kind, both.Subjects[1].Cgroup = "unit", model.WorkloadUnit, root+"/not-there"
	if h := d.heirs(&both); len(h) > 0 {
		t.Errorf("a table that is wanted yet is taken over: %d", len(h))
	}
	if h := d.heirs(third); len(h) != 1 { // egress stays
		t.Errorf("%d heirs", len(h))
	}
	// One that has gone is judged by its table until its slot is deleted.
	gone := *third
	gone.Subjects = nil
	if h := d.heirs(&gone); len(h) > 0 {
		t.Errorf("a table of nobody is taken over: %d", len(h))
	}
}

// What cannot be put in force leaves nothing, and what is in force as it is.
func TestFailedApplyLeavesNothing(t *testing.T) {
	d := open(t)
	root := d.cfg.CgroupRoot
	good := stateOf(root, manyRules(100), nil)
	if err := d.Apply(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	held := func() [10]int {
		return [10]int{len(d.steps.have), len(d.conditions.have), len(d.defaults.have), len(d.ports.have), len(d.blocks.have), len(d.identities.have), len(d.tables.have), len(d.store.classes), len(d.store.chains), len(d.store.tables)}
	}
	before, slots := held(), maps.Clone(d.slots.have)
	bad := manyRules(103)
	bad.Ingress.Rules[50] = &policy.Rule{ID: 51, Tier: model.TierApplication, Action: model.ActionAllow, Processes: make([]model.PolicyProcess, maxAlternatives+1), Peers: bad.Ingress.Rules[50].Peers}
	for _, from := range []*datapath.State{good, nil} { // in place, and under new numbers
		if err := d.Apply(t.Context(), stateOf(root, bad, from)); err == nil {
			t.Fatal("applied")
		}
		if after := held(); after != before || !maps.Equal(d.slots.have, slots) {
			t.Errorf("held %v, then %v", before, after)
		}
	}
	if err := d.Apply(t.Context(), stateOf(root, manyRules(101), good)); err != nil || !maps.Equal(d.slots.have, slots) {
		t.Errorf("one rule more afterwards: %v", err)
	}
	if found, err := d.store.maps.blocks.compare(); err != nil || found > 0 {
		t.Errorf("%d blocks are not as they should be: %v", found, err)
	}
}
