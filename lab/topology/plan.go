package topology

import (
	"fmt"
	"net/netip"
)

// Plan is a topology with everything decided that its file leaves open. It is
// a pure function of the file.
type Plan struct {
	Name     string
	Switches []SwitchPlan
	// Nodes are the routers and then the hosts, each in the file's order.
	Nodes []*Node

	bySwitch map[string]*SwitchPlan
	byName   map[string]*Node
	routes   routing
}

// SwitchPlan is a switch with its subnet.
type SwitchPlan struct {
	Name   string
	Subnet netip.Prefix
	MTU    int
	// Gateway is the router that hosts here use, nil where there is none.
	Gateway *Node
	cloud   *Cloud
	alloc   allocator
}

// Node is a host or a router; exactly one of the two is set.
type Node struct {
	Name   string
	Host   *Host
	Router *Router
	Ports  []*Port
	Routes []Route
	// Public are the one-to-one mappings of a router.
	Public []Mapping
	// Forward are the open ports of a router.
	Forward []ForwardPlan
	// Cloud is what the host's metadata service answers with, the switch's
	// included; nil without one.
	Cloud *Cloud
}

// Port is one interface of a node and the link behind it.
type Port struct {
	Device     string // eth0, eth1, ...
	Switch     string
	Address    netip.Prefix // with the length of the switch's subnet
	MTU        int
	Impairment Impairment
	// Link is the name of the link: NODE@SWITCH.
	Link string
	// Uplink is set on the uplink of a router.
	Uplink bool
	field  string
}

// Route is one route; the zero Dst is the default route.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr
}

// Mapping is a one-to-one translation of a router.
type Mapping struct {
	Host         string
	Outer, Inner netip.Addr
}

// ForwardPlan is an open port of a router, resolved.
type ForwardPlan struct {
	Forward
	Inner netip.Addr
}

type fault struct{ field, message string }

type planner struct {
	*Plan
	faults []fault
}

func (p *planner) fail(field, format string, args ...any) {
	p.faults = append(p.faults, fault{field, fmt.Sprintf(format, args...)})
}

// Plan decides what the file leaves open. A topology from Parse has a plan.
func (t *Topology) Plan() (*Plan, error) {
	p, faults := plan(t)
	if len(faults) > 0 {
		errs := make(Errors, len(faults))
		for i, f := range faults {
			errs[i] = Error{File: t.Metadata.Name, Field: f.field, Message: f.message}
		}
		return nil, errs
	}
	return p, nil
}

func plan(t *Topology) (*Plan, []fault) {
	p := &planner{Plan: &Plan{Name: t.Metadata.Name, bySwitch: map[string]*SwitchPlan{}, byName: map[string]*Node{}}}
	p.planSwitches(t)
	p.planNodes(t)
	p.reserve()
	p.assign()
	if len(p.faults) > 0 {
		return nil, p.faults
	}
	p.routes = newRouting(p.Plan)
	p.planPublic(t)
	p.planForward()
	for _, n := range p.Nodes {
		n.Routes = p.routesOf(n)
	}
	return p.Plan, p.faults
}

// Node returns the host or router of that name, or nil.
func (p *Plan) Node(name string) *Node { return p.byName[name] }

// Switch returns the switch of that name, or nil.
func (p *Plan) Switch(name string) *SwitchPlan { return p.bySwitch[name] }

func (p *planner) planSwitches(t *Topology) {
	p.Switches = make([]SwitchPlan, len(t.Spec.Switches))
	auto := 100
	for i, s := range t.Spec.Switches {
		subnet := s.Subnet.Prefix
		for !subnet.IsValid() {
			candidate := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(auto), 0, 0}), 16)
			auto++
			if auto > 256 {
				p.fail(fmt.Sprintf("spec.switches[%d]", i), "no subnet is left for switch %q; write one", s.Name)
				return
			}
			if !overlaps(t, candidate) {
				subnet = candidate
			}
		}
		mtu := s.MTU
		if mtu == 0 {
			mtu = 1500
		}
		p.Switches[i] = SwitchPlan{Name: s.Name, Subnet: subnet, MTU: mtu, cloud: s.Cloud, alloc: newAllocator(subnet)}
		p.bySwitch[s.Name] = &p.Switches[i]
	}
}

func overlaps(t *Topology, candidate netip.Prefix) bool {
	for _, s := range t.Spec.Switches {
		if s.Subnet.IsValid() && s.Subnet.Overlaps(candidate) {
			return true
		}
	}
	return false
}

func (p *planner) planNodes(t *Topology) {
	for i := range t.Spec.Routers {
		r := &t.Spec.Routers[i]
		field := fmt.Sprintf("spec.routers[%d]", i)
		n := &Node{Name: r.Name, Router: r}
		for j, d := range r.Downlinks {
			p.addPort(n, d, false, indexed(field+".downlinks", j, len(r.Downlinks)))
		}
		if r.Uplink != nil {
			p.addPort(n, *r.Uplink, true, field+".uplink")
		}
		p.addNode(n)
		for _, d := range r.Downlinks {
			// The first router with an uplink wins, else the first of all.
			if s := p.bySwitch[d.Switch]; s != nil && (s.Gateway == nil || s.Gateway.Router.Uplink == nil && r.Uplink != nil) {
				s.Gateway = n
			}
		}
	}
	for i := range t.Spec.Hosts {
		h := &t.Spec.Hosts[i]
		n := &Node{Name: h.Name, Host: h}
		for j, a := range h.Attach {
			p.addPort(n, a, false, indexed(fmt.Sprintf("spec.hosts[%d].attach", i), j, len(h.Attach)))
		}
		if s := p.bySwitch[h.Attach[0].Switch]; s != nil {
			n.Cloud = h.Cloud.merged(s.cloud)
		}
		p.addNode(n)
	}
}

