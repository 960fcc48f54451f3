package importing

import (
	"fmt"
	"strconv"

	"weft/model"
)

// aws reads what `aws ec2 describe-security-groups` writes.
func (r *run) aws(files []File) {
	for _, f := range files {
		for _, doc := range r.parse(f) {
			top := cursor{run: r, file: f.Name, line: doc.line, value: doc}
			if !top.wantObject() {
				continue
			}
			if !top.get("SecurityGroups").there() {
				top.get("SecurityGroups").fault("is missing; write the file with: aws ec2 describe-security-groups --output json")
				continue
			}
			for _, x := range top.others("SecurityGroups", "NextToken") {
				x.find(Same, "is no list of security groups", "it is not read")
			}
			if next := top.get("NextToken"); next.there() {
				next.fault("says that this is one page of several; write all of them: without --no-paginate")
			}
			groups := top.get("SecurityGroups").items()
			for _, c := range groups {
				if g := r.awsGroup(c); g != nil {
					r.addGroup(g, "aws-")
				}
			}
			if len(groups) > 0 {
				top.get("SecurityGroups").find(Closes, "do not apply to DHCP, Amazon's resolver, its clock and its ECS metadata, which always pass",
					"the metadata service is allowed by a rule; DHCP and the host's resolvers are weft's failsafe; the rest needs rules of your own")
			}
		}
	}
}

func (r *run) awsGroup(c cursor) *securityGroup {
	if !c.wantObject() {
		return nil
	}
	id := c.get("GroupId")
	g := &securityGroup{id: id.text(), name: c.get("GroupName").text()}
	if !isGroupID(g.id) {
		id.fault("%q is no id of a group; want one like sg-0123456789abcdef0", short(g.id))
		return nil
	}
	g.name += "-" + g.id // a name is used in several VPCs
	c.object = "SecurityGroup " + g.id
	g.at = c
	for _, x := range c.others("GroupId", "GroupName", "Description", "OwnerId", "VpcId", "Tags", "IpPermissions", "IpPermissionsEgress", "SecurityGroupArn") {
		x.find(Closes, "is a field that is not known", "it is left out; nothing is allowed by it")
	}
	for _, list := range []struct {
		field  string
		egress bool
	}{{"IpPermissions", false}, {"IpPermissionsEgress", true}} {
		if !c.get(list.field).there() {
			c.get(list.field).find(Closes, "is missing", "nothing is allowed in that direction")
		}
		for _, p := range c.get(list.field).items() {
			g.rules = append(g.rules, p.awsPermission(list.egress)...)
		}
	}
	g.rules = append(g.rules, groupRule{egress: true, entity: model.EntityMetadata})
	return g
}

// awsPermission is one protocol and range of ports with all of its peers.
func (c cursor) awsPermission(egress bool) []groupRule {
	if !c.wantObject() || !c.knows(model.ActionAllow, "IpProtocol", "FromPort", "ToPort", "IpRanges", "Ipv6Ranges", "UserIdGroupPairs", "PrefixListIds") {
		return nil
	}
	ports, said := c.awsPorts()
	if !said {
		return nil
	}
	var out []groupRule
	var set addresses
	for _, family := range []struct{ list, field string }{{"IpRanges", "CidrIp"}, {"Ipv6Ranges", "CidrIpv6"}} {
		for _, x := range c.get(family.list).items() {
			if !x.wantObject() || !x.knows(model.ActionAllow, family.field, "Description") {
				continue
			}
			if p, ok := x.get(family.field).prefix(); ok {
				set = set.or(addressesOf(p))
			}
		}
	}
	if len(set) > 0 {
		out = append(out, groupRule{egress: egress, addr: set, ports: ports})
	}
	for _, x := range c.get("UserIdGroupPairs").items() {
		if !x.wantObject() || !x.knows(model.ActionAllow, "GroupId", "GroupName", "UserId", "Description", "VpcId", "VpcPeeringConnectionId", "PeeringStatus") {
			continue
		}
		if id := x.get("GroupId"); isGroupID(id.text()) {
			out = append(out, groupRule{egress: egress, label: groupLabel + id.text(), ports: ports})
		} else {
			x.cannot(model.ActionAllow, "names a group without its id")
		}
	}
	for _, x := range c.get("PrefixListIds").items() {
		x.cannot(model.ActionAllow, fmt.Sprintf("is the prefix list %s, whose addresses are not in the file", short(x.get("PrefixListId").text())))
	}
	return out
}

func (c cursor) awsPorts() ([]model.PolicyPort, bool) {
	protocol := c.get("IpProtocol")
	text, isText := protocol.scalarText()
	if !isText {
		protocol.fault("is %s; want text like \"tcp\" or \"-1\"", protocol.describe())
		return nil, false
	}
	if text == "-1" {
		return nil, true
	}
	number, known := protocolNumbers[text]
	if n, err := strconv.ParseUint(text, 10, 8); err == nil {
		number, known = uint8(n), true
	}
	if !known {
		protocol.cannot(model.ActionAllow, "is a protocol that is not known")
		return nil, false
	}
	least, most := -1, -1
	if from := c.get("FromPort"); from.there() {
		least, _ = from.whole(-1, 65535)
	}
	if to := c.get("ToPort"); to.there() {
		most, _ = to.whole(-1, 65535)
	}
	if number == 132 { // ports are for TCP and UDP only
		least, most = -1, -1
	}
	return c.groupPorts(number, least, most)
}
