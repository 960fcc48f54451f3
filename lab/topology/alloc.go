package topology

import (
	"encoding/binary"
	"net/netip"
)

// allocator hands out the addresses of one subnet.
type allocator struct {
	subnet netip.Prefix
	owners map[netip.Addr]string
	// cursor remembers where each search left off, so that 1,000 hosts cost
	// 1,000 steps.
	cursor map[int]netip.Addr
}

func newAllocator(subnet netip.Prefix) allocator {
	return allocator{subnet, map[netip.Addr]string{}, map[int]netip.Addr{}}
}

func last(p netip.Prefix) netip.Addr {
	v := binary.BigEndian.Uint32(p.Addr().AsSlice()) | uint32(uint64(1)<<(32-p.Bits())-1)
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, v)))
}

func offset(p netip.Prefix, n int) netip.Addr {
	v := binary.BigEndian.Uint32(p.Addr().AsSlice()) + uint32(n)
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, v)))
}

// take reserves an address and returns who has it already, or "".
func (a allocator) take(addr netip.Addr, owner string) string {
	if other := a.owners[addr]; other != "" {
		return other
	}
	a.owners[addr] = owner
	return ""
}

func (a allocator) owner(addr netip.Addr) string { return a.owners[addr] }

// next returns the first free address at or after the from-th, else any free
// one, else the zero Addr.
func (a allocator) next(from int, owner string) netip.Addr {
	size := 1 << (32 - a.subnet.Bits())
	if from >= size-1 {
		from = 1
	}
	start, ok := a.cursor[from]
	if !ok {
		start = offset(a.subnet, from)
	}
	end := last(a.subnet)
	for _, at := range []netip.Addr{start, offset(a.subnet, 1)} {
		for ; at.Less(end); at = at.Next() {
			if a.owners[at] == "" {
				a.owners[at] = owner
				a.cursor[from] = at.Next()
				return at
			}
		}
	}
	return netip.Addr{}
}
