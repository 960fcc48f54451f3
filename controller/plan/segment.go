package plan

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"weft/model"
	"weft/policy"
	"weft/wire/wirepb"
)

// errTwice says that policies do not compile; what is wrong policy.Compile says.
var errTwice = errors.New("two rules have one id")

// segments keeps everything that sections of policy follow from, and for each
// thing who depends on it, so that a change costs what it touches. It holds no
// more than what the present state says: made anew from that state it is the
// same but for numbers that nobody sees.
//
//	policy ─ entry (selector of subjects) ─┐
//	                                       ├─ who (identity) ─ group ─ rulesets ─┐
//	workload ─ labels ─────────────────────┘                      │              ├─ host
//	workload ─ addresses ─ book ─ who ─ selectors of peers ───────┘──────────────┘
type segments struct {
	number     Number
	last       policy.Identity // where there is no Number
	resolver   *Resolver
	modes      []modeGroup
	keys       map[string]int // how many selectors ask for a label
	keyList    []string
	ids        *policy.Identities
	byText     map[string]*who
	byID       map[policy.Identity]*who
	entries    map[string]*entry
	numbered   uint32
	drafts     map[string]*draft
	rules      map[policy.RuleID]struct{}
	groups     map[string]*rulegroup
	uses       map[string][]*rulegroup // by selector of peers
	lists      map[string]*memberList
	hosts      map[string]*hostPart
	everybody  map[*hostPart]bool
	packs      map[string]*pack          // by digest of the policy section
	packsOf    map[string]map[*pack]bool // by selector of peers
	interfaces map[string][]model.Interface
	book       book
	callers    callers

	// What is to be done in this plan.
	rekey     map[*who]bool
	idle      map[*who]bool
	stale     map[*entry]bool
	dirty     map[*rulegroup]bool
	regrouped map[string]bool // selectors whose members have changed
	unasked   map[string]bool // selectors that are not asked for any more, if they stay so
	retarget  map[*target]bool
	touched   map[*hostPart]bool
	reread    map[*hostPart]bool // addresses, or who calls, have changed

	// What comes out.
	put       func(host, section string, s *wirepb.Section)
	targets   *editor[string, *found]
	workloads *editor[string, policy.Identity]
	labels    *editor[policy.Identity, map[string]string]
}

func newSegments(number Number, r *Resolver, groups []*model.Group) *segments {
	s := &segments{number: number, resolver: r, modes: modesOf(r, groups), keys: map[string]int{}, ids: policy.NewIdentities(),
		byText: map[string]*who{}, byID: map[policy.Identity]*who{}, entries: map[string]*entry{}, drafts: map[string]*draft{},
		rules: map[policy.RuleID]struct{}{}, groups: map[string]*rulegroup{}, uses: map[string][]*rulegroup{}, lists: map[string]*memberList{},
		hosts: map[string]*hostPart{}, everybody: map[*hostPart]bool{}, book: newBook(), callers: newCallers(),
		rekey: map[*who]bool{}, idle: map[*who]bool{}, stale: map[*entry]bool{}, dirty: map[*rulegroup]bool{}, regrouped: map[string]bool{}, unasked: map[string]bool{},
		retarget: map[*target]bool{}, touched: map[*hostPart]bool{}, reread: map[*hostPart]bool{}, packs: map[string]*pack{}, packsOf: map[string]map[*pack]bool{}}
	s.keys[LabelKind]++
	for k := range groupKeys(groups) {
		s.keys[k]++
	}
	return s
}

// change is what differs from the state before.
type change struct {
	policies   difference[*model.Policy] // weft's own included
	workloads  difference[*model.Workload]
	hosts      map[string]bool // all that there are; nil where they are as before
	rewired    []string        // hosts whose interfaces have changed
	interfaces map[string][]model.Interface
	named      []*model.Host // all, where numbers or keys may be others; else nil
	keys       map[string][]byte
}