func (p *planner) addNode(n *Node) {
	p.Nodes = append(p.Nodes, n)
	p.byName[n.Name] = n
}

func (p *planner) addPort(n *Node, a Attachment, uplink bool, field string) {
	s := p.bySwitch[a.Switch]
	if s == nil {
		p.fail(field, "there is no switch %q", a.Switch)
		return
	}
	if n.portOn(a.Switch) != nil {
		p.fail(field, "%q is attached to switch %q twice; once is enough", n.Name, a.Switch)
		return
	}
	port := &Port{
		Device: fmt.Sprintf("eth%d", len(n.Ports)), Switch: a.Switch, MTU: a.MTU, Impairment: a.Impairment,
		Link: n.Name + "@" + a.Switch, Uplink: uplink, field: field,
	}
	if port.MTU == 0 {
		port.MTU = s.MTU
	}
	if a.Active() && port.MTU > maxEmulatedMTU {
		p.fail(field, "an impaired link has an MTU of %d at most, not %d", maxEmulatedMTU, port.MTU)
	}
	if a.Address.IsValid() {
		port.Address = netip.PrefixFrom(a.Address.Addr, s.Subnet.Bits())
	}
	n.Ports = append(n.Ports, port)
}

func (n *Node) portOn(name string) *Port {
	for _, p := range n.Ports {
		if p.Switch == name {
			return p
		}
	}
	return nil
}

// Uplink returns the router's port toward the world, or nil.
func (n *Node) Uplink() *Port {
	for _, p := range n.Ports {
		if p.Uplink {
			return p
		}
	}
	return nil
}

// Translates says whether the node is a router that translates addresses.
func (n *Node) Translates() bool {
	return n.Router != nil && n.Router.NAT != "" && n.Router.NAT != NATNone
}

// reserve takes the addresses that the file names.
func (p *planner) reserve() {
	for _, n := range p.Nodes {
		for _, port := range n.Ports {
			if !port.Address.IsValid() {
				continue
			}
			if other := p.bySwitch[port.Switch].alloc.take(port.Address.Addr(), n.Name); other != "" {
				p.fail(port.field, "address %s of %q is already that of %q; choose another", port.Address.Addr(), n.Name, other)
			}
		}
		if h := n.Host; h != nil && h.Gateway.IsValid() {
			p.bySwitch[n.Ports[0].Switch].alloc.take(h.Gateway.Addr, "the gateway of "+n.Name)
		}
		if h := n.Host; h != nil && h.Public != "" && h.Public != "auto" {
			a, err := netip.ParseAddr(h.Public)
			for i := range p.Switches {
				if s := &p.Switches[i]; err == nil && s.Subnet.Contains(a) {
					s.alloc.take(a, "the public address of "+n.Name)
				}
			}
		}
	}
}

// Where the planner begins to look for a free address of each sort.
const (
	firstGateway = 1
	firstRouter  = 2
	firstHost    = 10
)

func (p *planner) assign() {
	for _, n := range p.Nodes {
		for _, port := range n.Ports {
			if port.Address.IsValid() {
				continue
			}
			s := p.bySwitch[port.Switch]
			from := firstHost
			switch {
			case n.Router != nil && s.Gateway == n && !port.Uplink:
				from = firstGateway
			case n.Router != nil:
				from = firstRouter
			}
			a := s.alloc.next(from, n.Name)
			if !a.IsValid() {
				p.fail(port.field, "no address is left in %s of switch %q; give it a larger subnet", s.Subnet, s.Name)
				continue
			}
			port.Address = netip.PrefixFrom(a, s.Subnet.Bits())
		}
	}
}

// planPublic gives hosts their addresses outside.
func (p *planner) planPublic(t *Topology) {
	for i := range t.Spec.Hosts {
		h := &t.Spec.Hosts[i]
		field := fmt.Sprintf("spec.hosts[%d].public", i)
		n := p.byName[h.Name]
		gw := p.bySwitch[n.Ports[0].Switch].Gateway
		if gw == nil || !gw.Translates() {
			if h.Public != "" {
				p.fail(field, "the gateway of switch %q does not translate addresses, so %q cannot have one outside; give the router nat: one-to-one or port-restricted", n.Ports[0].Switch, h.Name)
			}
			continue
		}
		if h.Public == "" && gw.Router.NAT != NATOneToOne {
			continue
		}
		outside := p.bySwitch[gw.Uplink().Switch]
		m := Mapping{Host: h.Name, Inner: n.Ports[0].Address.Addr()}
		if h.Public == "" || h.Public == "auto" {
			m.Outer = outside.alloc.next(firstHost, h.Name)
			if !m.Outer.IsValid() {
				p.fail(field, "no address is left in %s of switch %q; give it a larger subnet", outside.Subnet, outside.Name)
				continue
			}
		} else {
			m.Outer, _ = netip.ParseAddr(h.Public)
			if !outside.Subnet.Contains(m.Outer) {
				p.fail(field, "%s is not in %s, the subnet outside router %q", m.Outer, outside.Subnet, gw.Name)
			} else if owner := outside.alloc.owner(m.Outer); owner != "the public address of "+h.Name {
				p.fail(field, "%s is already the address of %q; choose another", m.Outer, owner)
			}
		}
		gw.Public = append(gw.Public, m)
	}
}

func (p *planner) planForward() {
	for _, n := range p.Nodes {
		if n.Router == nil {
			continue
		}
		for _, f := range n.Router.Forward {
			if h := p.byName[f.Host]; h != nil && h.Host != nil {
				n.Forward = append(n.Forward, ForwardPlan{f, h.Ports[0].Address.Addr()})
			}
		}
	}
}
