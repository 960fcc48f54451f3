package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/bits"
	"net/http"
	"net/netip"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"weft/controller/observe"
	"weft/controller/plan"
	"weft/model"
	"weft/policy"
)

// WhatIfRequest asks what policies and groups would change were they stored, and
// the policies active.
type WhatIfRequest struct {
	Resources []json.RawMessage `json:"resources" nullable:"false" doc:"Policies and groups, put in place of those stored under their names. Each policy counts as Active whatever its stage."`
	Selector  string            `json:"selector,omitempty" doc:"Compare only workloads that this selector matches, and the world."`
	Since     string            `json:"since,omitempty" doc:"Only conversations heard of so long ago or later, as 24h; all unless given."`
}

// PolicyDiff is every change of what becomes of packets.
type PolicyDiff struct {
	Changes []PolicyChange `json:"changes" nullable:"false"`
	// Recorded is how many conversations were looked at for hits.
	Recorded int `json:"recorded"`
}

// PolicyChange is a set of packets whose action changes.
type PolicyChange struct {
	Before      model.Action      `json:"before"`
	After       model.Action      `json:"after"`
	Source      map[string]string `json:"source,omitempty" doc:"Identity labels; none for what is no workload."`
	Destination map[string]string `json:"destination,omitempty"`
	Service     string            `json:"service" doc:"The protocol and ports."`
	Witness     Witness           `json:"witness" doc:"The plainest packet of the set."`
	Variants    int               `json:"variants" doc:"For how many sorts of ends it holds, by family, address, entities, names and processes."`
	// Conversations are the ids of recorded ones that it hits, 20 at most, and
	// Connections what all of them stand for.
	Conversations []string `json:"conversations,omitempty"`
	Connections   uint64   `json:"connections"`
}

// Witness is one packet of the set.
type Witness struct {
	Source      WitnessEnd `json:"source"`
	Destination WitnessEnd `json:"destination"`
	Service     string     `json:"service"`
}

// WitnessEnd is one end of it. The address of a workload stands for any of its own
// where rules do not ask for addresses.
type WitnessEnd struct {
	Address  string              `json:"address"`
	Process  model.PolicyProcess `json:"process,omitzero"`
	Entities string              `json:"entities,omitempty"`
	Names    []string            `json:"names,omitempty"`
}

// PolicyReplay is what would have become of recorded conversations. Counts are of
// connections.
type PolicyReplay struct {
	Recorded   int          `json:"recorded" doc:"How many conversations were judged."`
	Flows      uint64       `json:"flows"`
	Allowed    uint64       `json:"allowed"`
	Denied     uint64       `json:"denied"`
	NewDenied  uint64       `json:"newDenied" doc:"Let through when recorded."`
	NewAllowed uint64       `json:"newAllowed" doc:"Turned down when recorded."`
	Denies     []ReplayDeny `json:"denies,omitempty" doc:"The new denies by what decides, the most frequent first."`
	Missing    uint64       `json:"missing" doc:"Conversations that were seen and are not remembered."`
}

// ReplayDeny is one reason for new denies.
type ReplayDeny struct {
	Direction string   `json:"direction"`
	Verdict   string   `json:"verdict"`
	Count     uint64   `json:"count"`
	Samples   []string `json:"samples"`
}

func (a *API) registerWhatIf() {
	handle(a, huma.Operation{OperationID: "diffPolicies", Method: http.MethodPost, Path: "/api/v1/preview/policydiff", Tags: []string{"Policy"}, Summary: "What policies would change, exactly; nothing is stored"},
		func(ctx context.Context, in *struct{ Body WhatIfRequest }) (*output[PolicyDiff], error) {
			out, err := a.diffPolicies(ctx, &in.Body)
			if err != nil {
				return nil, err
			}
			return &output[PolicyDiff]{*out}, nil
		})
	handle(a, huma.Operation{OperationID: "replayPolicies", Method: http.MethodPost, Path: "/api/v1/preview/policyreplay", Tags: []string{"Policy"}, Summary: "What policies would have made of recorded conversations; nothing is stored"},
		func(ctx context.Context, in *struct{ Body WhatIfRequest }) (*output[PolicyReplay], error) {
			out, err := a.replayPolicies(ctx, &in.Body)
			if err != nil {
				return nil, err
			}
			return &output[PolicyReplay]{*out}, nil
		})
}

// read decodes and checks the resources, as a write would.
func (a *API) readWhatIf(ctx context.Context, r *WhatIfRequest) (policies []*model.Policy, groups []*model.Group, since time.Time, err error) {
	for i, raw := range r.Resources {
		doc, err := model.DecodeJSON(raw)
		if err == nil {
			err = a.check(ctx, doc)
		}
		if err != nil {
			return nil, nil, since, fmt.Errorf("resources[%d]: %w", i, err)
		}
		switch doc := doc.(type) {
		case *model.Policy:
			doc.Spec.Stage = model.StageActive
			policies = append(policies, doc)
		case *model.Group:
			groups = append(groups, doc)
		default:
			return nil, nil, since, problem(http.StatusUnprocessableEntity, "%s is no policy and no group; leave it out", model.Ref(doc))
		}
	}
	since, err = a.since(r.Since)
	return policies, groups, since, err
}

