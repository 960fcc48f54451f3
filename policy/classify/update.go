package classify

import (
	"cmp"
	"maps"
	"slices"

	"weft/model"
	"weft/policy"
)

// update makes the table that the edits lead to.
func (e *edits) update(old *Table, defaults []policy.Default, members Members) *Table {
	u := &update{edits: e, old: old, lists: map[place][]Step{}}
	t := &Table{Defaults: defaults, rules: e.rules, ranks: e.ranks, passes: e.passes(old.passes), rejects: old.rejects, serial: serials.Add(1), base: old.serial}
	u.table, u.classes = t, newClasses(t.passes)
	u.sort()
	u.kinds()
	changed := u.identities(members)
	if len(e.removed)+len(e.added) == 0 && !changed && old.serial != 0 && slices.EqualFunc(defaults, old.Defaults, SameDefault) {
		return old
	}
	u.names()
	u.blocks()
	return t
}

// SameDefault says whether two defaults are the same.
func SameDefault(a, b policy.Default) bool {
	return a.Action == b.Action && slices.Equal(a.Processes, b.Processes)
}

// update is one on the way.
type update struct {
	*edits
	*classes
	old, table *Table
	lists      map[place][]Step // what is added to those that change
	selected   map[string]model.Selector
}

// sort puts every rule that is removed or added to the lists it is on.
func (u *update) sort() {
	u.selected = map[string]model.Selector{}
	for _, r := range u.removed {
		u.each(r, func(p place, _ Step) { u.lists[p] = nil })
		if r.rule.Action == model.ActionReject {
			u.table.rejects--
		}
	}
	for _, r := range u.added {
		u.each(r, func(p place, s Step) { u.lists[p] = append(u.lists[p], s) })
		if r.rule.Action == model.ActionReject {
			u.table.rejects++
		}
	}
}

// each visits the lists that a rule is on.
func (u *update) each(r ranked, visit func(place, Step)) {
	if len(r.rule.Peers) == 0 {
		visit(place{kind: anyPeer}, Step{Rank: r.rank, Rule: r.rule})
	}
	for i := range r.rule.Peers {
		p := &r.rule.Peers[i]
		step := Step{Rank: r.rank, Rule: r.rule, Peer: p.Processes}
		if p.Selector != nil {
			text := p.Selector.String()
			u.selected[text] = *p.Selector
			visit(place{kind: selectedPeer, selector: text}, step)
		}
		for n, e := range model.Entities {
			bit := policy.EntitySet(1 << n)
			switch {
			case p.Entities&bit == 0:
			case e == model.EntityAny:
				visit(place{kind: anyPeer}, step)
			case e == model.EntityWorld:
				visit(place{kind: worldPeer}, step)
			case e == model.EntityFleet:
				visit(place{kind: fleetPeer}, step)
			default:
				visit(place{kind: entityPeer, entity: bit}, step)
			}
		}
	}
}

// edit returns a list without what is gone and with what is added.
func (u *update) edit(list, added []Step) []Step {
	out := make([]Step, 0, len(list)+len(added))
	for _, s := range list {
		if !u.gone[s.Rank] {
			out = append(out, s)
		}
	}
	out = append(out, added...)
	slices.SortStableFunc(out, func(a, b Step) int { return cmp.Compare(a.Rank, b.Rank) })
	return out
}

// kinds makes the classes of what holds for every peer, the world, the fleet and
// the special entities.
func (u *update) kinds() {
	t, old := u.table, u.old
	t.lists = maps.Clone(old.lists)
	t.Any, t.World, t.Fleet, t.Entities, t.EntityMask = old.Any, old.World, old.Fleet, old.Entities, old.EntityMask
	entities := false
	for p, added := range u.lists {
		if p.kind == selectedPeer {
			continue
		}
		list := u.edit(old.lists[p], added)
		if t.lists[p] = list; len(list) == 0 {
			delete(t.lists, p)
		}
		switch p.kind {
		case anyPeer:
			t.Any = u.class(list)
		case worldPeer:
			t.World = u.class(list)
		case fleetPeer:
			t.Fleet = u.class(list)
		case entityPeer:
			entities = true
		}
	}
	if !entities {
		return
	}
	t.Entities, t.EntityMask = map[policy.EntitySet]*Class{}, 0
	for p := range t.lists {
		t.EntityMask |= p.entity
	}
	for set := t.EntityMask; set != 0; set = (set - 1) & t.EntityMask { // every subset but the empty one
		var steps []Step
		for n := range model.Entities {
			if bit := set & (1 << n); bit != 0 {
				steps = append(steps, t.lists[place{kind: entityPeer, entity: bit}]...)
			}
		}
		t.Entities[set] = u.class(steps)
	}
}

// names keeps the peers by name, in the order of their rules.
func (u *update) names() {
	u.table.names = u.old.names
	named := func(r ranked) bool {
		return slices.ContainsFunc(r.rule.Peers, func(p policy.Peer) bool { return p.Selector == nil && len(p.Names) > 0 })
	}
	if !slices.ContainsFunc(u.removed, named) && !slices.ContainsFunc(u.added, named) {
		return
	}
	var out []byName
	for _, n := range u.old.names {
		if !u.gone[n.step.Rank] {
			out = append(out, n)
		}
	}
	for _, r := range u.added {
		for _, p := range r.rule.Peers {
			if p.Selector == nil && len(p.Names) > 0 {
				out = append(out, byName{p.Names, Step{Rank: r.rank, Rule: r.rule, Peer: p.Processes}})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b byName) int { return cmp.Compare(a.step.Rank, b.step.Rank) })
	u.table.names = out
}
