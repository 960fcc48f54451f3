package importing

import (
	"fmt"
	"strconv"

	"weft/model"
)

// withPorts returns the rules that allow the ports of a NetworkPolicy rule. There
// are two where named ports make a difference between pods and addresses.
func (k *cluster) withPorts(list cursor, peers *peerList, side string, subject podSet) []model.PolicyRule {
	var plain, named []model.PolicyPort
	items := list.items()
	for _, item := range items {
		p, isNamed, ok := k.networkPolicyPort(item, side, subject, peers)
		switch {
		case ok && isNamed:
			named = append(named, p)
		case ok:
			plain = append(plain, p)
		}
	}
	if len(items) > 0 && len(plain)+len(named) == 0 {
		return nil
	}
	rule := model.PolicyRule{Action: model.ActionAllow, Ports: plain}
	all := append(append([]model.PolicyPeer{}, peers.selectors...), peers.blocks...)
	if side == "from" {
		rule.Ports = append(plain, named...)
		named = nil
	}
	var out []model.PolicyRule
	if (len(items) == 0 || len(rule.Ports) > 0) && (peers.any || len(all) > 0) {
		if peers.any {
			all = nil
		}
		out = append(out, sided(rule, side, all))
	}
	if len(named) > 0 { // in egress a named port is one of a pod
		pods := peers.selectors
		if peers.any {
			every := selector(exists(namespaceLabel))
			pods = []model.PolicyPeer{{Selector: &every}}
		}
		if len(pods) > 0 {
			out = append(out, sided(model.PolicyRule{Action: model.ActionAllow, Ports: named}, side, pods))
		}
	}
	return out
}

func (k *cluster) networkPolicyPort(c cursor, side string, subject podSet, peers *peerList) (p model.PolicyPort, named, ok bool) {
	if !c.wantObject() {
		if !c.there() {
			c.fault("is empty; want protocol and port")
		}
		return p, false, false
	}
	known := true
	for _, f := range c.others("protocol", "port", "endPort") {
		f.cannot(model.ActionAllow, "is a field that is not known")
		known = false
	}
	p.Protocol = c.get("protocol").k8sProtocol()
	port, end := c.get("port"), c.get("endPort")
	if name, is := port.scalarText(); is {
		if _, err := strconv.Atoi(name); err == nil || name == "" {
			port.fault("%q is in quotes and so a name; write the number without", name)
			return p, false, false
		}
		if end.there() {
			end.fault("needs a number in port, not a name")
			return p, false, false
		}
		has := subject.has
		if side == "to" {
			has = peers.covers
			if len(peers.blocks) > 0 {
				port.find(Closes, fmt.Sprintf("is the port that a pod calls %q, to addresses", name), "it is for the pods of the rule only; addresses have no names of ports")
			}
			if !peers.any && len(peers.selectors) == 0 {
				return p, true, known // to no pod, so it allows nothing
			}
		}
		return k.namedPort(port, model.ActionAllow, p.Protocol, name, has, known)
	}
	n, given := port.whole(1, 65535)
	if given {
		p.Port = &n
	}
	if last, ranged := end.whole(1, 65535); ranged {
		switch {
		case !given:
			end.fault("needs port, the first of the range")
		case last < n:
			end.fault("%d is below port %d; exchange them", last, n)
		default:
			p.EndPort = &last
		}
	}
	return p, false, known
}

// namedPort resolves a name by the pods that are given.
func (k *cluster) namedPort(c cursor, action model.Action, protocol, name string, has func(*pod) bool, known bool) (p model.PolicyPort, named, ok bool) {
	number, why := k.named(namedPort{protocol, name}, has)
	if why != "" {
		c.cannot(action, fmt.Sprintf("is the port that a pod calls %q; %s", name, why))
		return p, true, false
	}
	c.find(Same, fmt.Sprintf("is the port that a pod calls %q", name), fmt.Sprintf("it is %d, as on every pod in the files; import again when that changes", number))
	return model.PolicyPort{Protocol: protocol, Port: &number}, true, known
}

// scalarText returns text, and whether it is text.
func (c cursor) scalarText() (string, bool) {
	if c.value == nil {
		return "", false
	}
	s, ok := c.value.scalar.(string)
	return s, ok
}

// k8sProtocol is TCP unless given.
func (c cursor) k8sProtocol() string {
	switch t := c.text(); t {
	case "":
		return "TCP"
	case "TCP", "UDP", "SCTP":
		return t
	default:
		c.fault("is %s; want TCP, UDP or SCTP", c.describe())
		return "TCP"
	}
}
