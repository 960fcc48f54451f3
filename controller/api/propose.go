package api

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"weft/controller/observe"
	"weft/model"
	"weft/policy"
)

// Proposal is a draft of policies that allow what was seen, and why.
type Proposal struct {
	Policies []model.Policy `json:"policies" nullable:"false"`
	Evidence []Evidence     `json:"evidence" nullable:"false" doc:"One for each rule, in the order of the rules."`
	Notes    []string       `json:"notes,omitempty"`
}

// Evidence is what a proposed rule rests on.
type Evidence struct {
	Policy      string    `json:"policy"`
	Direction   string    `json:"direction"`
	Rule        string    `json:"rule"`
	Connections uint64    `json:"connections"`
	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`
	Workloads   []string  `json:"workloads" doc:"Of the subject, five at most."`
	Peers       []string  `json:"peers" doc:"Five at most."`
	Processes   []string  `json:"processes,omitempty" doc:"Of the subject, five at most."`
}

// Above so many addresses of the world on one port, a rule names the world.
const maxProposedAddresses = 16

const maxEvidence = 5

type proposalInput struct {
	Name  string `path:"name"`
	Since string `query:"since" doc:"From conversations heard of so long ago or later, as 24h; all unless given."`
}

func (a *API) registerProposal() {
	handle(a, huma.Operation{OperationID: "proposePolicies", Method: http.MethodGet, Path: "/api/v1/groups/{name}/proposal", Tags: []string{"Policy"}, Summary: "Policies that allow what the members of a group were seen to do"},
		func(ctx context.Context, in *proposalInput) (*output[Proposal], error) {
			since, err := a.since(in.Since)
			if err != nil {
				return nil, err
			}
			if _, err := a.get(ctx, model.MustKind(model.KindGroup), in.Name); err != nil {
				return nil, err
			}
			f, err := a.fleet(ctx)
			if err != nil {
				return nil, err
			}
			p, err := propose(in.Name, f.groups, a.seen.Conversations(since))
			if err != nil {
				return nil, err
			}
			return &output[Proposal]{*p}, nil
		})
}

// propose makes one policy for each selector that a group comes to.
func propose(group string, groups []*model.Group, talk observe.Recorded) (*Proposal, error) {
	byName := map[string]*model.Group{}
	for _, g := range groups {
		byName[g.Metadata.Name] = g
	}
	out := &Proposal{Policies: []model.Policy{}, Evidence: []Evidence{}}
	for _, g := range selecting(byName, group) {
		var own []*observe.Conversation
		for _, c := range talk.Conversations {
			if g.Spec.Selector.Matches(c.Labels) && c.Action == model.ActionAllow {
				own = append(own, c)
			}
		}
		if len(own) == 0 {
			continue
		}
		p, evidence := proposeFor(g, groups, own)
		if err := p.Validate(); err != nil {
			return nil, fmt.Errorf("the proposal for group %s is not valid: %w", g.Metadata.Name, err)
		}
		out.Policies, out.Evidence = append(out.Policies, *p), append(out.Evidence, evidence...)
	}
	if len(out.Policies) == 0 {
		return nil, problem(http.StatusConflict, "no conversation of group %s is recorded; give the group a mode (spec.mode: Observe records and denies nothing) and wait for its members to talk", group)
	}
	if n := talk.Evicted + talk.Lost + talk.Unread; n > 0 {
		out.Notes = append(out.Notes, fmt.Sprintf("%d conversations were seen and are not remembered: what they needed may be missing", n))
	}
	return out, nil
}

// selecting returns the groups with selectors that a group consists of.
func selecting(groups map[string]*model.Group, name string) []*model.Group {
	var out []*model.Group
	been := map[string]bool{}
	var visit func(string)
	visit = func(name string) {
		g := groups[name]
		if g == nil || been[name] {
			return
		}
		been[name] = true
		if g.Spec.Selector != nil {
			out = append(out, g)
		}
		for _, nested := range g.Spec.Groups {
			visit(nested)
		}
	}
	visit(name)
	return out
}

// seenRule gathers what one rule will rest on.
type seenRule struct {
	direction policy.Direction
	peer      model.PolicyPeer
	name      string
	ports     map[[2]uint16]bool
	addresses map[string]bool
	evidence  Evidence
}

func proposeFor(g *model.Group, groups []*model.Group, talk []*observe.Conversation) (*model.Policy, []Evidence) {
	rules := map[string]*seenRule{}
	var order []string
	for _, c := range slices.Backward(talk) { // the oldest first
		d := c.PolicyDirection()
		peer, name := proposePeer(groups, c)
		key := d.String() + " " + name
		r := rules[key]
		if r == nil {
			r = &seenRule{direction: d, peer: peer, name: name, ports: map[[2]uint16]bool{}, addresses: map[string]bool{}, evidence: Evidence{Direction: d.String(), First: c.First, Last: c.Last}}
			rules[key] = r
			order = append(order, key)
		}
		r.add(c)
	}
	p := model.MustKind(model.KindPolicy).New().(*model.Policy)
	p.Metadata.Name = "proposed-" + g.Metadata.Name
	p.Spec.Stage = model.StageStaged
	p.Spec.Subject.Selector = g.Spec.Selector
	slices.SortStableFunc(order, func(a, b string) int {
		return cmp.Or(cmp.Compare(rules[a].direction, rules[b].direction), cmp.Compare(rules[b].evidence.Connections, rules[a].evidence.Connections), cmp.Compare(a, b))
	})
	var evidence []Evidence
	taken := map[string]bool{}
	for _, key := range order {
		r := rules[key]
		rule := r.rule(taken)
		if r.direction == policy.Egress {
			p.Spec.Egress = append(p.Spec.Egress, rule)
		} else {
			p.Spec.Ingress = append(p.Spec.Ingress, rule)
		}
		r.evidence.Policy, r.evidence.Rule = p.Metadata.Name, rule.Name
		evidence = append(evidence, r.evidence)
	}
	return p, evidence
}

func (r *seenRule) add(c *observe.Conversation) {
	e := &r.evidence
	e.Connections += c.Connections
	if c.First.Before(e.First) {
		e.First = c.First
	}
	if c.Last.After(e.Last) {
		e.Last = c.Last
	}
	r.ports[[2]uint16{uint16(c.Protocol), c.Port}] = true
	if c.PeerAddress != "" {
		r.addresses[c.PeerAddress] = true
	}
	note := func(list *[]string, v string) {
		if v != "" && len(*list) < maxEvidence && !slices.Contains(*list, v) {
			*list = append(*list, v)
		}
	}
	note(&e.Workloads, c.Workload)
	note(&e.Processes, c.Process.Exe)
	peer := c.Peer
	if peer == "" && len(c.Names) > 0 {
		peer = c.Names[0]
	}
	note(&e.Peers, cmp.Or(peer, c.PeerAddress))
}

func (r *seenRule) rule(taken map[string]bool) model.PolicyRule {
	peer := r.peer
	if peer.IPBlocks != nil {
		peer.IPBlocks = nil
		for _, text := range slices.Sorted(maps.Keys(r.addresses)) {
			if a, err := netip.ParseAddr(text); err == nil {
				peer.IPBlocks = append(peer.IPBlocks, model.IPBlock{CIDR: netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()).String()})
			}
		}
		if n := len(peer.IPBlocks); n == 0 || n > maxProposedAddresses {
			peer = model.PolicyPeer{Entities: []model.Entity{model.EntityWorld}}
		}
	}
	out := model.PolicyRule{Action: model.ActionAllow, Name: ruleName(r.name, r.direction, taken)}
	if r.direction == policy.Egress {
		out.To = []model.PolicyPeer{peer}
	} else {
		out.From = []model.PolicyPeer{peer}
	}
	var ports [][2]uint16
	for p := range r.ports {
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b [2]uint16) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) })
	if len(ports) > model.MaxRulePorts {
		return out // as good as every port
	}
	for _, p := range ports {
		out.Ports = append(out.Ports, proposePort(uint8(p[0]), p[1]))
	}
	return out
}

func proposePort(protocol uint8, port uint16) model.PolicyPort {
	out := model.PolicyPort{Protocol: model.ProtocolName(protocol)}
	n := int(port)
	switch {
	case model.IsICMP(protocol):
		typ := n >> 8
		out.ICMP = &model.PolicyICMP{Type: &typ}
	case model.HasPorts(protocol):
		out.Port = &n
	}
	return out
}

// ruleName makes a valid name of what a rule is about.
func ruleName(text string, d policy.Direction, taken map[string]bool) string {
	var b strings.Builder
	for _, r := range strings.ToLower(text) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
		} else if s := b.String(); s != "" && !strings.HasSuffix(s, "-") {
			b.WriteByte('-')
		}
	}
	prefix := "from-"
	if d == policy.Egress {
		prefix = "to-"
	}
	name := prefix + cmp.Or(strings.Trim(b.String()[:min(b.Len(), 40)], "-"), "peer")
	for i, stem := 2, name; taken[name]; i++ {
		name = fmt.Sprintf("%s-%d", stem, i)
	}
	taken[name] = true
	return name
}

// proposePeer names the other end as generally as it can be known to be meant.
func proposePeer(groups []*model.Group, c *observe.Conversation) (model.PolicyPeer, string) {
	for _, e := range []model.Entity{model.EntitySelf, model.EntityDNS, model.EntityControlPlane, model.EntityRelay, model.EntityMetadata} {
		if slices.Contains(c.Entities, string(e)) {
			return model.PolicyPeer{Entities: []model.Entity{e}}, string(e)
		}
	}
	if c.PeerLabels != nil {
		s := peerSelector(groups, c.PeerLabels)
		return model.PolicyPeer{Selector: &s}, s.String()
	}
	if len(c.Names) > 0 && c.PolicyDirection() == policy.Egress {
		peer := model.PolicyPeer{DomainNames: c.Names[:1]}
		probe := model.MustKind(model.KindPolicy).New().(*model.Policy)
		probe.Metadata.Name, probe.Spec.Subject.Selector = "probe", &model.Selector{}
		probe.Spec.Egress = []model.PolicyRule{{Action: model.ActionAllow, To: []model.PolicyPeer{peer}}}
		if probe.Validate() == nil { // names are what agents report
			return peer, c.Names[0]
		}
	}
	return model.PolicyPeer{IPBlocks: []model.IPBlock{}}, fmt.Sprintf("world-%s-%d", strings.ToLower(model.ProtocolName(c.Protocol)), c.Port)
}

// described are labels by which people say what a workload is, the best first.
var described = []string{"app", "app.kubernetes.io/name", "role", "tier", "component", "env", "service"}

// peerSelector finds a selector for a workload: that of the smallest group with a selector
// that holds it, else its telling labels, else its name.
func peerSelector(groups []*model.Group, labels map[string]string) model.Selector {
	var best *model.Selector
	for _, g := range groups {
		s := g.Spec.Selector
		if s == nil || !s.Matches(labels) {
			continue
		}
		if best == nil || len(s.Requirements) > len(best.Requirements) || len(s.Requirements) == len(best.Requirements) && s.String() < best.String() {
			best = s
		}
	}
	if best != nil && len(best.Requirements) > 0 {
		return *best
	}
	var s model.Selector
	add := func(k string) {
		if v, has := labels[k]; has && v != "" {
			s.Requirements = append(s.Requirements, model.Requirement{Key: k, Operator: model.OpIn, Values: []string{v}})
		}
	}
	for _, k := range described {
		add(k)
	}
	if len(s.Requirements) == 0 {
		for _, k := range slices.Sorted(maps.Keys(labels)) {
			if !strings.Contains(k, ".") && len(s.Requirements) < 3 {
				add(k)
			}
		}
	}
	for _, k := range []string{"container.name", "unit.name", "host.name", "workload.kind"} {
		if len(s.Requirements) == 0 {
			add(k)
		}
	}
	slices.SortFunc(s.Requirements, func(a, b model.Requirement) int { return cmp.Compare(a.Key, b.Key) })
	return s
}
