package policy

import (
	"net/netip"
	"slices"

	"weft/model"
)

// Evaluate is the reference: what the subject at one end of the packet says to
// it. It is slow on purpose and reads resources only, nothing that was compiled.
func (w *World) Evaluate(d Direction, p *Packet) Verdict {
	subject, _ := p.Ends(d)
	if subject.Identity == 0 {
		return unmanagedVerdict()
	}
	var logged RuleID
	passed := -1 // the tier a Pass has ended
	for _, c := range w.candidates(d, subject) {
		if c.place.tier == passed || !ruleMatches(c.rule, d, p, w.Identities) {
			continue
		}
		switch c.rule.Action {
		case model.ActionLog:
			if logged == 0 {
				logged = MakeRuleID(c.policy, d, c.place.index)
			}
		case model.ActionPass:
			passed = c.place.tier
		default:
			return Verdict{Action: c.rule.Action, Reason: ByRule, Tier: c.policy.Spec.TierOrDefault(), Policy: c.policy.Metadata.Name,
				Rule: ruleLabel(c.rule, c.place.index), ID: MakeRuleID(c.policy, d, c.place.index), Stateful: c.policy.Spec.IsStateful(), Logged: logged}
		}
	}
	return Verdict{Action: w.defaultAction(d, subject), Reason: ByDefault, Mode: w.mode(subject.Identity), Stateful: true, Logged: logged}
}

// EvaluateBoth asks both ends.
func (w *World) EvaluateBoth(p *Packet) Joint {
	return Joint{Egress: w.Evaluate(Egress, p), Ingress: w.Evaluate(Ingress, p)}
}

type candidate struct {
	policy *model.Policy
	rule   *model.PolicyRule
	place  place
}

// candidates returns the rules for a subject in the total order.
func (w *World) candidates(d Direction, subject *End) []candidate {
	var list []candidate
	for _, p := range w.all() {
		if !w.counts(p) || !w.selects(p, subject) {
			continue
		}
		rules := rulesOf(p, d)
		for i := range rules {
			list = append(list, candidate{p, &rules[i], placeOf(p, &rules[i], i)})
		}
	}
	slices.SortStableFunc(list, func(a, b candidate) int { return a.place.compare(b.place) })
	return list
}

// selects says whether a policy is for this subject.
func (w *World) selects(p *model.Policy, subject *End) bool {
	s := p.Spec.Subject
	return s.Selector.Matches(w.Identities.Labels(subject.Identity)) && processMatches(s.Processes, &subject.Process)
}

func (w *World) defaultAction(d Direction, subject *End) model.Action {
	switch w.mode(subject.Identity) {
	case model.ModeEnforce:
		return model.ActionDeny
	case model.ModeSelective:
		for _, p := range w.all() {
			if w.counts(p) && w.selects(p, subject) && isolates(p, d) {
				return model.ActionDeny
			}
		}
	}
	return model.ActionAllow
}

func ruleMatches(r *model.PolicyRule, d Direction, p *Packet, ids *Identities) bool {
	_, peer := p.Ends(d)
	return portsMatch(r.Ports, p) && peersMatch(peersOf(r, d), peer, ids)
}

func portsMatch(ports []model.PolicyPort, p *Packet) bool {
	for i := range ports {
		number, _ := ports[i].ProtocolNumber()
		first, last := ports[i].Range()
		if number == p.Protocol && first <= p.Key() && p.Key() <= last {
			return true
		}
	}
	return len(ports) == 0
}

func peersMatch(peers []model.PolicyPeer, end *End, ids *Identities) bool {
	for i := range peers {
		if peerMatches(&peers[i], end, ids) && processMatches(peers[i].Processes, &end.Process) {
			return true
		}
	}
	return len(peers) == 0
}

// peerMatches leaves the peer's processes aside.
func peerMatches(p *model.PolicyPeer, end *End, ids *Identities) bool {
	if p.Selector != nil {
		return end.Identity != 0 && p.Selector.Matches(ids.Labels(end.Identity))
	}
	for _, e := range p.Entities {
		if EntityBit(e)&end.entities() != 0 {
			return true
		}
	}
	for i := range p.IPBlocks {
		if blockMatches(&p.IPBlocks[i], end) {
			return true
		}
	}
	return nameMatches(p.DomainNames, end.Names)
}

func blockMatches(b *model.IPBlock, end *End) bool {
	holds := func(text string) bool {
		prefix, err := netip.ParsePrefix(text)
		return err == nil && prefix.Contains(end.Addr.Unmap())
	}
	return holds(b.CIDR) && !slices.ContainsFunc(b.Except, holds) && (end.Identity == 0 || b.IncludeManaged)
}
