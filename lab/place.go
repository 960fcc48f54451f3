package lab

import (
	"context"
	"net/netip"
	"slices"
)

// Place is somewhere that a program can run and be spoken to: a host, a
// container or a unit.
type Place struct {
	// Name is HOST, HOST:CONTAINER or HOST:UNIT, as weft names workloads.
	Name string
	Kind PlaceKind

	host      *Host
	container *Container
	unit      string
}

// PlaceKind says what a place is.
type PlaceKind string

// The kinds of places.
const (
	PlaceHost      PlaceKind = "host"
	PlaceContainer PlaceKind = "container"
	PlaceUnit      PlaceKind = "unit"
)

// Places lists hosts that are up (no routers), their containers and units.
func (l *Lab) Places() []*Place {
	var out []*Place
	for _, h := range l.order {
		if h.IsRouter() || !h.Up() {
			continue
		}
		out = append(out, &Place{Name: h.Name, Kind: PlaceHost, host: h})
		for _, c := range h.Containers() {
			out = append(out, &Place{Name: h.Name + ":" + c.Name, Kind: PlaceContainer, host: h, container: c})
		}
		for _, u := range h.node.Host.Units {
			out = append(out, &Place{Name: h.Name + ":" + u.Name, Kind: PlaceUnit, host: h, unit: u.Name})
		}
	}
	return out
}

// Command prepares a command that runs at the place.
func (p *Place) Command(ctx context.Context, argv ...string) *Cmd {
	switch {
	case p.container != nil:
		return p.container.Command(ctx, argv...)
	case p.unit != "":
		return p.host.UnitCommand(ctx, p.unit, argv...)
	}
	return p.host.Command(ctx, argv...)
}

// NetNS is the network namespace of the place; a unit's is its host's.
func (p *Place) NetNS() string {
	if p.container != nil {
		return p.container.NetNS()
	}
	return p.host.NetNS()
}

// Target is the address at which a port of another place can be called from
// here; protocol is tcp, udp or icmp. It is false where there is no way by
// design: a host behind somebody else's NAT, a container of another host that
// does not publish the port.
func (p *Place) Target(to *Place, protocol string, port uint16) (netip.AddrPort, bool) {
	if to.container != nil && p.host == to.host {
		return netip.AddrPortFrom(to.container.address, port), true
	}
	if to.container != nil {
		i := slices.IndexFunc(to.container.spec.Publish, func(x Publish) bool { return x.Protocol == protocol && x.Port == int(port) })
		if i < 0 {
			return netip.AddrPort{}, false
		}
		port = uint16(to.container.spec.Publish[i].HostPort)
	}
	if p.host == to.host {
		return netip.AddrPortFrom(to.host.Addresses()[0], port), true
	}
	for _, e := range p.host.lab.plan.Names(p.host.node) {
		if slices.Contains(e.Names, to.host.Name) {
			return netip.AddrPortFrom(e.Addr, port), true
		}
	}
	return netip.AddrPort{}, false
}
