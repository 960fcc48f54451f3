package bpf

import (
	"fmt"
	"slices"

	"weft/model"
	"weft/policy/classify"
)

// tableMaps are the maps of tables, in the order in which they are written: what
// is referred to before what refers to it.
type tableMaps struct {
	steps      *mirror[uint32, policyStep]
	conditions *mirror[policyConditionKey, policyCondition]
	defaults   *mirror[uint32, policyChain]
	ports      *mirror[policyPortKey, policyChain]
	blocks     *mirror[policyBlockKey, policyBlock]
	identities *mirror[policyIdentityKey, uint32]
	tables     *mirror[uint32, policyTable]
}

// pending is a mirror of whatever map.
type pending interface {
	write() error
	erase() error
	compare() (int, error)
	forget()
	spare()
	disown()
	sweep()
}

func (m *tableMaps) all() []pending {
	return []pending{m.steps, m.conditions, m.defaults, m.ports, m.blocks, m.identities, m.tables}
}

// store is what the maps of tables hold. All of it has numbers that are never
// given twice, so that what is new stands beside what is old until something turns
// to it; who uses what is counted, and what nobody does is deleted. Chains and
// classes that say the same are there once.
//
// A change goes in steps: begin; table for each that is wanted; write, after which
// what is new is there and nobody looks at it; turn and turned, which change the
// tables that keep their number; and retire, once no program can see what was
// before. undo takes back what was done until write, where that fails.
type store struct {
	maps    *tableMaps
	last    *counters // numbers given
	resolve func(model.PolicyProcess) (policyCondition, error)

	tables     map[*classify.Table]*placed
	numbers    map[uint32]*placed
	classes    map[*classify.Class]*heldClass
	byContent  map[string]*storedClass
	chains     map[string]*storedChain
	conditions map[string]*storedCondition

	// Of the change that is being made.
	heirs  map[*classify.Table]*placed // tables that may take the place of one
	wanted map[*placed]bool
	fresh  []*placed
	turns  []*turn
	taken  []*classify.Class
}

// counters are the last numbers given.
type counters struct{ table, step, class, condition uint32 }

// placed is a table in the maps.
type placed struct {
	number   uint32
	table    *classify.Table
	fallback *storedChain
}

type heldClass struct {
	*storedClass
	uses int
}

type storedClass struct {
	number uint32
	key    string
	uses   int
	ports  []policyPortKey
	chains []*storedChain
}

type storedChain struct {
	policyChain
	key        string
	uses       int
	conditions []*storedCondition
}

type storedCondition struct {
	number       uint32
	key          string
	uses         int
	processes    []model.PolicyProcess
	alternatives []policyCondition
}

// newStore makes an empty store: what the maps hold is deleted when the first
// change is done.
func newStore(maps *tableMaps, last *counters, resolve func(model.PolicyProcess) (policyCondition, error)) *store {
	for _, m := range maps.all() {
		m.forget()
		m.disown()
	}
	return &store{maps: maps, last: last, resolve: resolve, tables: map[*classify.Table]*placed{}, numbers: map[uint32]*placed{}, classes: map[*classify.Class]*heldClass{},
		byContent: map[string]*storedClass{}, chains: map[string]*storedChain{}, conditions: map[string]*storedCondition{}}
}

func (s *store) begin(heirs map[*classify.Table]*placed) {
	s.heirs, s.wanted = heirs, map[*placed]bool{}
	s.fresh, s.turns, s.taken = nil, nil, nil
}

// write writes what is new.
func (s *store) write() error {
	for _, m := range s.maps.all() {
		if err := m.write(); err != nil {
			return err
		}
	}
	return nil
}

// retire deletes what nobody uses any more.
func (s *store) retire() error {
	for _, t := range s.turns {
		s.give(t.before...)
		delete(s.tables, t.placed.table)
		t.placed.table = t.table
	}
	for _, p := range s.tables {
		if !s.wanted[p] {
			s.remove(p)
		}
	}
	s.begin(nil)
	return s.erase()
}

