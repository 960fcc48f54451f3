package importing

import (
	"fmt"
	"strconv"
	"strings"

	"weft/model"
)

// neutronRule is a rule whichever way it is written.
type neutronRule struct {
	at                      cursor
	protocol, group, prefix cursor
	least, most             int
	addressGroup            cursor
	directionAt, familyAt   cursor
}

// ruleNotes say nothing about packets.
var ruleNotes = []string{"id", "tenant_id", "project_id", "description", "created_at", "updated_at", "revision_number", "tags", "standard_attr_id", "belongs_to_default_sg", "shared", "normalized_cidr", "name", "location"}

func (n *neutron) add(g *securityGroup, x neutronRule) {
	rule := groupRule{}
	switch x.directionAt.text() {
	case "ingress":
	case "egress":
		rule.egress = true
	default:
		x.directionAt.fault("is %s; want ingress or egress", x.directionAt.describe())
	}
	family := allIPv4
	switch x.familyAt.text() {
	case "IPv4":
	case "IPv6":
		family = allIPv6
	default:
		x.familyAt.fault("is %s; want IPv4 or IPv6", x.familyAt.describe())
	}
	protocol, all, said := x.protocolNumber(family[0].first.Is6())
	if !said {
		return
	}
	if !all {
		if rule.ports, said = x.at.groupPorts(protocol, x.least, x.most); !said {
			return
		}
	} else if x.least >= 0 || x.most >= 0 {
		x.at.fault("has ports without a protocol that has them; write tcp, udp or sctp")
		return
	}
	group := text(x.group)
	prefix := text(x.prefix)
	switch {
	case text(x.addressGroup) != "":
		x.addressGroup.cannot(model.ActionAllow, "is an address group, whose addresses are not in the file")
		return
	case group != "" && prefix != "":
		x.group.fault("stands beside a range of addresses; want one of them")
		return
	case group != "" && !isGroupID(group):
		x.group.fault("%q is no id of a group", short(group))
		return
	case group != "":
		rule.label, rule.family = groupLabel+group, family
	case prefix != "":
		p, ok := x.prefix.prefix()
		if !ok {
			return
		}
		if p.Addr().Is4() != family[0].first.Is4() {
			x.prefix.fault("%s is not of the ethertype", p)
		}
		rule.addr = addressesOf(p)
	default:
		rule.addr = family
	}
	g.rules = append(g.rules, rule)
}

// text returns what is written, "" for nothing and for null.
func text(c cursor) string {
	if !c.there() {
		return ""
	}
	return c.text()
}

// neutronProtocols are names beside those of protocolNumbers.
var neutronProtocols = map[string]uint8{"egp": 8, "ipip": 4, "ipv6-encap": 41, "ipv6-frag": 44, "ipv6-icmp": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "ipv6-route": 43, "pgm": 113, "rsvp": 46}

func (x *neutronRule) protocolNumber(ipv6 bool) (number uint8, all, said bool) {
	name := strings.ToLower(fmt.Sprint(x.protocol.scalar()))
	if name == "" || name == "any" {
		return 0, true, true
	}
	n, err := strconv.ParseUint(name, 10, 8)
	number, known := protocolNumbers[name]
	if !known {
		number, known = neutronProtocols[name]
	}
	if err == nil {
		number, known = uint8(n), true
	}
	switch {
	case !known:
		x.protocol.cannot(model.ActionAllow, "is a protocol that is not known")
		return 0, false, false
	case number == 1 && ipv6:
		number = 58 // Neutron takes icmp for ICMPv6 there
	case (number == 33 || number == 136) && (x.least >= 0 || x.most >= 0):
		x.protocol.cannot(model.ActionAllow, "is a protocol whose ports a policy cannot name")
		return 0, false, false
	}
	return number, false, true
}

// scalar returns a scalar, "" for none.
func (c cursor) scalar() any {
	if !c.there() || c.value.scalar == nil {
		return ""
	}
	return c.value.scalar
}
