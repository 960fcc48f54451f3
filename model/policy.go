package model

import "slices"

// Policy says what the workloads it selects may send and receive.
type Policy struct {
	TypeMeta
	Metadata Metadata     `json:"metadata"`
	Spec     PolicySpec   `json:"spec"`
	Status   PolicyStatus `json:"status,omitzero"`
}

// Tier is one of the fixed steps in which policies are tried, first to last.
type Tier string

// The tiers. TierFailsafe comes before all and is weft's own: a person cannot
// write into it, but sees it in every explanation.
const (
	TierFailsafe    Tier = "Failsafe"
	TierEmergency   Tier = "Emergency"
	TierSecurity    Tier = "Security"
	TierPlatform    Tier = "Platform"
	TierApplication Tier = "Application"
	TierBaseline    Tier = "Baseline"
	TierDefault     Tier = "Default"
)

// Tiers lists the tiers a person can write into, in the order they are tried.
var Tiers = []Tier{TierEmergency, TierSecurity, TierPlatform, TierApplication, TierBaseline, TierDefault}

// Stage says how far a policy is taken.
type Stage string

// The stages of a policy.
const (
	StageDraft  Stage = "Draft"  // evaluated on request only
	StageStaged Stage = "Staged" // evaluated on every flow and reported, not enforced
	StageActive Stage = "Active" // enforced
)

// Mode says what becomes of a packet that no rule decides.
type Mode string

// Modes lists the modes, the strictest last.
var Modes = []Mode{ModeObserve, ModeSelective, ModeEnforce}

// Stricter returns the stricter of two modes; "" is less than any.
func (m Mode) Stricter(other Mode) Mode {
	if slices.Index(Modes, other) > slices.Index(Modes, m) {
		return other
	}
	return m
}

// The modes of a subject. Explicit rules of Active policies hold in every mode.
const (
	// ModeObserve allows what no rule decides.
	ModeObserve Mode = "Observe"
	// ModeSelective denies it in a direction in which a policy that selects the
	// subject allows something or lists no rule at all, as Kubernetes isolates
	// pods; it allows it in any other direction.
	ModeSelective Mode = "Selective"
	// ModeEnforce denies what no rule decides.
	ModeEnforce Mode = "Enforce"
)

// Action is what a rule does with a packet it matches.
type Action string

// The actions. Log is the only one that does not end the search in its tier.
const (
	ActionAllow  Action = "Allow"
	ActionDeny   Action = "Deny"   // drop without a word
	ActionReject Action = "Reject" // drop and tell the sender: TCP reset or ICMP
	ActionPass   Action = "Pass"   // skip the rest of this tier
	ActionLog    Action = "Log"
)

// Limits of a policy, so that one resource cannot fill a host.
const (
	MaxPriority     = 10_000
	DefaultPriority = 1000
	MaxPolicyRules  = 10_000 // in both directions together
	MaxRulePeers    = 1000
	MaxPeerItems    = 4096 // ipBlocks, domainNames, entities, processes of one peer; excepts of one block
	MaxRulePorts    = 256
)

// PolicySpec is the intent. At the same tier and priority Log comes first, then
// Reject and Deny, then Pass, then Allow; then the policy's name and the rule's
// place decide.
type PolicySpec struct {
	// Tier is Emergency, Security, Platform, Application (unless given),
	// Baseline or Default.
	Tier Tier `json:"tier,omitempty"`
	// Priority orders policies within the tier, 0 to 10000, lower first; 1000
	// unless given.
	Priority *int `json:"priority,omitempty"`
	// Stage is Draft, Staged (unless given) or Active.
	Stage Stage `json:"stage,omitempty"`
	// PromoteAfter makes a Staged policy Active by itself once it has been in
	// force as Staged on all its hosts for so long, as "24h", and would have
	// turned down nothing that was let through. A change, a denial that would
	// be, or a host that is away begins the time anew.
	PromoteAfter string `json:"promoteAfter,omitempty"`
	// Stateful lets the answers of what is allowed through, unless false: then
	// no connection is tracked for what these rules match, and answers need
	// rules of their own.
	Stateful *bool `json:"stateful,omitempty"`
	// Subject are the workloads the policy is for.
	Subject PolicySubject `json:"subject"`
	// Ingress are the rules for what the subject receives. An empty list
	// allows nothing in the Selective mode; leaving it out says nothing.
	Ingress []PolicyRule `json:"ingress,omitzero"`
	// Egress are the rules for what the subject sends; see ingress.
	Egress []PolicyRule `json:"egress,omitzero"`
}

// PolicySubject names the workloads, and processes in them, a policy is for.
type PolicySubject struct {
	// Selector names workloads by their labels; "*" takes every workload.
	Selector *Selector `json:"selector,omitempty"`
	// Processes narrows the policy to these processes of the workloads.
	Processes []PolicyProcess `json:"processes,omitempty"`
}