func (s *store) erase() error {
	all := s.maps.all()
	slices.Reverse(all)
	for _, m := range all {
		m.sweep()
		if err := m.erase(); err != nil {
			return err
		}
	}
	return nil
}

// undo takes back what was begun.
func (s *store) undo() error {
	for _, m := range s.maps.all() {
		m.forget()
	}
	for _, t := range s.turns {
		delete(s.tables, t.table)
	}
	for _, p := range s.fresh {
		s.unplace(p)
	}
	s.give(s.taken...)
	s.begin(nil)
	all := s.maps.all()
	slices.Reverse(all)
	for _, m := range all { // not orphans, which may be in force
		m.spare()
		if err := m.erase(); err != nil {
			return err
		}
	}
	return nil
}

// remove takes a table away, with what only it uses.
func (s *store) remove(p *placed) {
	s.unplace(p)
	t := p.table
	s.give(t.Any, t.World, t.Fleet)
	for _, c := range t.Entities {
		s.give(c)
	}
	for _, m := range t.Identities {
		s.give(m.Class())
	}
	for _, b := range t.Blocks() {
		s.give(b.World, b.Managed)
	}
}

// unplace takes away what is under the table's own number.
func (s *store) unplace(p *placed) {
	delete(s.tables, p.table)
	delete(s.numbers, p.number)
	s.maps.tables.unset(p.number)
	s.maps.defaults.unset(p.number)
	s.giveChain(p.fallback)
	for _, m := range p.table.Identities {
		s.maps.identities.unset(policyIdentityKey{Table: p.number, Identity: uint32(m.Identity)})
	}
	for prefix := range p.table.Blocks() {
		s.maps.blocks.unset(blockKey(p.number, prefix))
	}
}

// take counts one more user of a class, writes it where it is not there, and
// returns its number.
func (s *store) take(c *classify.Class) (uint32, error) {
	if c == nil {
		return 0, nil
	}
	held := s.classes[c]
	if held == nil {
		stored, err := s.class(c)
		if err != nil {
			return 0, err
		}
		stored.uses++
		held = &heldClass{storedClass: stored}
		s.classes[c] = held
	}
	held.uses++
	s.taken = append(s.taken, c)
	return held.number, nil
}

// give counts one user less of each class.
func (s *store) give(list ...*classify.Class) {
	for _, c := range list {
		held := s.classes[c]
		if held == nil {
			continue
		}
		if held.uses--; held.uses > 0 {
			continue
		}
		delete(s.classes, c)
		x := held.storedClass
		if x.uses--; x.uses > 0 {
			continue
		}
		delete(s.byContent, x.key)
		for _, k := range x.ports {
			s.maps.ports.unset(k)
		}
		for _, chain := range x.chains {
			s.giveChain(chain)
		}
	}
}

func (s *store) giveChain(c *storedChain) {
	if c == nil {
		return
	}
	if c.uses--; c.uses > 0 {
		return
	}
	delete(s.chains, c.key)
	for i := range c.Count {
		s.maps.steps.unset(c.First + i)
	}
	s.giveConditions(c.conditions)
}

func (s *store) giveConditions(list []*storedCondition) {
	for _, c := range list {
		if c.uses--; c.uses > 0 {
			continue
		}
		delete(s.conditions, c.key)
		for i := range c.alternatives {
			s.maps.conditions.unset(policyConditionKey{Condition: c.number, Alternative: uint32(i)})
		}
	}
}

// stale says whether processes are recognised otherwise than when they were
// written: users and cgroups come and go.
func (s *store) stale() (bool, error) {
	for _, c := range s.conditions {
		for i, p := range c.processes {
			now, err := s.resolve(p)
			if err != nil {
				return false, fmt.Errorf("recognise %s: %w", c.key, err)
			}
			if now != c.alternatives[i] {
				return true, nil
			}
		}
	}
	return false, nil
}
