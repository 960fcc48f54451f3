// Package plan computes what every host should do from what people want and
// what agents report. It is pure: no I/O, no clock, no memory. The plan is a
// function of the present state alone, so the order in which that state came
// about cannot matter.
package plan

import (
	"cmp"
	"maps"
	"slices"

	"weft/model"
	"weft/policy"
	"weft/wire/wirepb"
)

// DirectPort is the TCP port on which a tool's agent accepts streams.
const DirectPort = 7444

// The names of the sections, in the order in which they are applied: a stream
// needs a way to travel and somebody who accepts it before it is opened.
const (
	SectionTransport = "transport"
	SectionDeliver   = "deliver"
	SectionCapture   = "capture"
	SectionPolicy    = "policy"
	SectionIdentity  = "identity"
)

// Sections lists the names in the order of their application.
var Sections = []string{SectionTransport, SectionDeliver, SectionCapture, SectionPolicy, SectionIdentity}

// Filter is a pcap-filter expression compiled for frames that begin with an
// Ethernet header and for frames that begin with an IP header.
type Filter struct {
	Ethernet, Raw []*wirepb.BPFInstruction
}

// State is everything a plan depends on. Order in the slices means nothing.
// Whether a host is online is no part of it: an agent that is away works on by
// what it has, and must find the same plan when it comes back.
type State struct {
	TrustDomain string
	Hosts       []*model.Host
	Relays      []*model.Relay
	Groups      []*model.Group
	Policies    []*model.Policy
	Taps        []*model.Tap
	// Workloads as their hosts' agents last reported them, with all labels.
	Workloads []*model.Workload
	// Interfaces are those of each host, by the host's name.
	Interfaces map[string][]model.Interface
	// CallerKeys are the public keys by which hosts tell one another who calls, by
	// the host's name. One without has no part in it.
	CallerKeys map[string][]byte
	// Filter compiles an expression; nil refuses every filter.
	Filter func(expression string) (Filter, error)
	// Failsafe says what no policy may take away; the ports of relays are added.
	Failsafe policy.FailsafeOptions
	// Number numbers identities; nil numbers them for this plan alone.
	Number Number
	// Last is the plan before, or nil. Nothing follows from it but speed, except
	// where policies do not compile: then hosts keep what it gave them.
	Last *Plan
}

// Plan is what follows from a State.
type Plan struct {
	// Hosts holds the sections of every host that is not revoked, by host name.
	Hosts map[string]*Host
	// Taps, Groups and Policies explain the plan, by the resource's name.
	Taps     map[string]*Tap
	Groups   map[string]*Group
	Policies map[string]*Policy
	// World is the policy of the fleet and who is who in it.
	World *World

	compiled *compiled
	fleet    *addressBook
	peers    *peerBook
}

// Host is one host's whole desired state, by section name. Every host has
// every section, empty where there is nothing to do; only those of policy are
// missing where policies do not compile and never have.
type Host struct {
	Sections map[string]*wirepb.Section

	segment *hostSegment
}

// Tap says who takes part in a tap, and what stands in its way.
type Tap struct {
	UID     string
	Sources []Source // by workload name
	Tools   []string // host names, sorted
	// Problems keep the tap, or a part of it, from working, in words for a
	// person. Refused is set where they keep all of it from working.
	Problems []string
	Refused  bool
}

// Source is one tapped workload.
type Source struct {
	Workload string // the resource's name
	ID       string // on its host
	Host     string
}

// LineID names the line of a tap toward one tool.
func LineID(tapUID, tool string) string { return tapUID + "/" + tool }

// Group is the resolved membership of a group, or why there is none.
type Group struct {
	Members []string // workload names, sorted
	Hosts   int
	Problem string
}

// Compute makes the plan.
func Compute(s State) *Plan {
	c := compute{State: s, workloads: liveWorkloads(s), plan: &Plan{Hosts: map[string]*Host{}, Taps: map[string]*Tap{}, Groups: map[string]*Group{}, Policies: map[string]*Policy{}}}
	c.resolver = NewResolver(s.Groups, c.workloads)
	c.hosts = map[string]*hostLines{}
	for _, h := range s.Hosts {
		if !h.Spec.Revoked {
			c.hosts[h.Metadata.Name] = &hostLines{host: h}
		}
	}
	for _, g := range s.Groups {
		c.plan.Groups[g.Metadata.Name] = c.group(g)
	}
	for _, t := range slices.SortedFunc(slices.Values(s.Taps), func(a, b *model.Tap) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) }) {
		c.plan.Taps[t.Metadata.Name] = c.tap(t)
	}
	relays := c.relays()
	for name, lines := range c.hosts {
		c.plan.Hosts[name] = lines.sections(relays)
	}
	c.segment()
	return c.plan
}

type compute struct {
	State
	workloads []*model.Workload
	resolver  *Resolver
	hosts     map[string]*hostLines
	plan      *Plan
}

// liveWorkloads drops what is on revoked or unknown hosts and sorts by name.
func liveWorkloads(s State) []*model.Workload {
	live := map[string]bool{}
	for _, h := range s.Hosts {
		live[h.Metadata.Name] = !h.Spec.Revoked
	}
	var out []*model.Workload
	for _, w := range s.Workloads {
		if live[w.Spec.Host] {
			out = append(out, w)
		}
	}
	slices.SortFunc(out, func(a, b *model.Workload) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
	return out
}

func (c *compute) group(g *model.Group) *Group {
	members, err := c.resolver.Members(g.Spec)
	if err != nil {
		return &Group{Problem: err.Error()}
	}
	out := &Group{Members: make([]string, len(members))}
	hosts := map[string]bool{}
	for i, w := range members {
		out.Members[i] = w.Metadata.Name
		hosts[w.Spec.Host] = true
	}
	out.Hosts = len(slices.Collect(maps.Keys(hosts)))
	return out
}
