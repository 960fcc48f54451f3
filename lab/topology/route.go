package topology

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// routing knows the shortest way from each switch to each other. A router that
// translates addresses is no way from its uplink to its downlinks.
type routing struct {
	// next[D][S] is the step from switch S toward switch D.
	next map[string]map[string]step
}

type step struct {
	router   *Node
	distance int
}

func newRouting(p *Plan) routing {
	r := routing{next: map[string]map[string]step{}}
	byswitch := map[string][]*Node{}
	for _, n := range p.Nodes {
		if n.Router == nil {
			continue
		}
		for _, port := range n.Ports {
			byswitch[port.Switch] = append(byswitch[port.Switch], n)
		}
	}
	for _, d := range p.Switches {
		r.next[d.Name] = search(d.Name, byswitch)
	}
	return r
}

// search works outward from the destination, breadth first.
func search(dst string, byswitch map[string][]*Node) map[string]step {
	found := map[string]step{dst: {}}
	queue := []string{dst}
	for len(queue) > 0 {
		to := queue[0]
		queue = queue[1:]
		for _, n := range byswitch[to] {
			toPort := n.portOn(to)
			for _, from := range n.Ports {
				if _, seen := found[from.Switch]; seen {
					continue
				}
				if n.Translates() && from.Uplink && !toPort.Uplink {
					continue
				}
				found[from.Switch] = step{n, found[to].distance + 1}
				queue = append(queue, from.Switch)
			}
		}
	}
	return found
}

// defaultRoute of a node: a host's is the router of its first switch that has
// one, a router's that of its uplink.
func (p *Plan) defaultRoute(n *Node) netip.Addr {
	if n.Host != nil && n.Host.Gateway.IsValid() {
		return n.Host.Gateway.Addr
	}
	for _, port := range n.Ports {
		if n.Router != nil && !port.Uplink {
			continue
		}
		if gw := p.bySwitch[port.Switch].Gateway; gw != nil && gw != n {
			return gw.portOn(port.Switch).Address.Addr()
		}
	}
	return netip.Addr{}
}

// routesOf lists the default route and whatever it does not cover.
func (p *Plan) routesOf(n *Node) []Route {
	var routes []Route
	byDefault := p.defaultRoute(n)
	for _, d := range p.Switches {
		if n.portOn(d.Name) != nil {
			continue
		}
		if via := p.via(n, d.Name); via.IsValid() && via != byDefault {
			routes = append(routes, Route{Dst: d.Subnet, Via: via})
		}
	}
	if byDefault.IsValid() {
		routes = append(routes, Route{Via: byDefault})
	}
	return routes
}

func (p *Plan) via(n *Node, dst string) netip.Addr {
	var best step
	var at *Port
	for _, port := range n.Ports {
		s, ok := p.routes.next[dst][port.Switch]
		if ok && s.router != n && (at == nil || s.distance < best.distance) {
			best, at = s, port
		}
	}
	if at == nil {
		return netip.Addr{}
	}
	return best.router.portOn(at.Switch).Address.Addr()
}

// Reaches says whether an address on switch dst can be reached from switch src.
func (p *Plan) Reaches(src, dst string) bool {
	_, ok := p.routes.next[dst][src]
	return ok
}

// View names what a node resolves, by the switches it is attached to. Nodes
// with the same view share their names.
func (n *Node) View() string {
	names := make([]string, len(n.Ports))
	for i, p := range n.Ports {
		names[i] = p.Switch
	}
	slices.Sort(names)
	return strings.Join(names, "+")
}

// Entry is one line of a hosts file.
type Entry struct {
	Addr  netip.Addr
	Names []string
}

// Names lists every node with an address that n can reach, in order of
// address: its own where it is reachable, else its public one.
func (p *Plan) Names(n *Node) []Entry {
	reaches := func(dst string) bool {
		return slices.ContainsFunc(n.Ports, func(port *Port) bool { return p.Reaches(port.Switch, dst) })
	}
	var entries []Entry
	known := map[string]bool{}
	for _, other := range p.Nodes {
		var at *Port
		for _, port := range other.Ports {
			direct := n.portOn(port.Switch) != nil
			if direct || at == nil && reaches(port.Switch) {
				at = port
			}
			if direct {
				break
			}
		}
		if at != nil {
			known[other.Name] = true
			entries = append(entries, Entry{at.Address.Addr(), append([]string{other.Name}, other.extraNames()...)})
		}
	}
	for _, r := range p.Nodes {
		if len(r.Public) == 0 || !reaches(r.Uplink().Switch) {
			continue
		}
		for _, m := range r.Public {
			if !known[m.Host] {
				known[m.Host] = true
				entries = append(entries, Entry{m.Outer, append([]string{m.Host}, p.byName[m.Host].extraNames()...)})
			}
		}
	}
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Names[0], b.Names[0]))
	})
	return entries
}

func (n *Node) extraNames() []string {
	if n.Host == nil {
		return nil
	}
	return n.Host.Names
}
