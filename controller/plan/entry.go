package plan

import (
	"cmp"
	"slices"
	"strings"

	"weft/model"
	"weft/policy"
)

// entry is a selector of subjects and the policies that name it.
type entry struct {
	number   uint32
	text     string
	selector model.Selector
	policies []*policy.Prepared
	people   int // of the policies, those of a person
	staged   int
	groups   []*rulegroup
	target   *target
}

// target says whom a selector finds. What plans have been given of it is never
// changed.
type target struct {
	key       string
	users     int
	workloads int
	hosts     hostCounts
}

func (t *target) add(host string, n int) {
	t.workloads += n
	t.hosts.add(host, n)
}

// found is a target as a plan has it.
type found struct {
	workloads int
	hosts     []string
}

// draft is a selector that only drafts name.
type draft struct {
	selector model.Selector
	target   *target
}

// rulegroup is those identities that the same selectors and mode hold for, and
// so the same rulesets.
type rulegroup struct {
	key              string
	mode             model.Mode
	entries          []*entry
	whos             []*who
	people           bool     // one of its policies is a person's
	enforced, staged *ruleset // staged is enforced where nothing is staged
}

func (g *rulegroup) drop(s *segments, x *who) {
	x.group = nil
	if g.whos = remove(g.whos, x); len(g.whos) > 0 {
		return
	}
	delete(s.groups, g.key)
	delete(s.dirty, g)
	for _, e := range g.entries {
		e.groups = remove(e.groups, g)
	}
	s.unuse(g)
}

// regroup puts an identity where its selectors and mode say.
func (s *segments) regroup(x *who) {
	key := make([]byte, 0, 4*len(x.entries)+12)
	for _, e := range x.entries {
		key = append(key, byte(e.number>>24), byte(e.number>>16), byte(e.number>>8), byte(e.number))
	}
	mode := cmp.Or(x.mode, model.ModeObserve)
	key = append(key, mode...)
	if x.group != nil && x.group.key == string(key) {
		return
	}
	if x.group != nil {
		x.group.drop(s, x)
	}
	g := s.groups[string(key)]
	if g == nil {
		g = &rulegroup{key: string(key), mode: mode, entries: slices.Clone(x.entries)}
		s.groups[g.key] = g
		for _, e := range g.entries {
			e.groups = append(e.groups, g)
		}
		s.dirty[g] = true
	}
	x.group = g
	g.whos = append(g.whos, x)
	s.touchWho(x)
}

func (s *segments) dropPolicy(p *model.Policy) {
	s.countKeys(p, -1)
	if p.Spec.StageOrDefault() == model.StageDraft {
		s.dropDraft(p)
		return
	}
	e := s.entries[p.Spec.Subject.Selector.String()]
	i := slices.IndexFunc(e.policies, func(x *policy.Prepared) bool { return x.Policy == p })
	for _, rules := range e.policies[i].Rules {
		for _, r := range rules {
			delete(s.rules, r.ID)
		}
	}
	e.policies = slices.Delete(e.policies, i, i+1)
	e.count(p, -1)
	s.change(e)
	if len(e.policies) == 0 {
		s.stale[e] = true
	}
}

func (e *entry) count(p *model.Policy, n int) {
	if p.Spec.Tier != model.TierFailsafe {
		e.people += n
	}
	if p.Spec.StageOrDefault() == model.StageStaged {
		e.staged += n
	}
}

// change makes all rulesets with an entry's policies again. Whether its
// identities are subjects at all may have changed too.
func (s *segments) change(e *entry) {
	for _, g := range e.groups {
		s.dirty[g] = true
	}
}

func (s *segments) addPolicy(p *model.Policy) error {
	s.countKeys(p, 1)
	if p.Spec.StageOrDefault() == model.StageDraft {
		s.addDraft(p)
		return nil
	}
	prepared, err := policy.Prepare(p)
	if err != nil {
		return err
	}
	for _, rules := range prepared.Rules {
		for _, r := range rules {
			if _, twice := s.rules[r.ID]; twice {
				return errTwice
			}
			s.rules[r.ID] = struct{}{}
		}
	}
	text := p.Spec.Subject.Selector.String()
	e := s.entries[text]
	if e == nil {
		s.numbered++
		e = &entry{number: s.numbered, text: text, selector: *p.Spec.Subject.Selector, target: &target{key: text}}
		s.entries[text] = e
		s.attach(e)
	}
	delete(s.stale, e)
	i, _ := slices.BinarySearchFunc(e.policies, prepared, byPolicy)
	e.policies = slices.Insert(e.policies, i, prepared)
	e.count(p, 1)
	s.change(e)
	return nil
}

// byPolicy is the order of policies: those of weft's own before a person's of
// the same name.
func byPolicy(a, b *policy.Prepared) int {
	return cmp.Or(strings.Compare(a.Policy.Metadata.Name, b.Policy.Metadata.Name), -cmp.Compare(failsafeRank(a), failsafeRank(b)))
}

func failsafeRank(p *policy.Prepared) int {
	if p.Policy.Spec.Tier == model.TierFailsafe {
		return 1
	}
	return 0
}

// attach gives a new entry to the identities it matches.
func (s *segments) attach(e *entry) {
	for it := s.ids.Members(e.selector).Iterator(); it.HasNext(); {
		x := s.byID[policy.Identity(it.Next())]
		x.entries = append(x.entries, e) // numbers only grow
		s.rekey[x] = true
		for _, h := range x.where {
			e.target.add(h.host, h.n)
		}
	}
	s.retarget[e.target] = true
}

// detach takes a stale entry from its identities.
func (s *segments) detach(e *entry) {
	for it := s.ids.Members(e.selector).Iterator(); it.HasNext(); {
		x := s.byID[policy.Identity(it.Next())]
		x.entries = slices.DeleteFunc(x.entries, func(o *entry) bool { return o == e })
		s.rekey[x] = true
	}
	delete(s.entries, e.text)
	s.targets.delete(e.target.key)
	delete(s.retarget, e.target)
	s.unasked[e.text] = true
}
