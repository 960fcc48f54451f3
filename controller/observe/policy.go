package observe

import (
	"fmt"
	"strings"
	"time"

	"weft/controller/plan"
	"weft/model"
	"weft/policy"
	"weft/wire"
	"weft/wire/wirepb"
)

// maxPolicyHosts bounds the hosts a policy's status lists.
const maxPolicyHosts = 100

// PolicyReport takes what a host's agent counted and saw.
func (o *Observer) PolicyReport(id wire.Identity, r *wirepb.PolicyReport) {
	o.mu.Lock()
	defer o.mu.Unlock()
	h := o.host(id.UID)
	if h.policy == nil {
		h.policy = &counters{}
	}
	o.lost += h.policy.report(r, o.totals)
	h.drops = cleanDrops(r.Drops)
	for _, m := range r.Conversations {
		if c := o.read(id.UID, m); c != nil {
			o.talk.add(c)
		} else {
			o.unread++
		}
	}
	o.unsavedTalk, o.staged = true, nil
	o.touch(false)
}

// Recorded is what is remembered of conversations.
type Recorded struct {
	Conversations []*Conversation // the last heard of first; not to be changed
	// Evicted had to make room; Lost never came, for want of room at the agents;
	// Unread were of workloads that were gone when they came.
	Evicted, Lost, Unread uint64
}

// Conversations returns those heard of since a time; all with the zero time.
func (o *Observer) Conversations(since time.Time) Recorded {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := Recorded{Conversations: []*Conversation{}, Evicted: o.talk.Evicted, Lost: o.lost, Unread: o.unread}
	for _, c := range o.talk.sorted() {
		if c.Last.Before(since) {
			break
		}
		out.Conversations = append(out.Conversations, c)
	}
	return out
}

// wouldBe sums what rules would have decided of the conversations remembered, by
// the rule's id. The lock is held.
func (o *Observer) wouldBe() map[string]Hits {
	if o.staged == nil {
		o.staged = map[string]Hits{}
		for _, c := range o.talk.byID {
			if c.StagedRule != "" {
				o.staged[c.StagedRule] = o.staged[c.StagedRule].add(Hits{Connections: c.Connections})
			}
		}
	}
	return o.staged
}

// PolicyStatus sums up what the hosts report of a policy. It is of the plan in
// force: a policy written a moment ago is Pending.
func (o *Observer) PolicyStatus(p *model.Policy) model.PolicyStatus {
	o.mu.Lock()
	defer o.mu.Unlock()
	st := model.PolicyStatus{State: model.PolicyPending, Rules: o.ruleStatus(p)}
	var planned *plan.Policy
	if o.plan != nil {
		planned = o.plan.Policy(p.Metadata.Name)
	}
	if planned == nil || planned.UID != p.Metadata.UID {
		st.Message = "not planned yet"
		hosts := map[string]bool{}
		for _, w := range o.all() {
			if p.Spec.Subject.Selector.Matches(w.Metadata.Labels) {
				st.Workloads++
				hosts[w.Spec.Host] = true
			}
		}
		st.Targeted = len(hosts)
		return st
	}
	st.Workloads, st.Targeted = planned.Workloads, len(planned.Hosts)
	switch {
	case p.Spec.StageOrDefault() == model.StageDraft:
		st.State = model.PolicyDraft
		return st
	case planned.Problem != "":
		st.State, st.Message = model.PolicyFailed, planned.Problem
		return st
	case planned.Workloads == 0:
		st.Message = "the subject matches no workload now; those that come to match are subject by themselves"
		return st
	}
	for _, name := range planned.Hosts {
		state, message := o.policyOn(name)
		switch state {
		case "":
			st.Applied++
			continue
		case stateError:
			st.Failed++
		}
		if len(st.Hosts) < maxPolicyHosts {
			st.Hosts = append(st.Hosts, model.PolicyHost{Host: name, State: state, Message: message})
		}
	}
	switch {
	case st.Failed > 0:
		st.State = model.PolicyFailed
		for _, h := range st.Hosts {
			if h.State == stateError {
				st.Message = fmt.Sprintf("%s: %s", h.Host, h.Message)
				break
			}
		}
	case st.Applied < st.Targeted:
		st.Message = part("host "+st.Hosts[0].Host, st.Hosts[0].State, st.Hosts[0].Message)
	case p.Spec.StageOrDefault() == model.StageStaged:
		st.State = model.PolicyStaged
	default:
		st.State = model.PolicyActive
	}
	return st
}

// policyOn says how far a host is with its policy; nothing where it has it.
func (o *Observer) policyOn(name string) (state, message string) {
	for _, section := range []string{plan.SectionPolicy, plan.SectionIdentity} {
		h, state, message := o.applied(name, section)
		if state != "" {
			return state, message
		}
		st := h.sections[section]
		if st.GetError() != "" {
			return stateError, st.GetError()
		}
		for _, i := range st.GetItems() {
			if i.State == stateError {
				return stateError, strings.TrimPrefix(i.Item+": "+i.Message, ": ")
			}
		}
	}
	return "", ""
}

// ruleStatus counts each rule: of a staged policy what it would have decided of
// the conversations remembered.
func (o *Observer) ruleStatus(p *model.Policy) []model.PolicyRuleStatus {
	var out []model.PolicyRuleStatus
	for d, rules := range [][]model.PolicyRule{policy.Ingress: p.Spec.Ingress, policy.Egress: p.Spec.Egress} {
		d := policy.Direction(d)
		for i := range rules {
			id := policy.MakeRuleID(p, d, i)
			n := o.totals[uint64(id)]
			if p.Spec.StageOrDefault() == model.StageStaged {
				n = n.add(o.wouldBe()[id.String()])
			}
			name := rules[i].Name
			if name == "" {
				name = fmt.Sprintf("#%d", i)
			}
			out = append(out, model.PolicyRuleStatus{Name: name, Direction: d.String(), ID: id.String(), Connections: n.Connections, Packets: n.Packets, Bytes: n.Bytes})
		}
	}
	return out
}
