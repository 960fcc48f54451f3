package model

import (
	"fmt"
	"net/netip"
	"slices"
)

// ParseCIDR reads a range of addresses strictly: no bits after the prefix and no
// IPv4-mapped IPv6, since the same address would have two spellings.
func ParseCIDR(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
			return netip.Prefix{}, fmt.Errorf("%q has no prefix length; write %s", text, netip.PrefixFrom(a, a.BitLen()))
		}
		return netip.Prefix{}, fmt.Errorf(`%q is no range of addresses; write it like "10.0.0.0/8" or "2001:db8::/32"`, text)
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("%q begins in IPv4-mapped IPv6; write the IPv4 or the IPv6 range that is meant", text)
		}
		return netip.Prefix{}, fmt.Errorf("%q is IPv4-mapped IPv6; write %s", text, netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked())
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%q has bits set after the prefix; write %s, or %s for the one address", text, p.Masked(), netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
	}
	return p, nil
}

// placed is a range with the field it is written in.
type placed struct {
	prefix netip.Prefix
	field  string
	except []netip.Prefix
}

func checkBlocks(e *FieldErrors, field string, blocks []IPBlock) {
	var ranges []placed
	for i, b := range blocks {
		at := fmt.Sprintf("%s[%d]", field, i)
		if b.CIDR == "" {
			e.add(at+".cidr", fmt.Errorf(`is missing; write it like "10.0.0.0/8"`))
			continue
		}
		outer, err := ParseCIDR(b.CIDR)
		if err != nil {
			e.add(at+".cidr", err)
			continue
		}
		if tooMany(e, at+".except", len(b.Except)) {
			continue
		}
		ranges = append(ranges, placed{outer, at + ".cidr", checkExcepts(e, at, outer, b.Except)})
	}
	checkOverlaps(e, ranges)
}

func checkExcepts(e *FieldErrors, at string, outer netip.Prefix, texts []string) []netip.Prefix {
	var ranges []placed
	var prefixes []netip.Prefix
	for j, text := range texts {
		field := fmt.Sprintf("%s.except[%d]", at, j)
		inner, err := ParseCIDR(text)
		switch {
		case err != nil:
			e.add(field, err)
		case inner == outer:
			e.add(field, fmt.Errorf("%s is the whole block; take the block out", inner))
		case inner.Bits() < outer.Bits() || !outer.Contains(inner.Addr()):
			e.add(field, fmt.Errorf("%s is not within %s; except takes parts of cidr out", inner, outer))
		default:
			ranges = append(ranges, placed{prefix: inner, field: field})
			prefixes = append(prefixes, inner)
		}
	}
	checkOverlaps(e, ranges)
	return prefixes
}

// checkOverlaps finds ranges within others. What lies in an exception of the
// wider one adds to it and is no overlap.
func checkOverlaps(e *FieldErrors, ranges []placed) {
	slices.SortStableFunc(ranges, func(a, b placed) int { return ComparePrefix(a.prefix, b.prefix) })
	var open []placed
	for _, r := range ranges {
		for len(open) > 0 && !open[len(open)-1].prefix.Contains(r.prefix.Addr()) {
			open = open[:len(open)-1]
		}
		for _, o := range slices.Backward(open) {
			added := slices.ContainsFunc(o.except, func(x netip.Prefix) bool { return x.Bits() <= r.prefix.Bits() && x.Contains(r.prefix.Addr()) })
			if !added {
				e.add(r.field, fmt.Errorf("%s overlaps %s of %s; take one of them out", r.prefix, o.prefix, o.field))
				break
			}
		}
		open = append(open, r)
	}
}

// ComparePrefix orders ranges by address, the wider first.
func ComparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}
