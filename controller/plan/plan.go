// Package plan computes what every host should do from what people want and
// what agents report. It is pure: no I/O, no clock, no memory. The plan is a
// function of the present state alone, so the order in which that state came
// about cannot matter.
package plan

import (
	"cmp"
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
	SectionFlow      = "flow"
	SectionPolicy    = "policy"
	SectionIdentity  = "identity"
	SectionMonitor   = "monitor"
	SectionProbe     = "probe"
)

// Sections lists the names in the order of their application.
var Sections = []string{SectionTransport, SectionDeliver, SectionCapture, SectionFlow, SectionPolicy, SectionIdentity, SectionMonitor, SectionProbe}

// Filter is a pcap-filter expression compiled for frames that begin with an
// Ethernet header and for frames that begin with an IP header.
type Filter struct {
	Ethernet, Raw []*wirepb.BPFInstruction
}

// State is everything a plan depends on. Order in the slices means nothing, but
// what is sorted by name need not be sorted again. Resources are compared by
// their addresses: whoever changes one must make another. So are the lists of
// interfaces.
// Whether a host is online is no part of it: an agent that is away works on by
// what it has, and must find the same plan when it comes back.
type State struct {
	TrustDomain string
	Hosts       []*model.Host
	Relays      []*model.Relay
	Groups      []*model.Group
	Policies    []*model.Policy
	Taps        []*model.Tap
	Rules       []*model.AlertRule
	Probes      []*model.Probe
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
}

// Plan is what follows from a State. It is never changed.
type Plan struct {
	// Hosts holds the sections of every host that is not revoked, by host name.
	Hosts *Table[string, *Host]
	// Changed are the hosts of which a section, or all, is not as in the plan
	// before; those that are gone from the plan are among them.
	Changed []string
	// Taps explain the plan, by the tap's name.
	Taps map[string]*Tap

	problem    string // keeps every policy from being applied
	policies   *Table[string, planned]
	targets    *Table[string, *found]
	identities *Table[string, policy.Identity]
	labels     *Table[policy.Identity, map[string]string]
	workloads  []*model.Workload
}

// Host is one host's whole desired state, by section name. Every host has
// every section, empty where there is nothing to do; only those of policy are
// missing where policies do not compile and never have.
type Host struct {
	Sections map[string]*wirepb.Section
}

// Identity returns the identity of a workload by its name; 0 where it has none.
func (p *Plan) Identity(workload string) policy.Identity { return p.identities.Get(workload) }

// Labels returns the labels of an identity, nil where there is none.
func (p *Plan) Labels(id policy.Identity) map[string]string { return p.labels.Get(id) }

// Tap says who takes part in a tap, and what stands in its way.
type Tap struct {
	UID     string
	Sources []Source // by workload name
	Tools   []string // host names, sorted; of a ring, one without a name
	Ring    bool
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

// LineID names the line of a tap toward one tool, or to the ring of each host, which
// is a tool without a name.
func LineID(tapUID, tool string) string { return tapUID + "/" + tool }

// compute plans the lines of taps.
type compute struct {
	State
	resolver *Resolver
	hosts    map[string]*hostLines
	rings    []*wirepb.Ring // of all taps
}

// lines plans all taps, what is metered, what hosts watch themselves for and what they probe, and returns the sections they come to, by host.
func (c *compute) lines() (map[string]*Tap, map[string][]*wirepb.Section) {
	c.hosts = map[string]*hostLines{}
	for _, h := range c.Hosts {
		if !h.Spec.Revoked {
			c.hosts[h.Metadata.Name] = &hostLines{host: h}
		}
	}
	taps, sections := map[string]*Tap{}, make(map[string][]*wirepb.Section, len(c.hosts))
	for _, t := range c.Taps {
		taps[t.Metadata.Name] = c.tap(t)
	}
	slices.SortFunc(c.rings, func(a, b *wirepb.Ring) int { return cmp.Compare(a.Line, b.Line) })
	relays, quiet, rules, probes, idle := c.relays(), c.quiet(), c.alertRules(), c.scheduled(), idleSections(c.rings)
	for name, lines := range c.hosts {
		sections[name] = append(lines.sections(relays, c.rings, idle), flowSection(quiet[name]), monitorSection(rules[name]), probeSection(probes[name]))
	}
	return taps, sections
}
