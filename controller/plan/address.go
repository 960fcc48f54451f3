package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"weft/model"
	"weft/policy"
	"weft/wire/policywire"
	"weft/wire/wirepb"
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

// addressBook is the fleet's, written for the wire once for all hosts.
type addressBook struct {
	list []located // ascending, without what is ambiguous
	all  map[netip.Addr]policy.Identity
	wire []*wirepb.AddressIdentity
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
		id, uplinks, local := ids[w.Metadata.Name], []netip.Prefix(nil), map[netip.Addr]bool{}
		for _, n := range interfaces[host] {
			for _, text := range n.Addresses {
				p, err := netip.ParsePrefix(text)
				if err != nil || !distinct(p.Addr()) {
					continue
				}
				a := p.Addr().Unmap()
				local[a] = true
				if n.Uplink {
					uplinks = append(uplinks, netip.PrefixFrom(a, p.Bits()))
				}
				if w.Spec.Kind != model.WorkloadHost {
					continue
				}
				if n.Uplink {
					fleet.add(a, id)
				} else {
					own[host].add(a, id)
				}
			}
		}
		if w.Spec.Kind == model.WorkloadHost || w.Spec.Kind == model.WorkloadUnit {
			continue // a unit is seen from elsewhere as its machine
		}
		for _, text := range w.Spec.Addresses {
			a, ok := parseAddress(text)
			switch {
			case !ok || local[a]: // on the host's network, it is seen as the machine
			case slices.ContainsFunc(uplinks, func(p netip.Prefix) bool { return p.Bits() < a.BitLen() && p.Masked().Contains(a) }):
				fleet.add(a, id)
			default:
				own[host].add(a, id)
			}
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

func newAddressBook(fleet claims, last *addressBook) *addressBook {
	b := &addressBook{all: fleet}
	for a, id := range fleet {
		if id != 0 {
			b.list = append(b.list, located{a, id})
		}
	}
	slices.SortFunc(b.list, byAddress)
	if last != nil && slices.Equal(last.list, b.list) {
		b.wire = last.wire
		return b
	}
	b.wire = encodeAddresses(b.list)
	return b
}

func byAddress(a, b located) int { return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.id, b.id)) }

func encodeAddresses(list []located) []*wirepb.AddressIdentity {
	out := make([]*wirepb.AddressIdentity, len(list))
	for i, l := range list {
		out[i] = &wirepb.AddressIdentity{Address: policywire.EncodeAddress(l.addr), Identity: uint32(l.id)}
	}
	return out
}

// view joins the fleet's book and a host's own: own are the entries to add, and
// hidden the fleet's addresses that somebody on the host has too.
func (b *addressBook) view(own claims) (add []located, hidden map[netip.Addr]bool) {
	for a, id := range own {
		other, taken := b.all[a]
		switch {
		case taken && other != id:
			if hidden == nil {
				hidden = map[netip.Addr]bool{}
			}
			hidden[a] = true
		case !taken && id != 0:
			add = append(add, located{a, id})
		}
	}
	slices.SortFunc(add, byAddress)
	return add, hidden
}
