package importing

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"weft/model"
)

// groupLabel comes before a security group's id in the key of the label that its
// machines carry.
const groupLabel = "cloud.security-group/"

// securityGroup is a list of what is allowed; a machine in several is allowed what
// one of them allows, and one in none is not touched.
type securityGroup struct {
	at        cursor
	id, name  string
	stateless bool
	rules     []groupRule
}

// groupRule allows one thing.
type groupRule struct {
	egress bool
	label  string    // of the peers, or
	addr   addresses // their addresses, or
	entity model.Entity
	family addresses // narrows label to one family; nil for both
	ports  []model.PolicyPort
}

// isGroupID says whether an id can be part of a label's key.
func isGroupID(id string) bool { return id != "" && model.CheckLabelKey(groupLabel+id) == nil }

// addGroup writes the policies of a group. A selector cannot be narrowed to one
// family of addresses, so rules that are come last in a tier in which Pass has
// taken the other family on to the next.
func (r *run) addGroup(g *securityGroup, prefix string) {
	d := draft{name: prefix + cmp.Or(g.name, g.id), origin: g.at.origin(), tier: model.TierApplication, priority: model.DefaultPriority,
		subjects: []model.Selector{selector(exists(groupLabel + g.id))}, stateless: g.stateless}
	g.joinFamilies()
	r.add(g.draft(d, func(x *groupRule) bool { return x.family == nil }, nil))
	for _, f := range []struct {
		name       string
		tier       model.Tier
		own, other addresses
	}{{"-ipv6", model.TierApplication, allIPv6, allIPv4}, {"-ipv4", model.TierBaseline, allIPv4, allIPv6}} {
		part := d
		part.name, part.tier = d.name+f.name, f.tier
		allow := g.draft(part, func(x *groupRule) bool { return slices.Equal(x.family, f.own) }, nil)
		pass := g.draft(part, func(x *groupRule) bool { return slices.Equal(x.family, f.own) }, f.other)
		pass.name += "-pass"
		pass.priority, allow.priority = d.priority+1, d.priority+2
		r.add(pass)
		r.add(allow)
	}
	rest := []model.PolicyRule{{Name: "rest", Action: model.ActionDeny}}
	d.name, d.tier, d.priority, d.ingress, d.egress = d.name+"-rest", model.TierDefault, lastPriority, rest, rest
	r.add(d)
}

// draft writes the rules that are taken or, where pass is given, one that passes
// these addresses on in each direction that has such rules.
func (g *securityGroup) draft(d draft, take func(*groupRule) bool, pass addresses) draft {
	for i := range g.rules {
		x := &g.rules[i]
		if !take(x) {
			continue
		}
		list, side := &d.ingress, "from"
		if x.egress {
			list, side = &d.egress, "to"
		}
		switch {
		case pass == nil:
			*list = append(*list, sided(model.PolicyRule{Name: fmt.Sprintf("rule-%d", i), Action: model.ActionAllow, Ports: x.ports}, side, x.peers()))
		case len(*list) == 0:
			*list = append(*list, sided(model.PolicyRule{Name: "pass", Action: model.ActionPass}, side, pass.peers()))
		}
	}
	return d
}

func (x *groupRule) peers() []model.PolicyPeer {
	switch {
	case x.label != "":
		s := selector(exists(x.label))
		return []model.PolicyPeer{{Selector: &s}}
	case x.entity != "":
		return []model.PolicyPeer{{Entities: []model.Entity{x.entity}}}
	}
	return x.addr.peers()
}

// joinFamilies makes one rule of two that differ in their family only.
func (g *securityGroup) joinFamilies() {
	key := func(x *groupRule) string { return fmt.Sprint(x.egress, x.label, portsKey(x.ports)) }
	families := map[string]addresses{}
	for i := range g.rules {
		if x := &g.rules[i]; x.label != "" && x.family != nil {
			families[key(x)] = families[key(x)].or(x.family)
		}
	}
	var out []groupRule
	for _, x := range g.rules {
		if x.label != "" && x.family != nil && len(families[key(&x)]) == 2 {
			if x.family[0].first.Is6() {
				continue
			}
			x.family = nil
		}
		out = append(out, x)
	}
	g.rules = out
}

func portsKey(ports []model.PolicyPort) string {
	var b strings.Builder
	for _, p := range ports {
		first, last := p.Range()
		fmt.Fprint(&b, p.Protocol, first, "-", last, ";")
	}
	return b.String()
}

// groupPorts returns the ports of a rule of a security group. Min and max are
// ports, or an ICMP type and code, -1 for any. said is false where port 0 alone
// is meant.
func (c cursor) groupPorts(protocol uint8, min, max int) (ports []model.PolicyPort, said bool) {
	name := model.ProtocolName(protocol)
	switch {
	case model.IsICMP(protocol) && min >= 0:
		p := model.PolicyPort{Protocol: name, ICMP: &model.PolicyICMP{Type: &min}}
		if max >= 0 {
			p.ICMP.Code = &max
		}
		return []model.PolicyPort{p}, true
	case !model.HasPorts(protocol) || min < 0 && max < 0:
		return []model.PolicyPort{{Protocol: name}}, true
	}
	if max < min {
		c.fault("is a range of ports that ends before it begins: %d to %d", min, max)
		return nil, false
	}
	ports, zero := keys{uint16(min), uint16(max)}.ports(protocol)
	if zero {
		c.find(Closes, "allows port 0 too, which no service has", "port 0 is left out: a policy cannot name it")
	}
	return ports, len(ports) > 0
}
