package policy

import (
	"net/netip"

	"weft/model"
)

// FailsafeOptions says what a fleet cannot do without.
type FailsafeOptions struct {
	ControllerPort int // TCP, at the control-plane entity
	RelayPort      int // TCP and UDP, at the relay entity; 0 for no relay
	// RelayPorts are further ones, where relays differ.
	RelayPorts []int
	// StreamPort is the TCP port on which agents accept streams of one another;
	// 0 where they do not.
	StreamPort int
	// SSHFrom may always reach port 22 of hosts; empty for nobody.
	SSHFrom []netip.Prefix
}

// Failsafe returns the policies of the Failsafe tier. They are ordinary policies:
// compiled, counted and explained like those of a person.
func Failsafe(o FailsafeOptions) []*model.Policy {
	port := func(protocol string, n int) model.PolicyPort { return model.PolicyPort{Protocol: protocol, Port: &n} }
	entity := func(e model.Entity) []model.PolicyPeer { return []model.PolicyPeer{{Entities: []model.Entity{e}}} }
	// A service has a cgroup and is a workload of its own: so are, as a rule, the
	// agent, the clients of DHCP and DNS, and the SSH server.
	host := model.Selector{Requirements: []model.Requirement{{Key: "workload.kind", Operator: model.OpIn, Values: []string{string(model.WorkloadHost), string(model.WorkloadUnit)}}}}
	hosts := failsafePolicy("failsafe-hosts", host)
	hosts.Spec.Egress = []model.PolicyRule{
		{Name: "control-channel", Action: model.ActionAllow, To: entity(model.EntityControlPlane), Ports: []model.PolicyPort{port("TCP", o.ControllerPort)}},
		{Name: "dns", Action: model.ActionAllow, To: entity(model.EntityDNS), Ports: []model.PolicyPort{port("UDP", 53), port("TCP", 53)}},
		{Name: "dhcp", Action: model.ActionAllow, Ports: []model.PolicyPort{port("UDP", 67), port("UDP", 547)}},
	}
	hosts.Spec.Ingress = []model.PolicyRule{{Name: "dhcp", Action: model.ActionAllow, Ports: []model.PolicyPort{port("UDP", 68), port("UDP", 546)}}}
	var relay []model.PolicyPort
	for _, n := range append([]int{o.RelayPort}, o.RelayPorts...) {
		if n != 0 {
			relay = append(relay, port("TCP", n), port("UDP", n))
		}
	}
	if len(relay) > 0 {
		hosts.Spec.Egress = append(hosts.Spec.Egress, model.PolicyRule{Name: "relay", Action: model.ActionAllow, To: entity(model.EntityRelay), Ports: relay})
	}
	if o.StreamPort != 0 {
		stream := model.PolicyRule{Name: "streams", Action: model.ActionAllow, Ports: []model.PolicyPort{port("TCP", o.StreamPort)}}
		in, out := stream, stream
		in.From, out.To = entity(model.EntityFleet), entity(model.EntityFleet)
		hosts.Spec.Ingress, hosts.Spec.Egress = append(hosts.Spec.Ingress, in), append(hosts.Spec.Egress, out)
	}
	if len(o.SSHFrom) > 0 {
		var blocks []model.IPBlock
		for _, p := range o.SSHFrom {
			blocks = append(blocks, model.IPBlock{CIDR: p.Masked().String(), IncludeManaged: true})
		}
		hosts.Spec.Ingress = append(hosts.Spec.Ingress, model.PolicyRule{Name: "ssh", Action: model.ActionAllow,
			From: []model.PolicyPeer{{IPBlocks: blocks}}, Ports: []model.PolicyPort{port("TCP", 22)}})
	}
	// Without neighbour discovery (RFC 4861, types 133 to 137) IPv6 has no link.
	neighbours := failsafePolicy("failsafe-neighbours", model.Selector{})
	var types []model.PolicyPort
	for t := 133; t <= 137; t++ {
		types = append(types, model.PolicyPort{Protocol: "ICMPv6", ICMP: &model.PolicyICMP{Type: &t}})
	}
	neighbours.Spec.Ingress = []model.PolicyRule{{Name: "discovery", Action: model.ActionAllow, Ports: types}}
	neighbours.Spec.Egress = []model.PolicyRule{{Name: "discovery", Action: model.ActionAllow, Ports: types}}
	return []*model.Policy{hosts, neighbours}
}

func failsafePolicy(name string, subject model.Selector) *model.Policy {
	return &model.Policy{
		TypeMeta: model.TypeMeta{APIVersion: model.APIVersion, Kind: model.KindPolicy},
		Metadata: model.Metadata{Name: name},
		Spec:     model.PolicySpec{Tier: model.TierFailsafe, Stage: model.StageActive, Subject: model.PolicySubject{Selector: &subject}},
	}
}
