package importing

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/model"
)

// span is a range of addresses of one family, both ends included.
type span struct{ first, last netip.Addr }

// addresses is a set: sorted spans that do not touch, IPv4 before IPv6.
type addresses []span

var (
	allIPv4 = addresses{spanOf(netip.MustParsePrefix("0.0.0.0/0"))}
	allIPv6 = addresses{spanOf(netip.MustParsePrefix("::/0"))}
)

func spanOf(p netip.Prefix) span {
	p = p.Masked()
	last := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(last)
	return span{p.Addr(), a}
}

func addressesOf(prefixes ...netip.Prefix) addresses {
	var out addresses
	for _, p := range prefixes {
		out = append(out, spanOf(p))
	}
	return out.normal()
}

func (a addresses) normal() addresses {
	a = slices.Clone(a)
	slices.SortFunc(a, func(x, y span) int { return x.first.Compare(y.first) })
	var out addresses
	for _, s := range a {
		if n := len(out); n > 0 && out[n-1].first.BitLen() == s.first.BitLen() && (s.first.Compare(out[n-1].last) <= 0 || s.first == out[n-1].last.Next()) {
			if out[n-1].last.Less(s.last) {
				out[n-1].last = s.last
			}
			continue
		}
		out = append(out, s)
	}
	return out
}

func (a addresses) or(b addresses) addresses { return slices.Concat(a, b).normal() }

func (a addresses) and(b addresses) addresses {
	var out addresses
	for i, j := 0, 0; i < len(a) && j < len(b); {
		first, last := a[i].first, a[i].last
		if first.Less(b[j].first) {
			first = b[j].first
		}
		if b[j].last.Less(last) {
			last = b[j].last
		}
		if first.BitLen() == last.BitLen() && first.Compare(last) <= 0 {
			out = append(out, span{first, last})
		}
		if a[i].last.Less(b[j].last) {
			i++
		} else {
			j++
		}
	}
	return out
}

// without returns what is in a and not in b.
func (a addresses) without(b addresses) addresses {
	var out addresses
	for _, s := range a {
		first, gone := s.first, false
		for _, x := range b {
			if x.first.BitLen() != first.BitLen() || x.last.Less(first) || s.last.Less(x.first) {
				continue
			}
			if first.Less(x.first) {
				out = append(out, span{first, x.first.Prev()})
			}
			if !x.last.Less(s.last) {
				gone = true
				break
			}
			first = x.last.Next()
		}
		if !gone {
			out = append(out, span{first, s.last})
		}
	}
	return out
}

// prefixes returns the fewest that make up the set.
func (a addresses) prefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, s := range a {
		for at := s.first; at.IsValid() && !s.last.Less(at); {
			p := netip.PrefixFrom(at, at.BitLen())
			for p.Bits() > 0 {
				wider := netip.PrefixFrom(at, p.Bits()-1)
				if wider.Masked().Addr() != at || s.last.Less(spanOf(wider).last) {
					break
				}
				p = wider
			}
			out = append(out, p)
			at = spanOf(p).last.Next()
		}
	}
	return out
}

// around returns the narrowest prefix that holds a set of one family.
func (a addresses) around() netip.Prefix {
	p := netip.PrefixFrom(a[0].first, a[0].first.BitLen())
	for !p.Contains(a[len(a)-1].last) {
		p, _ = p.Addr().Prefix(p.Bits() - 1)
	}
	return p
}

// peers returns the set as peers that take workloads of weft too, as address
// rules elsewhere do. Nothing is an empty list.
func (a addresses) peers() []model.PolicyPeer {
	var blocks []model.IPBlock
	for _, family := range []addresses{allIPv4, allIPv6} {
		part := a.and(family)
		if len(part) == 0 {
			continue
		}
		around := part.around()
		holes, whole := addressesOf(around).without(part).prefixes(), part.prefixes()
		if len(holes) > 0 && len(holes)+1 < len(whole) && len(holes) <= model.MaxPeerItems {
			b := model.IPBlock{CIDR: around.String(), IncludeManaged: true}
			for _, h := range holes {
				b.Except = append(b.Except, h.String())
			}
			blocks = append(blocks, b)
			continue
		}
		for _, p := range whole {
			blocks = append(blocks, model.IPBlock{CIDR: p.String(), IncludeManaged: true})
		}
	}
	var out []model.PolicyPeer
	for some := range slices.Chunk(blocks, model.MaxPeerItems) {
		out = append(out, model.PolicyPeer{IPBlocks: some})
	}
	return out
}

// parsePrefix reads an address or a range; bits after the prefix mean nothing,
// as they do to the systems imported from.
func parsePrefix(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if a, aerr := netip.ParseAddr(text); err != nil && aerr == nil {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	if err != nil || p.Addr().Is4In6() || p.Addr().Zone() != "" {
		if len(text) > 100 {
			text = text[:100] + "…"
		}
		return p, fmt.Errorf(`%q is no range of addresses; write it like "10.0.0.0/8" or "2001:db8::/32"`, strings.ToValidUTF8(text, "?"))
	}
	return p.Masked(), nil
}

// prefix returns the range of addresses written here.
func (c cursor) prefix() (netip.Prefix, bool) {
	text := c.text()
	if text == "" {
		if !c.there() || c.value.scalar == "" {
			c.fault(`is missing; write a range like "10.0.0.0/8"`)
		}
		return netip.Prefix{}, false
	}
	p, err := parsePrefix(text)
	if err != nil {
		c.fault("%v", err)
	}
	return p, err == nil
}
