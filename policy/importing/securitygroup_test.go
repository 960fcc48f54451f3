package importing

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"weft/model"
	"weft/policy"
)

// sgRule and sgAllowed are what security groups mean: a machine in some is allowed
// what a rule of one of them allows, and nothing else.
type sgRule struct {
	group    string
	egress   bool
	protocol string // "" for all
	low      int    // -1 for all
	high     int
	cidr     string // "" for none
	peer     string // a group
	ipv6     bool
}

func sgAllowed(list []sgRule, p probe) bool {
	side := func(subject, peer *node, egress bool) bool {
		isolated := false
		for group := range subject.ports { // here: the groups it is in
			isolated = true
			for _, r := range list {
				if r.group == group && r.egress == egress && r.allows(p, peer) {
					return true
				}
			}
		}
		return !isolated
	}
	return side(p.from, p.to, true) && side(p.to, p.from, false)
}

func (r sgRule) allows(p probe, peer *node) bool {
	if r.protocol != "" && !strings.EqualFold(protocolNames[p.protocol], r.protocol) {
		return false
	}
	if r.protocol == "icmp" && r.low >= 0 && r.low != 8 {
		return false
	}
	if (r.protocol == "tcp" || r.protocol == "udp") && r.low >= 0 && (int(p.port) < r.low || r.high < int(p.port)) {
		return false
	}
	if r.peer != "" {
		_, in := peer.ports[r.peer]
		return in && peer.addr.Is6() == r.ipv6
	}
	return netip.MustParsePrefix(r.cidr).Contains(peer.addr)
}

func randomGroupRules(g *rand.Rand, families bool) []sgRule {
	var out []sgRule
	for range g.IntN(8) {
		r := sgRule{group: one(g, "sg-a", "sg-b"), egress: g.IntN(2) == 0, protocol: one(g, "", "tcp", "udp", "icmp"), low: -1, high: -1, ipv6: g.IntN(2) == 0}
		switch r.protocol {
		case "tcp", "udp":
			switch g.IntN(3) {
			case 0:
				r.low, r.high = 80, 80
			case 1:
				r.low, r.high = 81, 90
			}
		case "icmp":
			r.low = one(g, -1, 8, 3)
			r.ipv6 = false
		}
		if g.IntN(2) == 0 {
			r.peer = one(g, "sg-a", "sg-b")
			both := r
			both.ipv6 = !r.ipv6
			if !families || g.IntN(3) == 0 {
				out = append(out, both)
			}
		} else if r.ipv6 {
			r.cidr = one(g, "::/0", "2001:db8:1::/48")
		} else {
			r.cidr = one(g, "0.0.0.0/0", "10.1.0.0/16", "192.0.2.0/24")
		}
		out = append(out, r)
	}
	return out
}

