package nft

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
)

var selfBit = policy.EntityBit(model.EntitySelf)

// addresses are those of a state, ready to be cut for each namespace.
type addresses struct {
	list []datapath.Address
	lpm  *bart.Table[datapath.Address]
}

func newAddresses(list []datapath.Address) *addresses {
	a := &addresses{list: list, lpm: &bart.Table[datapath.Address]{}}
	for _, x := range list {
		x.Prefix = x.Prefix.Masked()
		a.lpm.Insert(x.Prefix, x)
	}
	return a
}

// Loopback addresses are everybody's in their namespace.
var (
	loopbackPrefixes  = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	loopbackAddresses = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}
)

// withLoopback returns the addresses as one namespace sees them: what has no
// address there but loopback is who has the namespace, and in the machine's own
// it is the machine.
func (a *addresses) withLoopback(base *datapath.Subject, machine bool) *addresses {
	out := &addresses{list: slices.Clip(a.list), lpm: a.lpm}
	for _, p := range loopbackPrefixes {
		x := datapath.Address{Prefix: p, Identity: base.Identity}
		if machine {
			x.Entities = policy.EntityBit(model.EntityHost)
		}
		out.list = append(out.list, x)
		out.lpm = out.lpm.InsertPersist(p, x)
	}
	return out
}

// addressRange is addresses that are in one place.
type addressRange struct {
	first, last netip.Addr
	place
}

// cut divides all addresses of both families into ranges, ascending and without
// a gap, within which everything is in one place.
func (a *addresses) cut(blocks *bart.Table[netip.Prefix], owners map[netip.Addr]string) []addressRange {
	starts := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	add := func(p netip.Prefix) {
		starts = append(starts, p.Addr())
		if next := lastOf(p).Next(); next.IsValid() {
			starts = append(starts, next)
		}
	}
	for _, x := range a.list {
		add(x.Prefix.Masked())
	}
	for p := range blocks.All() {
		add(p)
	}
	for o := range owners {
		add(netip.PrefixFrom(o, o.BitLen()))
	}
	slices.SortFunc(starts, func(x, y netip.Addr) int { return comparePlaces(addressRange{first: x}, addressRange{first: y}) })
	starts = slices.Compact(starts)
	out := make([]addressRange, 0, len(starts))
	for i, first := range starts {
		r := addressRange{first: first}
		r.family = first.Is4()
		if x, ok := a.lpm.Lookup(first); ok {
			r.identity, r.entities = x.Identity, x.Entities
		}
		if b, ok := blocks.Lookup(first); ok {
			r.block = b
		}
		r.owners = owners[first]
		if n := len(out); n > 0 && out[n-1].place == r.place {
			continue // the one before goes on
		}
		if i > 0 && starts[i-1].Is4() == first.Is4() {
			out[len(out)-1].last = first.Prev()
		} else if len(out) > 0 {
			out[len(out)-1].last = lastOf(netip.MustParsePrefix("0.0.0.0/0"))
		}
		out = append(out, r)
	}
	out[len(out)-1].last = lastOf(netip.MustParsePrefix("::/0"))
	return out
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	out, _ := netip.AddrFromSlice(b)
	return out
}

func comparePlaces(a, b addressRange) int {
	return cmp.Or(cmp.Compare(a.first.BitLen(), b.first.BitLen()), a.first.Compare(b.first))
}
