package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"weft/model"
)

// Explanation says why a packet passes or does not, at both ends.
type Explanation struct {
	Packet          Packet
	Action          model.Action
	Egress, Ingress EndExplanation
}

// EndExplanation is one end's part.
type EndExplanation struct {
	Direction Direction
	Labels    map[string]string // of the subject, nil where it is no workload
	Verdict   Verdict
	// Steps are the tiers with rules for the subject, in the order tried.
	Steps []Step
	// Misses are the Allow rules that fell short by one dimension, for a deny by
	// default; MoreMisses counts those beyond MaxMisses.
	Misses     []Miss
	MoreMisses int
}

// Step is what happened in one tier.
type Step struct {
	Tier  model.Tier
	Rules int    // how many the tier holds for the subject
	Text  string // what happened
}

// Miss is an Allow rule that all but matched.
type Miss struct {
	Policy, Rule string
	// Dimension is stage, port, peer, peer process, process or subject; Have is
	// the packet's value and Want the rule's.
	Dimension, Have, Want string
	place                 place
}

// MaxMisses is how many near misses an explanation lists.
const MaxMisses = 5

// dimensions orders misses by how near they are: what a person most likely meant.
var dimensions = []string{"stage", "port", "peer process", "process", "peer", "subject"}

// Explain judges the packet by the reference and says why.
func Explain(w *World, p *Packet) Explanation {
	out := Explanation{Packet: *p, Egress: w.explain(Egress, p), Ingress: w.explain(Ingress, p)}
	out.Action = Joint{out.Egress.Verdict, out.Ingress.Verdict}.Action()
	return out
}

func (w *World) explain(d Direction, p *Packet) EndExplanation {
	subject, _ := p.Ends(d)
	out := EndExplanation{Direction: d, Labels: w.Identities.Labels(subject.Identity), Verdict: w.Evaluate(d, p)}
	if out.Verdict.Reason == ByNoSubject {
		return out
	}
	out.Steps = w.steps(d, p, subject)
	if out.Verdict.Reason == ByDefault && !out.Verdict.Allowed() {
		out.Misses = w.misses(d, p, subject)
		if n := len(out.Misses); n > MaxMisses {
			out.Misses, out.MoreMisses = out.Misses[:MaxMisses], n-MaxMisses
		}
	}
	return out
}

func (w *World) steps(d Direction, p *Packet, subject *End) []Step {
	var steps []Step
	passed := -1
	decided := false
	for _, c := range w.candidates(d, subject) {
		tier := c.policy.Spec.TierOrDefault()
		if len(steps) == 0 || steps[len(steps)-1].Tier != tier {
			if decided {
				break
			}
			steps = append(steps, Step{Tier: tier})
		}
		step := &steps[len(steps)-1]
		step.Rules++
		if decided || c.place.tier == passed || !ruleMatches(c.rule, d, p, w.Identities) {
			continue
		}
		at := c.policy.Metadata.Name + "/" + ruleLabel(c.rule, c.place.index)
		switch c.rule.Action {
		case model.ActionLog:
			step.Text += "logged by " + at + ", "
		case model.ActionPass:
			step.Text += "passed on by " + at
			passed = c.place.tier
		default:
			step.Text += string(c.rule.Action) + " by " + at
			decided = true
		}
	}
	for i := range steps {
		if s := &steps[i]; s.Text == "" || strings.HasSuffix(s.Text, ", ") {
			s.Text += "no rule decides"
		}
	}
	return steps
}

func (w *World) misses(d Direction, p *Packet, subject *End) []Miss {
	var list []Miss
	_, peer := p.Ends(d)
	labels := w.Identities.Labels(subject.Identity)
	for _, pol := range w.all() {
		if pol.Spec.Tier == model.TierFailsafe {
			continue // nobody can widen those
		}
		s := pol.Spec.Subject
		rules := rulesOf(pol, d)
		for i := range rules {
			r := &rules[i]
			if r.Action != model.ActionAllow {
				continue
			}
			m := Miss{Policy: pol.Metadata.Name, Rule: ruleLabel(r, i), place: placeOf(pol, r, i)}
			failed := 0
			check := func(ok bool, dimension string, have, want func() string) {
				if !ok {
					if failed++; failed == 1 {
						m.Dimension, m.Have, m.Want = dimension, have(), want()
					}
				}
			}
			check(w.counts(pol), "stage", func() string { return string(pol.Spec.StageOrDefault()) }, w.wantedStage)
			check(s.Selector.Matches(labels), "subject", func() string { return lacking(*s.Selector, labels) }, s.Selector.String)
			check(processMatches(s.Processes, &subject.Process), "process", func() string { return describeProcess(subject.Process) }, func() string { return strings.TrimPrefix(processText(s.Processes), " run by ") })
			check(portsMatch(r.Ports, p), "port", p.portText, func() string { return portList(r) })
			reached, run := w.peerMiss(peersOf(r, d), peer)
			check(reached, "peer", func() string { return w.peerText(peersOf(r, d), peer) }, func() string { return peerList(peersOf(r, d)) })
			check(!reached || run, "peer process", func() string { return describeProcess(peer.Process) }, func() string { return peerList(peersOf(r, d)) })
			if failed == 1 {
				list = append(list, m)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b Miss) int {
		return cmp.Or(cmp.Compare(slices.Index(dimensions, a.Dimension), slices.Index(dimensions, b.Dimension)), a.place.compare(b.place))
	})
	return list
}

// peerMiss says whether a peer matches processes aside, and with them.
func (w *World) peerMiss(peers []model.PolicyPeer, end *End) (reached, run bool) {
	reached, run = len(peers) == 0, len(peers) == 0
	for i := range peers {
		if peerMatches(&peers[i], end, w.Identities) {
			reached = true
			run = run || processMatches(peers[i].Processes, &end.Process)
		}
	}
	return reached, run
}

func (w *World) wantedStage() string {
	if w.Through == "" || w.Through == model.StageActive {
		return string(model.StageActive)
	}
	return fmt.Sprintf("%s or %s", model.StageActive, w.Through)
}
