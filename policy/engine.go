package policy

import (
	"weft/model"
)

// Engine judges packets by the compiled form, without allocation once a ruleset
// has been used. It indexes a ruleset at its first use, and shows the identities
// as they were then. Not safe for concurrent use: one for each goroutine.
type Engine struct {
	set    *Set
	judges map[*Ruleset]*[2]*judge
}

// NewEngine returns an engine over a compiled world.
func NewEngine(s *Set) *Engine { return &Engine{set: s, judges: map[*Ruleset]*[2]*judge{}} }

// Judge returns what one end says to the packet. It equals World.Evaluate.
func (e *Engine) Judge(d Direction, p *Packet) Verdict { return e.judge(d, p, nil) }

// JudgeBoth asks both ends.
func (e *Engine) JudgeBoth(p *Packet) Joint {
	return Joint{Egress: e.judge(Egress, p, nil), Ingress: e.judge(Ingress, p, nil)}
}

func (e *Engine) of(r *Ruleset) *[2]*judge {
	j := e.judges[r]
	if j == nil {
		j = &[2]*judge{newJudge(&r.Ingress, r.Mode, e.set.identities), newJudge(&r.Egress, r.Mode, e.set.identities)}
		e.judges[r] = j
	}
	return j
}

// judge calls hit, unless nil, for every rule that matches on the way.
func (e *Engine) judge(d Direction, p *Packet, hit func(*Rule)) Verdict {
	subject, peer := p.Ends(d)
	r := e.set.rulesets[subject.Identity]
	if r == nil {
		return unmanagedVerdict()
	}
	return e.of(r)[d].judge(p, subject, peer, hit)
}

func (j *judge) judge(p *Packet, subject, peer *End, hit func(*Rule)) Verdict {
	var logged RuleID
	key := p.Key()
	for i := j.next(0, p.Protocol, key, peer); i < len(j.rules); i = j.next(i, p.Protocol, key, peer) {
		r := j.rules[i]
		if j.inexact[i] && !j.matches(r, subject, peer) {
			i++
			continue
		}
		if hit != nil {
			hit(r)
		}
		switch r.Action {
		case model.ActionLog:
			if logged == 0 {
				logged = r.ID
			}
			i++
		case model.ActionPass:
			i = j.nextTier[i]
		default:
			return Verdict{Action: r.Action, Reason: ByRule, Tier: r.Tier, Policy: r.Policy, Rule: r.Name, ID: r.ID, Stateful: r.Stateful, Logged: logged}
		}
	}
	v := Verdict{Reason: ByDefault, Mode: j.mode, Stateful: true, Logged: logged}
	for i := range j.defaults {
		if d := &j.defaults[i]; processMatches(d.Processes, &subject.Process) {
			v.Action = d.Action
			break
		}
	}
	return v
}

// matches checks processes and names exactly, where rows cannot.
func (j *judge) matches(r *Rule, subject, peer *End) bool {
	if !processMatches(r.Processes, &subject.Process) {
		return false
	}
	for i := range r.Peers {
		p := &r.Peers[i]
		if j.peerMatches(p, peer) && processMatches(p.Processes, &peer.Process) {
			return true
		}
	}
	return len(r.Peers) == 0
}

func (j *judge) peerMatches(p *Peer, end *End) bool {
	if p.Selector != nil {
		return j.members[p.Selector].Contains(uint32(end.Identity))
	}
	if p.Entities&end.entities() != 0 || nameMatches(p.Names, end.Names) {
		return true
	}
	addr := end.Addr.Unmap()
blocks:
	for i := range p.Blocks {
		b := &p.Blocks[i]
		if !b.Prefix.Contains(addr) || end.Identity != 0 && !b.IncludeManaged {
			continue
		}
		for _, x := range b.Except {
			if x.Contains(addr) {
				continue blocks
			}
		}
		return true
	}
	return false
}
