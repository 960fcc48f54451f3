package policy

import (
	"net/netip"
	"strings"

	"weft/model"
)

// Direction is that of a packet seen from the subject.
type Direction uint8

// The directions.
const (
	Ingress Direction = iota
	Egress
)

func (d Direction) String() string {
	if d == Egress {
		return "egress"
	}
	return "ingress"
}

// Packet is the first packet of a connection, or any packet under stateless
// rules. A fragment without ports must be judged as its first fragment was.
type Packet struct {
	Source, Destination         End
	Protocol                    uint8 // IANA number
	SourcePort, DestinationPort uint16
	ICMPType, ICMPCode          uint8 // where Protocol is ICMP or ICMPv6
}

// End is one end of a packet as the other end's host knows it.
type End struct {
	// Addr may be IPv4-mapped IPv6: it is judged as the IPv4 address it is.
	Addr netip.Addr
	// Identity is 0 for what is no workload of weft.
	Identity Identity
	// Process is what is known of the process; empty fields are not known.
	Process model.PolicyProcess
	// Entities is what this end is to the other: host, self, dns,
	// control-plane, relay, metadata. any, world and fleet follow from Identity.
	Entities EntitySet
	// Names are those the other end has looked up to get Addr, in lower case
	// without a dot at the end.
	Names []string
}

// Ends returns the subject's end and its peer's.
func (p *Packet) Ends(d Direction) (subject, peer *End) {
	if d == Egress {
		return &p.Source, &p.Destination
	}
	return &p.Destination, &p.Source
}

// Key is what Ports are matched against: the destination port, or type<<8|code.
func (p *Packet) Key() uint16 {
	switch {
	case model.IsICMP(p.Protocol):
		return uint16(p.ICMPType)<<8 | uint16(p.ICMPCode)
	case model.HasPorts(p.Protocol):
		return p.DestinationPort
	}
	return 0
}

// EntitySet is a set of entities, one bit each in the order of model.Entities.
type EntitySet uint16

// EntityBit returns the set of one entity, empty for an unknown one.
func EntityBit(e model.Entity) EntitySet {
	for i, known := range model.Entities {
		if e == known {
			return 1 << i
		}
	}
	return 0
}

var (
	bitAny   = EntityBit(model.EntityAny)
	bitWorld = EntityBit(model.EntityWorld)
	bitFleet = EntityBit(model.EntityFleet)
)

func (s EntitySet) String() string {
	var names []string
	for i, e := range model.Entities {
		if s&(1<<i) != 0 {
			names = append(names, string(e))
		}
	}
	return strings.Join(names, ",")
}

// entities returns every entity the end is, those that follow from its identity too.
func (e *End) entities() EntitySet {
	set := e.Entities &^ (bitWorld | bitFleet)
	if e.Identity == 0 {
		return set | bitAny | bitWorld
	}
	return set | bitAny | bitFleet
}

// processMatches says whether one of the conditions holds; none at all always do.
func processMatches(conditions []model.PolicyProcess, p *model.PolicyProcess) bool {
	for i := range conditions {
		c := &conditions[i]
		if (c.Exe == "" || c.Exe == p.Exe) && (c.User == "" || c.User == p.User) && (c.Cgroup == "" || within(p.Cgroup, c.Cgroup)) {
			return true
		}
	}
	return len(conditions) == 0
}

func within(path, dir string) bool {
	if dir == "/" {
		return path != ""
	}
	return strings.HasPrefix(path, dir) && (len(path) == len(dir) || path[len(dir)] == '/')
}

// nameMatches says whether one of the names fits one of the patterns. "*." stands
// for one label or more.
func nameMatches(patterns, names []string) bool {
	for _, p := range patterns {
		for _, n := range names {
			if p == n || strings.HasPrefix(p, "*.") && len(n) > len(p)-1 && strings.HasSuffix(n, p[1:]) {
				return true
			}
		}
	}
	return false
}

// ProcessMatches says whether one of the conditions on processes holds for what
// is known of one; no condition at all always holds.
func ProcessMatches(conditions []model.PolicyProcess, p *model.PolicyProcess) bool {
	return processMatches(conditions, p)
}

// NameMatches says whether one of the names fits one of the patterns.
func NameMatches(patterns, names []string) bool { return nameMatches(patterns, names) }

// Special are the entities that do not follow from an identity: what else is
// known of an address or of the way to it.
var Special = EntityBit(model.EntityHost) | EntityBit(model.EntitySelf) | EntityBit(model.EntityDNS) |
	EntityBit(model.EntityControlPlane) | EntityBit(model.EntityRelay) | EntityBit(model.EntityMetadata)
