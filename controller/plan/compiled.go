package plan

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"runtime"
	"slices"
	"sync"

	"weft/model"
	"weft/policy"
	"weft/wire/policywire"
	"weft/wire/wirepb"
)

// ruleset is one in the form for the wire, and what it needs to know of peers.
type ruleset struct {
	wire      *wirepb.Ruleset
	selectors []model.Selector // of peers, sorted by text and distinct
	texts     []string
	// everybody is set where a rule asks whether a peer is of the fleet at all.
	everybody bool
}

// rebuild makes the rulesets of those groups whose policies are others. Compiling
// takes nothing but policies, so that it is spread over all processors.
func (s *segments) rebuild() {
	groups := slices.Collect(maps.Keys(s.dirty))
	next := make([]rulegroup, len(groups))
	var all sync.WaitGroup
	workers := max(1, min(runtime.GOMAXPROCS(0), len(groups)/64))
	for n := range workers {
		all.Go(func() {
			for i := n; i < len(groups); i += workers {
				next[i] = groups[i].compile()
			}
		})
	}
	all.Wait()
	for i, g := range groups {
		n := &next[i]
		same := g.enforced != nil && g.people == n.people && g.enforced.wire.Key == n.enforced.wire.Key && g.staged.wire.Key == n.staged.wire.Key
		g.people = n.people
		if same {
			continue
		}
		s.use(g, n)
		for _, x := range g.whos {
			s.touchWho(x)
		}
	}
}

// compile makes a group's rulesets.
func (g *rulegroup) compile() (next rulegroup) {
	var all []*policy.Prepared
	staged := false
	for _, e := range g.entries {
		staged, next.people = staged || e.staged > 0, next.people || e.people > 0
		all = append(all, e.policies...)
	}
	if len(g.entries) > 1 {
		slices.SortFunc(all, byPolicy)
	}
	active := all
	if staged {
		active = slices.DeleteFunc(slices.Clone(all), func(p *policy.Prepared) bool { return p.Policy.Spec.StageOrDefault() == model.StageStaged })
	}
	next.enforced = compile(active, g.mode)
	if next.staged = next.enforced; staged {
		next.staged = compile(all, g.mode)
	}
	return next
}

// compile makes a ruleset of policies.
func compile(about []*policy.Prepared, mode model.Mode) *ruleset {
	r := policy.Assemble(about, mode)
	out := &ruleset{wire: policywire.Encode(r)}
	fleet := policy.EntityBit(model.EntityFleet) | policy.EntityBit(model.EntityWorld)
	for _, t := range []*policy.Table{&r.Ingress, &r.Egress} {
		out.selectors = append(out.selectors, t.Selectors()...)
		for _, rule := range t.Rules {
			for _, p := range rule.Peers {
				out.everybody = out.everybody || len(p.Blocks) > 0 || p.Entities&fleet != 0
			}
		}
	}
	if len(r.Ingress.Selectors()) > 0 && len(r.Egress.Selectors()) > 0 { // each is sorted and distinct
		byText := make(map[string]model.Selector, len(out.selectors))
		for _, sel := range out.selectors {
			byText[sel.String()] = sel
		}
		out.selectors = out.selectors[:0]
		for _, text := range slices.Sorted(maps.Keys(byText)) {
			out.selectors = append(out.selectors, byText[text])
		}
	}
	for _, sel := range out.selectors {
		out.texts = append(out.texts, sel.String())
	}
	return out
}

// use gives a group its rulesets, and notes which selectors of peers it names.
func (s *segments) use(g *rulegroup, next *rulegroup) {
	before := g.texts()
	g.enforced, g.staged = next.enforced, next.staged
	after := g.texts()
	for len(before)+len(after) > 0 {
		switch {
		case len(before) == 0 || len(after) > 0 && after[0] < before[0]:
			s.uses[after[0]] = append(s.uses[after[0]], g)
			after = after[1:]
		case len(after) == 0 || before[0] < after[0]:
			s.drop(before[0], g)
			before = before[1:]
		default:
			before, after = before[1:], after[1:]
		}
	}
}

func (s *segments) unuse(g *rulegroup) {
	for _, text := range g.texts() {
		s.drop(text, g)
	}
}

func (s *segments) drop(text string, g *rulegroup) {
	if s.uses[text] = remove(s.uses[text], g); len(s.uses[text]) > 0 {
		return
	}
	delete(s.uses, text)
	s.unasked[text] = true
}

// texts are the selectors of peers in both rulesets, sorted and distinct.
func (g *rulegroup) texts() []string {
	switch {
	case g.enforced == nil:
		return nil
	case g.staged == g.enforced:
		return g.enforced.texts
	}
	out := slices.Concat(g.enforced.texts, g.staged.texts)
	slices.Sort(out)
	return slices.Compact(out)
}

// memberList is whom a selector of peers matches.
type memberList struct {
	wire   *wirepb.SelectorMembers
	digest [32]byte
}

// list returns whom a selector matches, as of now.
func (s *segments) list(text string, sel model.Selector) *memberList {
	l := s.lists[text]
	if l == nil {
		l = &memberList{wire: &wirepb.SelectorMembers{Selector: text, Identities: s.ids.Members(sel).ToArray()}}
		b := make([]byte, 0, len(text)+4*len(l.wire.Identities)+1)
		b = append(append(b, text...), 0)
		for _, id := range l.wire.Identities {
			b = binary.BigEndian.AppendUint32(b, id)
		}
		l.digest = sha256.Sum256(b)
		s.lists[text] = l
	}
	return l
}

// touchWho has the hosts of an identity written again.
func (s *segments) touchWho(x *who) {
	for _, h := range x.where {
		if part := s.hosts[h.host]; part != nil {
			s.touched[part] = true
		}
	}
}

// touchPeers has those hosts written again whose rulesets name a selector, since
// its members, or their addresses, are others.
func (s *segments) touchPeers(text string) {
	for p := range s.packsOf[text] {
		p.stale = true
	}
	for _, g := range s.uses[text] {
		for _, x := range g.whos {
			for _, h := range x.where {
				if part := s.hosts[h.host]; part != nil {
					s.touched[part] = true
				}
			}
		}
	}
}