func (a *API) since(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return time.Time{}, problem(http.StatusUnprocessableEntity, "since: %q is no duration; write it like 30m or 24h", text)
	}
	return time.Now().Add(-d), nil
}

func (a *API) diffPolicies(ctx context.Context, r *WhatIfRequest) (*PolicyDiff, error) {
	policies, groups, since, err := a.readWhatIf(ctx, r)
	if err != nil {
		return nil, err
	}
	only, err := parseSelector("labelSelector", r.Selector)
	if err != nil {
		return nil, err
	}
	now, err := a.fleet(ctx)
	if err != nil {
		return nil, err
	}
	talk := a.seen.Conversations(since)
	list, err := worlds(goneSets(talk.Conversations), now, now.over(policies, groups))
	if err != nil {
		return nil, err
	}
	before, after := list[0], list[1]
	var ids []policy.Identity
	seen := map[policy.Identity]bool{}
	for _, w := range now.workloads {
		if id := after.ByWorkload[w.Metadata.Name]; !seen[id] && (only == nil || only.Matches(w.Metadata.Labels)) {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	t := newTalk(after, now, talk.Conversations)
	flows := t.flows
	d, err := policy.Diff(before.At(model.StageActive), after.At(model.StageActive), ids, flows)
	if err != nil {
		return nil, problem(http.StatusUnprocessableEntity, "%v, with -l SELECTOR", err)
	}
	out := &PolicyDiff{Changes: []PolicyChange{}, Recorded: len(talk.Conversations)}
	places, plain := map[string]int{}, map[int]int{}
	for i := range d.Entries {
		e := &d.Entries[i]
		service := policy.Port{Protocol: e.Protocol, First: e.First, Last: e.Last}.String()
		if e.OtherProtocols {
			service = "other protocols"
		}
		key := fmt.Sprint(e.Before, e.After, service, e.Source, e.Destination)
		at, known := places[key]
		if !known {
			at = len(out.Changes)
			places[key], plain[at] = at, 1<<30
			out.Changes = append(out.Changes, PolicyChange{Before: e.Before, After: e.After, Source: after.Identities.Labels(e.Source), Destination: after.Identities.Labels(e.Destination), Service: service})
		}
		c := &out.Changes[at]
		c.Variants++
		if n := oddity(&e.Witness.Source) + oddity(&e.Witness.Destination); n < plain[at] {
			plain[at] = n
			c.Witness = Witness{Source: witnessEnd(&e.Witness.Source), Destination: witnessEnd(&e.Witness.Destination), Service: serviceOf(&e.Witness)}
		}
		for _, n := range e.Flows {
			if t.twice[n] {
				continue
			}
			c.Connections += flows[n].Count
			if len(c.Conversations) < 20 {
				c.Conversations = append(c.Conversations, talk.Conversations[n].ID)
			}
		}
	}
	return out, nil
}

// oddity says how much there is to explain of an end.
func oddity(e *policy.End) int {
	n := 4*bits.OnesCount16(uint16(e.Entities)) + 4*len(e.Names)
	if e.Process != (model.PolicyProcess{}) {
		n += 4
	}
	if e.Addr.Is6() {
		n++
	}
	return n
}

func witnessEnd(e *policy.End) WitnessEnd {
	return WitnessEnd{Address: e.Addr.String(), Process: e.Process, Entities: e.Entities.String(), Names: e.Names}
}

func serviceOf(p *policy.Packet) string {
	switch {
	case model.IsICMP(p.Protocol):
		return policy.Port{Protocol: p.Protocol, First: uint16(p.ICMPType)<<8 | uint16(p.ICMPCode), Last: uint16(p.ICMPType)<<8 | uint16(p.ICMPCode)}.String()
	case model.HasPorts(p.Protocol):
		return policy.Port{Protocol: p.Protocol, First: p.DestinationPort, Last: p.DestinationPort}.String()
	}
	return model.ProtocolName(p.Protocol)
}

func (a *API) replayPolicies(ctx context.Context, r *WhatIfRequest) (*PolicyReplay, error) {
	policies, groups, since, err := a.readWhatIf(ctx, r)
	if err != nil {
		return nil, err
	}
	now, err := a.fleet(ctx)
	if err != nil {
		return nil, err
	}
	talk := a.seen.Conversations(since)
	then := now.over(policies, groups)
	list, err := worlds(goneSets(talk.Conversations), then)
	if err != nil {
		return nil, err
	}
	set, err := policy.Compile(list[0].At(model.StageActive))
	if err != nil {
		return nil, problem(http.StatusUnprocessableEntity, "%v", err)
	}
	t := newTalk(list[0], now, talk.Conversations)
	replayer := policy.NewReplayer(set)
	recorded := 0
	for i := range t.flows {
		if !t.twice[i] {
			recorded++
			replayer.Add(&t.flows[i])
		}
	}
	res := replayer.Result()
	out := &PolicyReplay{Recorded: recorded, Flows: res.Flows, Allowed: res.Allowed, Denied: res.Denied, NewDenied: res.NewDenied, NewAllowed: res.NewAllowed,
		Missing: talk.Evicted + talk.Lost + talk.Unread}
	for _, d := range res.Denies {
		deny := ReplayDeny{Direction: d.Direction.String(), Verdict: d.Verdict.String(), Count: d.Count}
		for i := range d.Samples {
			deny.Samples = append(deny.Samples, t.say(&d.Samples[i]))
		}
		out.Denies = append(out.Denies, deny)
	}
	return out, nil
}

// talk is recorded conversations as flows of a world; flows[i] is the i-th.
type talk struct {
	world *plan.World
	flows []policy.Flow
	// twice marks what the other end has reported too.
	twice []bool
	// named has the names of ends, for people.
	named map[policy.Identity]string
}

type talkKey struct {
	source, destination string
	protocol            uint8
	port                uint16
}

func newTalk(w *plan.World, f *fleet, list []*observe.Conversation) *talk {
	t := &talk{world: w, flows: make([]policy.Flow, len(list)), twice: make([]bool, len(list)), named: map[policy.Identity]string{}}
	workloads := map[string]*model.Workload{}
	for _, wl := range f.workloads {
		workloads[wl.Metadata.Name] = wl
	}
	received := map[talkKey]*observe.Conversation{} // reports of receivers
	sent := map[talkKey]bool{}
	for _, c := range list {
		switch {
		case c.Peer == "":
		case c.PolicyDirection() == policy.Egress:
			sent[talkKey{c.Workload, c.Peer, c.Protocol, c.Port}] = true
		default:
			received[talkKey{c.Peer, c.Workload, c.Protocol, c.Port}] = c
		}
	}
	for i, c := range list {
		subject := policy.End{Identity: t.identity(c.Workload, c.Labels), Process: c.Process, Addr: standIn(c.PeerAddress)}
		if wl := workloads[c.Workload]; wl != nil {
			for _, a := range f.ofWorkload(wl).addrs {
				if a.BitLen() == subject.Addr.BitLen() {
					subject.Addr = a
				}
			}
		} else if subject.Addr.Is6() {
			subject.Addr = netip.MustParseAddr("2001:db8::1")
		} else {
			subject.Addr = netip.MustParseAddr("192.0.2.1")
		}
		peer := policy.End{Addr: standIn(c.PeerAddress), Names: c.Names}
		if c.PeerLabels != nil {
			peer.Identity = t.identity(c.Peer, c.PeerLabels)
		}
		for _, e := range c.Entities {
			peer.Entities |= policy.EntityBit(model.Entity(e))
		}
		p := newPacket(subject, peer, c.Protocol, c.Port)
		agreed := false // the other end's report names the same two
		if c.PolicyDirection() == policy.Egress {
			if r := received[talkKey{c.Workload, c.Peer, c.Protocol, c.Port}]; r != nil {
				p.Destination.Process, agreed = r.Process, true
			}
		} else {
			p.Source, p.Destination = peer, subject
			// A name was looked up by the receiver, not by the sender.
			p.Source.Names = nil
			t.twice[i] = sent[talkKey{c.Peer, c.Workload, c.Protocol, c.Port}]
			agreed = t.twice[i]
		}
		t.flows[i] = policy.Flow{Packet: *p, Count: max(c.Connections, 1), Denied: c.Action != model.ActionAllow}
		if !agreed {
			t.flows[i].Judge = f.judges(c, workloads)
		}
	}
	return t
}

// judges says which ends can be judged by a report that the other end does not
// confirm. What goes between a workload that is behind its machine and another
// machine is known to that one as traffic of the first machine: only the reporting
// end is judged by it, and the other by its own report, which names the machine.
func (f *fleet) judges(c *observe.Conversation, workloads map[string]*model.Workload) policy.Judges {
	subject, peer := workloads[c.Workload], workloads[c.Peer]
	switch {
	case subject == nil || peer == nil || subject.Spec.Host == peer.Spec.Host || !f.ofWorkload(subject).local:
		return policy.JudgeBoth
	case c.PolicyDirection() == policy.Egress:
		return policy.JudgeSender
	}
	return policy.JudgeReceiver
}

// identity finds who an end is in this world: by its name while it is there, by
// its labels when it is gone.
func (t *talk) identity(name string, labels map[string]string) policy.Identity {
	id, there := t.world.ByWorkload[name]
	if !there {
		id = t.world.Find(labels)
	}
	if t.named[id] == "" && id != 0 {
		t.named[id] = cmp.Or(name, fmt.Sprint(labels))
	}
	return id
}

// standIn is the address, or one of its family where only a name is kept.
func standIn(text string) netip.Addr {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.MustParseAddr("192.0.2.1")
	}
	return a
}

// say names a flow for a person.
func (t *talk) say(p *policy.Packet) string {
	end := func(e *policy.End) string {
		switch {
		case e.Identity != 0:
			return t.named[e.Identity]
		case len(e.Names) > 0:
			return e.Names[0]
		}
		return e.Addr.String()
	}
	return fmt.Sprintf("%s -> %s %s", end(&p.Source), end(&p.Destination), serviceOf(p))
}