// apply takes a change over. After an error the segments are of no use.
func (s *segments) apply(c *change) error {
	for _, p := range c.policies.gone {
		s.dropPolicy(p)
	}
	for _, p := range c.policies.come {
		if err := s.addPolicy(p); err != nil {
			return err
		}
	}
	for _, w := range c.workloads.gone {
		s.leave(w)
	}
	s.arrange(c)
	if s.keyList == nil { // others would have made the segments anew
		s.keyList = slices.Sorted(maps.Keys(s.keys))
	}
	whos, err := s.meet(c.workloads.come)
	if err != nil {
		return err
	}
	for i, w := range c.workloads.come {
		s.enter(w, whos[i])
	}
	s.settle()
	for x := range s.idle {
		s.lose(x)
	}
	for e := range s.stale {
		s.detach(e)
	}
	for x := range s.rekey {
		s.regroup(x)
	}
	s.rebuild()
	s.callers.regrouped(s.regrouped)
	for text := range s.regrouped {
		delete(s.lists, text)
		s.touchPeers(text)
	}
	for t := range s.retarget {
		s.targets.set(t.key, &found{t.workloads, t.hosts.names()})
	}
	for h := range s.touched {
		s.write(h)
	}
	s.tellCallers()
	for h := range s.reread {
		s.put(h.name, SectionIdentity, s.identitySection(h))
	}
	s.unask()
	s.clear()
	return nil
}

// unask forgets selectors that nothing names. It is done last: what lets go of one
// may be followed by another that takes it up, and that keeps what is known of it.
func (s *segments) unask() {
	for text := range s.unasked {
		if len(s.uses[text]) > 0 {
			continue
		}
		delete(s.lists, text)
		if s.entries[text] == nil {
			s.ids.Forget(text)
		}
	}
}

func (s *segments) clear() {
	clear(s.rekey)
	clear(s.idle)
	clear(s.stale)
	clear(s.dirty)
	clear(s.regrouped)
	clear(s.unasked)
	clear(s.retarget)
	clear(s.touched)
	clear(s.reread)
	clear(s.callers.touched)
	s.put = nil
}

// result returns what a plan keeps.
func (s *segments) result() (*Table[string, *found], *Table[string, policy.Identity], *Table[policy.Identity, map[string]string]) {
	targets, workloads, labels := s.targets.done(), s.workloads.done(), s.labels.done()
	s.targets, s.workloads, s.labels = nil, nil, nil
	return targets, workloads, labels
}

// arrange takes hosts and their interfaces over. Workloads that are gone are out
// already; those of hosts whose interfaces have changed claim anew.
func (s *segments) arrange(c *change) {
	for _, name := range c.rewired {
		if h := s.hosts[name]; h != nil {
			for _, m := range h.members {
				s.unclaim(h, m)
			}
		}
	}
	s.interfaces = c.interfaces
	for _, name := range c.rewired {
		if h := s.hosts[name]; h != nil {
			for _, m := range h.members {
				s.claim(h, m)
			}
			s.touched[h] = true
		}
	}
	if c.hosts != nil {
		s.rehost(c.hosts)
	}
	if c.named != nil {
		s.callers.name(s.hosts, c.named, c.keys)
	}
}

// rehost takes over which hosts there are.
func (s *segments) rehost(hosts map[string]bool) {
	for name, h := range s.hosts {
		if !hosts[name] {
			delete(s.hosts, name)
			s.unpack(h)
			delete(s.everybody, h)
			delete(s.touched, h)
			s.callers.forget(h)
		}
	}
	for name := range hosts {
		if s.hosts[name] == nil {
			h := &hostPart{name: name, own: map[netip.Addr]holders{}}
			s.hosts[name] = h
			s.touched[h] = true
			s.callers.adopt(h)
		}
	}
}

// FailsafeOf completes the options with what follows from the relays.
func FailsafeOf(o policy.FailsafeOptions, relays []*model.Relay) policy.FailsafeOptions {
	ports := map[int]bool{}
	for _, r := range relays {
		for _, a := range r.Spec.Addresses {
			if ap, err := strconv.Atoi(portOf(a)); err == nil && !r.Spec.Revoked {
				ports[ap] = true
			}
		}
	}
	o.RelayPorts, o.StreamPort = slices.Sorted(maps.Keys(ports)), DirectPort
	return o
}

func portOf(address string) string {
	for i := len(address) - 1; i >= 0; i-- {
		if address[i] == ':' {
			return address[i+1:]
		}
	}
	return ""
}
