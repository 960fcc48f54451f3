package importing

import (
	"fmt"
	"strconv"
	"strings"

	"weft/model"
)

// rules reads the rules of a direction. Where whole is not set nothing may be
// allowed by them.
func (k *calico) rules(list cursor, peerSide, ownSide, namespace string, whole bool) []ordered {
	side := "from"
	if peerSide == "destination" {
		side = "to"
	}
	var out []ordered
	for i, c := range list.items() {
		if !c.wantObject() {
			c.fault("is empty; want an action")
			continue
		}
		var action model.Action
		switch a := c.get("action"); a.text() {
		case "Allow", "allow":
			action = model.ActionAllow
		case "Deny", "deny":
			action = model.ActionDeny
		case "Pass", "pass", "next-tier":
			action = model.ActionPass
		case "Log", "log":
			action = model.ActionLog
		default:
			a.fault("is %s; want Allow, Deny, Pass or Log", a.describe())
			continue
		}
		x := calicoRule{calico: k, at: c, action: action, namespace: namespace, said: c.knows(action, "action", "metadata", "ipVersion", "protocol", "notProtocol", "icmp", "notICMP", "source", "destination")}
		x.readServices(c.get("destination"))
		peers, everyPeer := x.peers(c.get(peerSide))
		narrow, everySubject := x.own(c.get(ownSide))
		if own := c.in("source", "ports"); own.there() {
			x.unsaid(own, "names ports of the sender")
		}
		if own := c.in("source", "notPorts"); own.there() {
			x.unsaid(own, "names ports of the sender")
		}
		if (!x.said || !whole) && action == model.ActionPass { // it would skip what denies
			x.action = model.ActionDeny
		}
		if x.action == model.ActionAllow && (!x.said || !whole) || !everyPeer && len(peers) == 0 || !everySubject && len(narrow) == 0 {
			continue
		}
		rule := model.PolicyRule{Name: fmt.Sprintf("rule-%d", i), Action: x.action}
		var zero bool
		rule.Ports, zero = x.services.ports()
		if zero && x.action != model.ActionAllow && x.action != model.ActionLog {
			c.find(Opens, "stops port 0 too, which no service has", "port 0 is not stopped by this rule: a policy cannot name it")
		}
		if len(rule.Ports) == 0 && !x.services.whole() {
			continue
		}
		out = append(out, ordered{rule: sided(rule, side, peers), narrow: narrow})
	}
	return out
}

// calicoRule is one being read. What it cannot say of a condition leaves that
// condition out and clears said.
type calicoRule struct {
	*calico
	at        cursor
	action    model.Action
	namespace string
	said      bool
	services  services
	family    addresses // of ipVersion; nil for both
}

func (x *calicoRule) unsaid(at cursor, why string) {
	at.cannot(x.action, why)
	x.said = false
}

// readServices reads protocol, ports and ICMP types.
func (x *calicoRule) readServices(destination cursor) {
	c := x.at
	x.services = allServices()
	number, single := uint8(0), false
	if p := c.get("protocol"); p.there() {
		n, known := p.calicoProtocol()
		if !known {
			x.unsaid(p, "is a protocol that is not known")
		} else {
			number, single, x.services = n, true, serviceOf(n, everyKey...)
		}
	}
	if p := c.get("notProtocol"); p.there() {
		if n, known := p.calicoProtocol(); known {
			x.services = x.services.without(serviceOf(n, everyKey...))
		} else {
			x.unsaid(p, "is a protocol that is not known")
		}
	}
	for _, field := range []string{"icmp", "notICMP"} {
		if i := c.get(field); i.there() && i.wantObject() {
			if !single || !model.IsICMP(number) {
				i.fault("needs protocol ICMP or ICMPv6")
				continue
			}
			x.restrict(serviceOf(number, i.calicoICMP()), field == "notICMP")
		}
	}
	for _, field := range []string{"ports", "notPorts"} {
		list := destination.get(field)
		if !list.there() {
			continue
		}
		if !single || !model.HasPorts(number) {
			if single && number == 136 {
				x.unsaid(list, "names ports of a protocol whose ports a policy cannot name")
			} else {
				list.fault("needs protocol TCP, UDP or SCTP")
			}
			continue
		}
		var ranges []keys
		for _, item := range list.items() {
			if k, ok := x.port(item); ok {
				ranges = append(ranges, k)
			}
		}
		if field == "ports" || len(ranges) > 0 {
			x.restrict(serviceOf(number, ranges...), field == "notPorts")
		}
	}
	if v := c.get("ipVersion"); v.there() {
		switch n, _ := v.whole(4, 6); n {
		case 4:
			x.family = allIPv4
		case 6:
			x.family = allIPv6
		default:
			v.fault("is %s; want 4 or 6", v.describe())
		}
	}
}

func (x *calicoRule) restrict(s services, not bool) {
	if not {
		x.services = x.services.without(s)
	} else {
		x.services = x.services.and(s)
	}
}

func (c cursor) calicoProtocol() (uint8, bool) {
	if name, is := c.scalarText(); is {
		n, known := protocolNumbers[strings.ToLower(name)]
		if v, err := strconv.ParseUint(name, 10, 8); err == nil {
			n, known = uint8(v), true
		}
		return n, known
	}
	n, ok := c.whole(1, 255)
	return uint8(n), ok
}

func (c cursor) calicoICMP() keys {
	kind, has := c.get("type").whole(0, 255)
	code, hasCode := c.get("code").whole(0, 255)
	switch {
	case !has && hasCode:
		c.get("type").fault("is missing; a code needs its type")
	case !has:
		return everyKey[0]
	case hasCode:
		return keys{uint16(kind<<8 | code), uint16(kind<<8 | code)}
	}
	return keys{uint16(kind << 8), uint16(kind<<8 | 255)}
}

// port is a number, "FIRST:LAST", or the name a pod gives a port, which cannot be
// said. The rule then denies every port, or is left out.
func (x *calicoRule) port(c cursor) (keys, bool) {
	name, is := c.scalarText()
	if !is {
		n, ok := c.whole(0, 65535)
		return keys{uint16(n), uint16(n)}, ok
	}
	low, high, ranged := strings.Cut(name, ":")
	if !ranged {
		high = low
	}
	a, err1 := strconv.ParseUint(low, 10, 16)
	b, err2 := strconv.ParseUint(high, 10, 16)
	switch {
	case err1 != nil || err2 != nil:
		x.unsaid(c, "is a port that pods name; Calico's policies carry no numbers for it")
		return everyKey[0], !strings.Contains(c.path, ".notPorts")
	case b < a:
		c.fault("%q ends before it begins; exchange the numbers", short(name))
		return keys{}, false
	}
	return keys{uint16(a), uint16(b)}, true
}
