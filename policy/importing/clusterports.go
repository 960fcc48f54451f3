package importing

import (
	"strings"

	"weft/model"
)

// clusterPorts returns the ports of a cluster policy's rule that can be said, and
// whether that is all.
func (k *cluster) clusterPorts(rule cursor, action model.Action, has func(*pod) bool) (out []model.PolicyPort, whole bool) {
	whole = true
	for _, list := range []cursor{rule.get("protocols"), rule.get("ports")} {
		for _, item := range list.items() {
			if !item.value.isObject() || len(item.value.order) != 1 {
				item.fault("is %s; want an object with one field", item.describe())
				continue
			}
			ports, ok := k.clusterPort(item, action, has)
			out = append(out, ports...)
			whole = whole && ok
		}
	}
	return out, whole
}

// clusterPort reads {tcp: {destinationPort: {number | range}}} of v1alpha2, or
// {portNumber | portRange | namedPort} of v1alpha1.
func (k *cluster) clusterPort(c cursor, action model.Action, has func(*pod) bool) ([]model.PolicyPort, bool) {
	field := c.value.order[0]
	in := c.get(field)
	switch field {
	case "tcp", "udp", "sctp":
		protocol := strings.ToUpper(field)
		port := in.get("destinationPort")
		if !in.wantObject() || !in.knows(action, "destinationPort") || !port.knows(action, "number", "range") {
			return nil, false
		}
		switch n, r := port.get("number"), port.get("range"); {
		case !port.there():
			return []model.PolicyPort{{Protocol: protocol}}, true
		case n.there() && !r.there():
			return portRange(protocol, n, n), true
		case r.there() && !n.there() && r.knows(action, "start", "end"):
			return portRange(protocol, r.get("start"), r.get("end")), true
		}
		port.fault("is %s; want number or range", port.describe())
	case "portNumber":
		if in.wantObject() && in.knows(action, "protocol", "port") {
			return portRange(in.get("protocol").k8sProtocol(), in.get("port"), in.get("port")), true
		}
	case "portRange":
		if in.wantObject() && in.knows(action, "protocol", "start", "end") {
			return portRange(in.get("protocol").k8sProtocol(), in.get("start"), in.get("end")), true
		}
	case "namedPort", "destinationNamedPort":
		var out []model.PolicyPort
		for _, protocol := range []string{"TCP", "UDP", "SCTP"} { // a name is for whichever protocol has it
			if n, why := k.named(namedPort{protocol, in.text()}, has); why == "" {
				out = append(out, model.PolicyPort{Protocol: protocol, Port: &n})
			} else if k.anyNamed(namedPort{protocol, in.text()}, has) {
				in.cannot(action, "is the port that a pod calls "+in.text()+"; "+why)
				return nil, false
			}
		}
		if len(out) == 0 {
			in.cannot(action, "is the port that a pod calls "+in.text()+"; no pod in the files says its number")
			return nil, false
		}
		in.find(Same, "is the port that a pod calls "+in.text(), "it is the number that every pod in the files gives it; import again when that changes")
		return out, true
	default:
		in.cannot(action, "is a kind of port that is not known")
	}
	return nil, false
}

// knows reports the fields that are not among those known.
func (c cursor) knows(action model.Action, fields ...string) bool {
	others := c.others(fields...)
	for _, f := range others {
		f.cannot(action, "is a field that is not known")
	}
	return len(others) == 0
}

func portRange(protocol string, first, last cursor) []model.PolicyPort {
	a, ok := first.whole(1, 65535)
	if !ok {
		if !first.there() {
			first.fault("is missing; want a port from 1 to 65535")
		}
		return nil
	}
	b, ok := last.whole(1, 65535)
	if !ok || b < a {
		if b < a {
			last.fault("is missing or below %d, the first port; exchange them", a)
		}
		return nil
	}
	if a == b {
		return []model.PolicyPort{{Protocol: protocol, Port: &a}}
	}
	return []model.PolicyPort{{Protocol: protocol, Port: &a, EndPort: &b}}
}

// anyNamed says whether a pod of a set has the named port.
func (k *cluster) anyNamed(port namedPort, has func(*pod) bool) bool {
	for i := range k.pods {
		if _, ok := k.pods[i].ports[port]; ok && has(&k.pods[i]) {
			return true
		}
	}
	return false
}