// groupNodes are machines in no, one and two groups, with addresses of both families.
func groupNodes() []*node {
	in := func(groups ...string) map[string]int {
		out := map[string]int{}
		for _, g := range groups {
			out[g] = 1
		}
		return out
	}
	var out []*node
	for i, groups := range [][]string{{"sg-a"}, {"sg-b"}, {"sg-a", "sg-b"}, {}} {
		out = append(out, &node{name: fmt.Sprint("m4-", i), ns: "-", ports: in(groups...), addr: netip.AddrFrom4([4]byte{10, byte(i), 0, 1})},
			&node{name: fmt.Sprint("m6-", i), ns: "-", ports: in(groups...), addr: netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::1", i))})
	}
	return append(out, &node{name: "world", addr: netip.MustParseAddr("192.0.2.1")}, &node{name: "world6", addr: netip.MustParseAddr("2001:db8:1::9")})
}

func checkGroups(t *testing.T, format Format, data any, list []sgRule, ok func(Finding) bool) {
	t.Helper()
	text, err := json.MarshalIndent(data, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	result, err := Import(format, []File{{"groups.json", text}}, Options{})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, f := range result.Report {
		if !ok(f) {
			t.Fatalf("not exact: %v\n%s", f, text)
		}
	}
	nodes, labels := groupNodes(), map[*node]map[string]string{}
	for _, n := range nodes {
		if n.ns == "" {
			continue
		}
		labels[n] = map[string]string{"name": n.name}
		for g := range n.ports {
			labels[n]["cloud.security-group/"+g] = ""
		}
	}
	var probes []probe
	for _, p := range probesOf(nodes, 80, 85, 443) {
		// What no group is for is not theirs to decide; and a protocol has a family.
		if (len(p.from.ports) > 0 || p.from.ns == "") && (len(p.to.ports) > 0 || p.to.ns == "") && p.from != p.to && p.from.addr.Is6() == p.to.addr.Is6() && !(p.protocol == 1 && p.from.addr.Is6()) {
			probes = append(probes, p)
		}
	}
	checkMatrix(t, result, labels, probes, func(p probe) bool { return sgAllowed(list, p) })
	if t.Failed() {
		t.Fatalf("%s", text)
	}
}

func TestAWSEqualsItsMeaning(t *testing.T) {
	for seed := range 200 {
		g := rand.New(rand.NewPCG(uint64(seed), 2))
		list := randomGroupRules(g, false)
		groups := map[string]map[string]any{}
		for _, id := range []string{"sg-a", "sg-b"} {
			groups[id] = map[string]any{"GroupId": id, "GroupName": "web tier", "IpPermissions": []any{}, "IpPermissionsEgress": []any{}, "VpcId": "vpc-1"}
		}
		for _, r := range list {
			p := map[string]any{"IpProtocol": r.protocol, "IpRanges": []any{}, "Ipv6Ranges": []any{}, "UserIdGroupPairs": []any{}, "PrefixListIds": []any{}}
			switch {
			case r.protocol == "":
				p["IpProtocol"] = "-1"
			case r.protocol == "icmp":
				p["FromPort"], p["ToPort"] = r.low, -1
			case r.low < 0:
				p["FromPort"], p["ToPort"] = 0, 65535
			default:
				p["FromPort"], p["ToPort"] = r.low, r.high
			}
			switch {
			case r.peer != "":
				p["UserIdGroupPairs"] = []any{map[string]any{"GroupId": r.peer, "UserId": "123456789012"}}
			case r.ipv6:
				p["Ipv6Ranges"] = []any{map[string]any{"CidrIpv6": r.cidr}}
			default:
				p["IpRanges"] = []any{map[string]any{"CidrIp": r.cidr, "Description": "x"}}
			}
			field := "IpPermissions"
			if r.egress {
				field = "IpPermissionsEgress"
			}
			groups[r.group][field] = append(groups[r.group][field].([]any), p)
		}
		checkGroups(t, AWS, map[string]any{"SecurityGroups": []any{groups["sg-a"], groups["sg-b"]}}, list, func(f Finding) bool { return f.Field == "SecurityGroups" })
	}
}

func TestOpenStackEqualsItsMeaning(t *testing.T) {
	for seed := range 200 {
		g := rand.New(rand.NewPCG(uint64(seed), 3))
		list := randomGroupRules(g, true)
		var api, lines []any
		byGroup := map[string][]any{}
		for _, r := range list {
			family, direction := "IPv4", "ingress"
			if r.ipv6 {
				family = "IPv6"
			}
			if r.egress {
				direction = "egress"
			}
			rule := map[string]any{"id": "r", "security_group_id": r.group, "direction": direction, "ethertype": family, "protocol": nil, "port_range_min": nil, "port_range_max": nil, "remote_ip_prefix": nil, "remote_group_id": nil}
			line := map[string]any{"ID": "r", "Security Group": r.group, "Direction": direction, "Ethertype": family, "IP Protocol": nil, "Port Range": "", "IP Range": map[bool]string{true: "::/0", false: "0.0.0.0/0"}[r.ipv6], "Remote Security Group": nil, "Remote Address Group": nil}
			if r.protocol != "" {
				rule["protocol"], line["IP Protocol"] = r.protocol, r.protocol
			}
			if r.low >= 0 {
				rule["port_range_min"], line["Port Range"] = r.low, fmt.Sprintf("type=%d", r.low)
			}
			if r.low >= 0 && r.high >= 0 {
				rule["port_range_max"], line["Port Range"] = r.high, fmt.Sprintf("%d:%d", r.low, r.high)
			}
			if r.peer != "" {
				rule["remote_group_id"], line["Remote Security Group"] = r.peer, r.peer
			} else if r.cidr != "0.0.0.0/0" && r.cidr != "::/0" {
				rule["remote_ip_prefix"], line["IP Range"] = r.cidr, r.cidr
			}
			api, lines = append(api, rule), append(lines, line)
			byGroup[r.group] = append(byGroup[r.group], rule)
		}
		groups := []any{map[string]any{"ID": "sg-a", "Name": "default"}, map[string]any{"ID": "sg-b", "Name": "default"}}
		nested := []any{}
		for _, id := range []string{"sg-a", "sg-b"} {
			nested = append(nested, map[string]any{"id": id, "name": "n", "security_group_rules": append([]any{}, byGroup[id]...)})
		}
		exact := func(Finding) bool { return false }
		checkGroups(t, OpenStack, map[string]any{"security_groups": nested}, list, exact)
		if len(lines) > 0 {
			checkGroups(t, OpenStack, append(groups, lines...), list, exact)
			checkGroups(t, OpenStack, []any{map[string]any{"security_groups": groupsOf("sg-a", "sg-b")}, map[string]any{"security_group_rules": api}}, list, exact)
		}
	}
}

func groupsOf(ids ...string) []any {
	var out []any
	for _, id := range ids {
		out = append(out, map[string]any{"id": id, "name": "web"})
	}
	return out
}

// A stateless group stays stateless, and the metadata service is always allowed.
func TestGroupsKeepWhatIsTheirs(t *testing.T) {
	text := `{"security_groups": [{"id": "g", "name": "n", "stateful": false, "security_group_rules": [{"direction": "ingress", "ethertype": "IPv4"}]}]}`
	result, err := Import(OpenStack, []File{{"g.json", []byte(text)}}, Options{})
	if err != nil || result.Policies[0].Spec.IsStateful() {
		t.Errorf("%v, %+v", err, result)
	}
	text = `{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "n", "IpPermissions": [], "IpPermissionsEgress": []}]}`
	result, err = Import(AWS, []File{{"g.json", []byte(text)}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := &policy.World{Policies: result.Policies, Identities: policy.NewIdentities(map[string]string{"cloud.security-group/sg-1": ""}), Through: model.StageStaged}
	v := w.Evaluate(policy.Egress, &policy.Packet{Source: policy.End{Identity: 1}, Destination: policy.End{Addr: netip.MustParseAddr("169.254.169.254"), Entities: policy.EntityBit(model.EntityMetadata)}, Protocol: 6, DestinationPort: 80})
	if !v.Allowed() {
		t.Errorf("metadata: %s", v)
	}
}
