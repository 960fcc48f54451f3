package apitest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"weft/controller/observe"
	"weft/model"
	"weft/policy"
)

// SetAddress gives a workload one address.
func (w *World) SetAddress(name, address string) {
	w.change(func() {
		if wl := w.workloads[name]; wl != nil {
			c := *wl
			c.Spec.Addresses = []string{address}
			w.workloads[name] = &c
		}
	})
}

// Talk records a conversation. What the fields of the workloads follow from is
// filled in.
func (w *World) Talk(c observe.Conversation) error {
	w.mu.Lock()
	own, peer := w.workloads[c.Workload], w.workloads[c.Peer]
	w.mu.Unlock()
	if own == nil {
		return fmt.Errorf("no workload %q", c.Workload)
	}
	c.Labels, c.Host = own.Metadata.Labels, own.Spec.Host
	if peer != nil {
		c.PeerLabels, c.PeerAddress = peer.Metadata.Labels, cmp.Or(c.PeerAddress, peer.Spec.Addresses[0])
	}
	c.ID = fmt.Sprintf("%016x", len(w.talk)+1)
	w.change(func() { w.talk = append(w.talk, &c) })
	return nil
}

// Hit counts connections for a rule, by its id.
func (w *World) Hit(rule string, connections uint64) {
	w.change(func() {
		if w.hits == nil {
			w.hits = map[string]uint64{}
		}
		w.hits[rule] += connections
	})
}

// Conversations returns what Talk has recorded.
func (w *World) Conversations(since time.Time) observe.Recorded {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := observe.Recorded{Conversations: []*observe.Conversation{}}
	for _, c := range slices.Backward(w.talk) {
		if !c.Last.Before(since) {
			out.Conversations = append(out.Conversations, c)
		}
	}
	return out
}

// Interfaces returns one uplink of each host, with the host's address.
func (w *World) Interfaces() map[string][]model.Interface {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string][]model.Interface{}
	for name, wl := range w.workloads {
		if !strings.Contains(name, ":") && len(wl.Spec.Addresses) > 0 {
			out[name] = []model.Interface{{Name: "eth0", MTU: 1500, Addresses: []string{wl.Spec.Addresses[0] + "/24"}, Uplink: true}}
		}
	}
	return out
}

// PolicyStatus says that every host has applied the policy.
func (w *World) PolicyStatus(p *model.Policy) model.PolicyStatus {
	s := model.PolicyStatus{State: model.PolicyState(p.Spec.StageOrDefault())}
	hosts := map[string]bool{}
	for _, wl := range w.Workloads() {
		if p.Spec.Subject.Selector.Matches(wl.Metadata.Labels) {
			s.Workloads++
			hosts[wl.Spec.Host] = true
		}
	}
	if s.Targeted, s.Applied = len(hosts), len(hosts); s.Targeted == 0 {
		s.State, s.Message = model.PolicyPending, "the subject matches no workload now"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for d, rules := range [][]model.PolicyRule{policy.Ingress: p.Spec.Ingress, policy.Egress: p.Spec.Egress} {
		for i := range rules {
			id := policy.MakeRuleID(p, policy.Direction(d), i)
			n := w.hits[id.String()]
			s.Rules = append(s.Rules, model.PolicyRuleStatus{Name: cmp.Or(rules[i].Name, fmt.Sprintf("#%d", i)), Direction: policy.Direction(d).String(), ID: id.String(),
				Connections: n, Packets: 10 * n, Bytes: 1000 * n})
		}
	}
	return s
}

// ProbeStatus says that no host runs it.
func (w *World) ProbeStatus(*model.Probe) model.ProbeStatus { return model.ProbeStatus{} }
