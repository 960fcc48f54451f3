package api

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/controller/plan"
	"weft/model"
	"weft/policy"
)

// resolveWithin bounds the look-up of a domain name.
const resolveWithin = 3 * time.Second

// party is one end of a question, as a person named it.
type party struct {
	workload *model.Workload // nil for what is none
	addrs    []netip.Addr
	names    []string
	entities policy.EntitySet
	local    bool // its address means something on its own host only
}

// wordEntities are the ends that can be named by what they are.
var wordEntities = []model.Entity{model.EntityWorld, model.EntityDNS, model.EntityControlPlane, model.EntityRelay, model.EntityMetadata}

var metadataAddr = netip.MustParseAddr("169.254.169.254")

// party finds who is meant: a workload by its name, an address, an entity, or a
// domain name, in this order.
func (f *fleet) party(ctx context.Context, text string) (*party, error) {
	for _, w := range f.workloads {
		if w.Metadata.Name == text {
			return f.ofWorkload(w), nil
		}
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		return f.ofAddress(addr.Unmap()), nil
	}
	if e := model.Entity(text); slices.Contains(wordEntities, e) {
		out := &party{addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, entities: policy.EntityBit(e)}
		if e == model.EntityMetadata {
			out.addrs = []netip.Addr{metadataAddr}
		}
		return out, nil
	}
	name := strings.TrimSuffix(strings.ToLower(text), ".")
	if !strings.Contains(name, ".") || strings.ContainsAny(name, ":/ ") {
		return nil, problem(404, "no workload %q; `weft get workloads` lists them, and an address, a domain name, %s will do too", text, "world, dns, control-plane, relay or metadata")
	}
	ctx, cancel := context.WithTimeout(ctx, resolveWithin)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if err != nil || len(addrs) == 0 {
		return nil, problem(422, "%q is no workload, and the controller finds no address of that name: %v; name an address instead", text, err)
	}
	out := f.ofAddress(addrs[0].Unmap())
	out.names = []string{name}
	if out.workload == nil {
		for _, a := range addrs[1:] {
			out.addrs = append(out.addrs, a.Unmap())
		}
	}
	return out, nil
}

func (f *fleet) ofAddress(a netip.Addr) *party {
	if w := f.directory.Anywhere(a); w != nil {
		out := f.ofWorkload(w)
		out.addrs = []netip.Addr{a}
		return out
	}
	out := &party{addrs: []netip.Addr{a}}
	if a == metadataAddr {
		out.entities |= policy.EntityBit(model.EntityMetadata)
	}
	for _, r := range f.relays {
		for _, text := range r.Spec.Addresses {
			if ap, err := netip.ParseAddrPort(text); err == nil && ap.Addr().Unmap() == a {
				out.entities |= policy.EntityBit(model.EntityRelay)
			}
		}
	}
	return out
}

func (f *fleet) ofWorkload(w *model.Workload) *party {
	out := &party{workload: w, local: true}
	for _, text := range w.Spec.Addresses {
		a, err := netip.ParseAddr(text)
		if err != nil {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				continue
			}
			a = p.Addr()
		}
		if a = a.Unmap(); !a.IsGlobalUnicast() {
			continue
		}
		out.addrs = append(out.addrs, a)
		if f.directory.Anywhere(a) == w {
			out.local = false
		}
	}
	return out
}

// end makes the end of a packet, by an address of the family that both have.
func (p *party) end(w *plan.World, other *party, process model.PolicyProcess) (policy.End, bool) {
	e := policy.End{Process: process, Entities: p.entities, Names: p.names}
	if p.workload != nil {
		e.Identity = w.ByWorkload[p.workload.Metadata.Name]
		if o := other.workload; o != nil {
			if o.Metadata.Name == p.workload.Metadata.Name {
				e.Entities |= policy.EntityBit(model.EntitySelf)
			}
			if o.Spec.Host == p.workload.Spec.Host && p.workload.Spec.Kind == model.WorkloadHost {
				e.Entities |= policy.EntityBit(model.EntityHost)
			}
		}
	}
	for _, a := range p.addrs {
		if len(other.addrs) == 0 || slices.ContainsFunc(other.addrs, func(b netip.Addr) bool { return a.BitLen() == b.BitLen() }) {
			e.Addr = a
			return e, true
		}
	}
	if len(p.addrs) > 0 && len(other.addrs) > 0 {
		return e, false
	}
	// No address is known of a workload: one of the right family stands for it.
	e.Addr = netip.MustParseAddr("192.0.2.1")
	if len(other.addrs) > 0 && other.addrs[0].Is6() {
		e.Addr = netip.MustParseAddr("2001:db8::1")
	}
	return e, true
}

// parseService reads "tcp/5432", "icmp/8", "icmp/3.1", "gre" or "47".
func parseService(text string) (protocol uint8, port uint16, err error) {
	name, rest, given := strings.Cut(strings.ToLower(text), "/")
	protocols := map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmpv6": 58, "gre": 47}
	number, known := protocols[name]
	if n, err := strconv.ParseUint(name, 10, 8); !known && err == nil {
		number, known = uint8(n), true
	}
	fault := problem(422, "%q names no protocol and port; write it like tcp/5432, udp/53, sctp/3868, icmp/8 (a type), icmp/3.1 (type and code) or gre", text)
	switch {
	case !known:
		return 0, 0, fault
	case model.HasPorts(number):
		n, err := strconv.ParseUint(rest, 10, 16)
		if err != nil {
			return 0, 0, fault
		}
		return number, uint16(n), nil
	case model.IsICMP(number):
		typ, code, _ := strings.Cut(rest, ".")
		t, errT := strconv.ParseUint(cmp.Or(typ, map[uint8]string{1: "8", 58: "128"}[number]), 10, 8)
		c, errC := strconv.ParseUint(cmp.Or(code, "0"), 10, 8)
		if errT != nil || errC != nil {
			return 0, 0, fault
		}
		return number, uint16(t)<<8 | uint16(c), nil
	case given:
		return 0, 0, fault
	}
	return number, 0, nil
}

// newPacket puts a packet together.
func newPacket(source, destination policy.End, protocol uint8, port uint16) *policy.Packet {
	p := &policy.Packet{Source: source, Destination: destination, Protocol: protocol}
	switch {
	case model.IsICMP(protocol):
		p.ICMPType, p.ICMPCode = uint8(port>>8), uint8(port)
	case model.HasPorts(protocol):
		p.SourcePort, p.DestinationPort = 49152, port
	}
	return p
}
