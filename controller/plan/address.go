package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"weft/model"
	"weft/policy"
)

// An address says who is at the other end only where it can be one workload
// alone, seen from the host that asks. So there are two books:
//
//   - the fleet's: addresses that mean the same wherever they are seen, which are
//     those of uplinks, and of containers and guests within an uplink's network;
//   - each host's own: addresses behind it, which another host may have again.
//
// What two identities claim in one host's view is in neither: whoever is there
// is nobody, and no Allow by selector lets it through.

// located is an address and who has it; 0 where more than one would.
type located struct {
	addr netip.Addr
	id   policy.Identity
}

// claims gathers who says to have an address.
type claims map[netip.Addr]policy.Identity

func (c claims) add(a netip.Addr, id policy.Identity) {
	if other, taken := c[a]; taken && other != id {
		id = 0
	}
	c[a] = id
}

// addresses reads the books of the fleet and of each host.
func addresses(workloads []*model.Workload, interfaces map[string][]model.Interface, ids map[string]policy.Identity) (fleet claims, own map[string]claims) {
	fleet, own = claims{}, map[string]claims{}
	for _, w := range workloads {
		host := w.Spec.Host
		if own[host] == nil {
			own[host] = claims{}
		}
		id := ids[w.Metadata.Name]
		theirs, here := claimsOf(w, interfaces[host])
		for _, a := range theirs {
			fleet.add(a, id)
		}
		for _, a := range here {
			own[host].add(a, id)
		}
	}
	return fleet, own
}

// claimsOf returns the addresses that a workload claims in the fleet's book and
// in its host's own, given the interfaces of its host.
func claimsOf(w *model.Workload, interfaces []model.Interface) (fleet, own []netip.Addr) {
	if w.Spec.Kind == model.WorkloadUnit {
		return nil, nil // it is seen from elsewhere as its machine
	}
	if w.Spec.Kind != model.WorkloadHost && len(w.Spec.Addresses) == 0 {
		return nil, nil
	}
	var uplinks []netip.Prefix
	var local []netip.Addr
	for _, n := range interfaces {
		for _, text := range n.Addresses {
			p, err := netip.ParsePrefix(text)
			if err != nil || !distinct(p.Addr()) {
				continue
			}
			a := p.Addr().Unmap()
			local = append(local, a)
			if n.Uplink {
				uplinks = append(uplinks, netip.PrefixFrom(a, p.Bits()))
			}
			switch {
			case w.Spec.Kind != model.WorkloadHost:
			case n.Uplink:
				fleet = append(fleet, a)
			default:
				own = append(own, a)
			}
		}
	}
	if w.Spec.Kind == model.WorkloadHost {
		return fleet, own
	}
	for _, text := range w.Spec.Addresses {
		a, ok := parseAddress(text)
		switch {
		case !ok || slices.Contains(local, a): // on the host's network, it is seen as the machine
		case slices.ContainsFunc(uplinks, func(p netip.Prefix) bool { return p.Bits() < a.BitLen() && p.Masked().Contains(a) }):
			fleet = append(fleet, a)
		default:
			own = append(own, a)
		}
	}
	return fleet, own
}

func parseAddress(text string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return a, false
		}
		a = p.Addr()
	}
	return a.Unmap(), distinct(a)
}

// distinct says whether an address can be one machine's: not of a link, of the
// machine itself, of a group, or of nobody.
func distinct(a netip.Addr) bool { return a.Zone() == "" && a.Unmap().IsGlobalUnicast() }

func byAddress(a, b located) int { return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.id, b.id)) }