// PolicyRule is one line of a policy. It matches where one of the peers and one
// of the ports match.
type PolicyRule struct {
	// Name appears in explanations and keeps the rule's counters when rules
	// are moved; unique within its direction.
	Name string `json:"name,omitempty"`
	// Action is Allow, Deny, Reject, Pass or Log.
	Action Action `json:"action"`
	// From are the senders, in ingress rules; leave it out for every sender.
	From []PolicyPeer `json:"from,omitzero"`
	// To are the receivers, in egress rules; leave it out for every receiver.
	To []PolicyPeer `json:"to,omitzero"`
	// Ports are the destination ports and protocols; leave it out for all.
	Ports []PolicyPort `json:"ports,omitzero"`
}

// PolicyPeer is the other end: exactly one of selector, entities, ipBlocks and
// domainNames, and with the first two also processes.
type PolicyPeer struct {
	// Selector names workloads by their labels; "*" takes every workload, and
	// nothing that is not one.
	Selector *Selector `json:"selector,omitempty"`
	// Entities are any, world, fleet, host, self, dns, control-plane, relay or
	// metadata.
	Entities []Entity `json:"entities,omitempty"`
	// IPBlocks are ranges of addresses.
	IPBlocks []IPBlock `json:"ipBlocks,omitempty"`
	// DomainNames are names whose addresses the subject has looked up, as
	// "example.org" or "*.example.org". Only in egress rules that allow.
	DomainNames []string `json:"domainNames,omitempty"`
	// Processes narrows the peer to these processes. A process that is not
	// known matches none.
	Processes []PolicyProcess `json:"processes,omitempty"`
}

// Entity is a peer known by what it is rather than by labels.
type Entity string

// The entities.
const (
	EntityAny          Entity = "any"           // every peer
	EntityWorld        Entity = "world"         // whatever is no workload of weft
	EntityFleet        Entity = "fleet"         // every workload of weft
	EntityHost         Entity = "host"          // the machine the subject is on
	EntitySelf         Entity = "self"          // the subject itself
	EntityDNS          Entity = "dns"           // the resolvers the host is set to
	EntityControlPlane Entity = "control-plane" // the controller
	EntityRelay        Entity = "relay"         // weft's relays
	EntityMetadata     Entity = "metadata"      // the cloud's metadata service
)

// Entities lists every entity.
var Entities = []Entity{EntityAny, EntityWorld, EntityFleet, EntityHost, EntitySelf, EntityDNS, EntityControlPlane, EntityRelay, EntityMetadata}

// IPBlock is a range of addresses with holes.
type IPBlock struct {
	// CIDR is the range, as "10.0.0.0/8" or "2001:db8::/32".
	CIDR string `json:"cidr"`
	// Except are ranges within it that do not belong.
	Except []string `json:"except,omitempty"`
	// IncludeManaged takes the addresses of weft's workloads too; without it
	// the block is about everything else.
	IncludeManaged bool `json:"includeManaged,omitempty"`
}

// PolicyProcess names processes; all that is given must hold.
type PolicyProcess struct {
	// Exe is the absolute path of the executable.
	Exe string `json:"exe,omitempty"`
	// User is the name of the user it runs as.
	User string `json:"user,omitempty"`
	// Cgroup is the absolute path of a cgroup; those below it are included.
	Cgroup string `json:"cgroup,omitempty"`
}

// PolicyPort is a protocol and, where it has them, ports or ICMP types.
type PolicyPort struct {
	// Protocol is TCP, UDP, SCTP, ICMP, ICMPv6 or the number of another, in
	// quotes ("47").
	Protocol string `json:"protocol"`
	// Port is a destination port of TCP, UDP or SCTP; leave it out for all.
	Port *int `json:"port,omitempty"`
	// EndPort is the last port of a range that begins at port.
	EndPort *int `json:"endPort,omitempty"`
	// ICMP narrows ICMP and ICMPv6 to a type.
	ICMP *PolicyICMP `json:"icmp,omitempty"`
}

// PolicyICMP is an ICMP type and, unless left out, a code.
type PolicyICMP struct {
	// Type is the ICMP type, 0 to 255.
	Type *int `json:"type"`
	// Code is the ICMP code, 0 to 255; leave it out for all.
	Code *int `json:"code,omitempty"`
}

// TierOrDefault returns the tier, Application unless given.
func (s *PolicySpec) TierOrDefault() Tier {
	if s.Tier == "" {
		return TierApplication
	}
	return s.Tier
}

// StageOrDefault returns the stage, Staged unless given.
func (s *PolicySpec) StageOrDefault() Stage {
	if s.Stage == "" {
		return StageStaged
	}
	return s.Stage
}

// PriorityOrDefault returns the priority, 1000 unless given.
func (s *PolicySpec) PriorityOrDefault() int {
	if s.Priority == nil {
		return DefaultPriority
	}
	return *s.Priority
}

// IsStateful says whether connections are tracked, as they are unless refused.
func (s *PolicySpec) IsStateful() bool { return s.Stateful == nil || *s.Stateful }
