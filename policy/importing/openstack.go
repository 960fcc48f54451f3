package importing

import (
	"slices"
	"strconv"
	"strings"

	"weft/model"
)

// neutron gathers groups and rules of all files, which may come apart.
type neutron struct {
	run    *run
	groups map[string]*securityGroup
	order  []string
	rules  bool // some list of rules was there
}

// openstack reads security groups as Neutron's API has them, or as
// `openstack security group list` and `openstack security group rule list --long`
// write them with -f json.
func (r *run) openstack(files []File) {
	n := &neutron{run: r, groups: map[string]*securityGroup{}}
	for _, f := range files {
		for _, doc := range r.parse(f) {
			c := cursor{run: r, file: f.Name, line: doc.line, value: doc}
			items := []cursor{c}
			if doc.isList {
				items = c.items()
			}
			for _, item := range items {
				n.read(item)
			}
		}
	}
	for _, id := range n.order {
		if !n.rules {
			n.groups[id].at.fault("has no rules, and no file has; add the output of: openstack security group rule list --long -f json")
			return
		}
		r.addGroup(n.groups[id], "openstack-")
	}
}

func (n *neutron) read(c cursor) {
	if !c.wantObject() {
		return
	}
	has := func(key string) bool { return c.value.fields[key] != nil }
	switch {
	case has("security_groups"):
		for _, g := range c.get("security_groups").items() {
			n.apiGroup(g)
		}
	case has("security_group"):
		n.apiGroup(c.get("security_group"))
	case has("security_group_rules") && !has("id"):
		n.rules = true
		for _, x := range c.get("security_group_rules").items() {
			n.apiRule(x, "")
		}
	case has("security_group_rule"):
		n.rules = true
		n.apiRule(c.get("security_group_rule"), "")
	case has("id") && (has("rules") || has("security_group_rules")):
		n.apiGroup(c)
	case has("ID") && has("Ethertype"):
		n.rules = true
		n.listRule(c)
	case has("ID") && has("Name"):
		if g := n.group(c, c.get("ID")); g != nil {
			g.name = c.get("Name").text() + "-" + g.id
		}
	default:
		c.fault("is no security group and no rule of one; write it with: openstack security group rule list --long -f json")
	}
}

// group returns the group of an id, made where it is new.
func (n *neutron) group(c, id cursor) *securityGroup {
	text := id.text()
	if !isGroupID(text) {
		id.fault("%q is no id of a group", short(text))
		return nil
	}
	g := n.groups[text]
	if g == nil {
		c.object, c.path = "SecurityGroup "+text, ""
		g = &securityGroup{id: text, at: c}
		n.groups[text] = g
		n.order = append(n.order, text)
	}
	return g
}

func (n *neutron) apiGroup(c cursor) {
	if !c.wantObject() {
		return
	}
	g := n.group(c, c.get("id"))
	if g == nil {
		return
	}
	g.name = c.get("name").text() + "-" + g.id
	if s := c.get("stateful"); s.there() {
		g.stateless = !s.truth()
	}
	for _, list := range []cursor{c.get("security_group_rules"), c.get("rules")} {
		if list.there() {
			n.rules = true
		}
		for _, x := range list.items() {
			n.apiRule(x, g.id)
		}
	}
}

func (n *neutron) apiRule(c cursor, group string) {
	if !c.wantObject() {
		return
	}
	id := c.get("security_group_id")
	if id.there() || group == "" {
		g := n.group(c, id)
		if g == nil {
			return
		}
		group = g.id
	}
	c.object = "SecurityGroup " + group
	if !c.knows(model.ActionAllow, append(slices.Clone(ruleNotes), "security_group_id", "direction", "ethertype", "protocol", "port_range_min", "port_range_max", "remote_ip_prefix", "remote_group_id", "remote_address_group_id")...) {
		return
	}
	x := neutronRule{at: c, directionAt: c.get("direction"), familyAt: c.get("ethertype"), protocol: c.get("protocol"),
		group: c.get("remote_group_id"), prefix: c.get("remote_ip_prefix"), addressGroup: c.get("remote_address_group_id"), least: -1, most: -1}
	if p := c.get("port_range_min"); p.there() {
		x.least, _ = p.whole(-1, 65535)
	}
	if p := c.get("port_range_max"); p.there() {
		x.most, _ = p.whole(-1, 65535)
	}
	n.add(n.groups[group], x)
}

// listRule is a line of `openstack security group rule list --long`.
func (n *neutron) listRule(c cursor) {
	id := c.get("Security Group")
	if !id.there() {
		id.fault("is missing; list the rules of all groups, without naming one: openstack security group rule list --long -f json")
		return
	}
	g := n.group(c, id)
	if g == nil {
		return
	}
	if !c.get("Direction").there() {
		c.get("Direction").fault("is missing; write the file with --long")
		return
	}
	c.object = "SecurityGroup " + g.id
	if !c.knows(model.ActionAllow, "ID", "IP Protocol", "Ethertype", "IP Range", "Port Range", "Direction", "Remote Security Group", "Remote Address Group", "Security Group", "Description") {
		return
	}
	x := neutronRule{at: c, directionAt: c.get("Direction"), familyAt: c.get("Ethertype"), protocol: c.get("IP Protocol"),
		group: c.get("Remote Security Group"), prefix: c.get("IP Range"), addressGroup: c.get("Remote Address Group"), least: -1, most: -1}
	ports := c.get("Port Range")
	if text := ports.text(); text != "" {
		first, last, _ := strings.Cut(text, ":")
		for _, part := range []struct {
			text, prefix string
			into         *int
		}{{first, "type=", &x.least}, {last, "code=", &x.most}} {
			number := strings.TrimPrefix(part.text, part.prefix)
			if number == "" {
				continue
			}
			v, err := strconv.ParseUint(number, 10, 16)
			if err != nil {
				ports.fault("is %s; want ports like 22:22, or type=8:code=0", ports.describe())
				return
			}
			*part.into = int(v)
		}
	}
	// The list writes every address of the family beside a group.
	if text, _ := x.prefix.scalarText(); x.group.there() && (text == "0.0.0.0/0" || text == "::/0") {
		x.prefix.value = nil
	}
	n.add(g, x)
}
