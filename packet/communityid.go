package packet

import (
	"crypto/sha1" //nolint:gosec // what the specification asks for; nobody is to be kept out by it
	"encoding/base64"
	"encoding/binary"
	"net/netip"
)

// CommunityID is the name that programs give a flow so that their logs can be put
// together (Community ID 1, https://github.com/corelight/community-id-spec). For ICMP
// the ports are type and code of its first packet. Which end is which does not
// matter, but for ICMP that nobody answers.
func CommunityID(seed uint16, protocol uint8, source, destination netip.AddrPort) string {
	b := make([]byte, 0, 2+16+16+2+4)
	b = binary.BigEndian.AppendUint16(b, seed)
	swap := false
	from, to := source.Port(), destination.Port()
	switch protocol {
	case ProtoICMP, ProtoICMPv6:
		answer, answered := counterpart(protocol, from)
		if answered {
			to = answer
		}
		swap = answered && behind(source.Addr(), from, destination.Addr(), to)
	default:
		swap = behind(source.Addr(), from, destination.Addr(), to)
	}
	first, second := source.Addr(), destination.Addr()
	if swap {
		first, second, from, to = second, first, to, from
	}
	b = append(append(b, first.AsSlice()...), second.AsSlice()...)
	b = append(b, protocol, 0)
	switch protocol {
	case ProtoICMP, ProtoICMPv6, ProtoTCP, ProtoUDP, ProtoSCTP:
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, from), to)
	}
	sum := sha1.Sum(b) //nolint:gosec
	return "1:" + base64.StdEncoding.EncodeToString(sum[:])
}

// behind says whether an end is ordered behind another.
func behind(a netip.Addr, aPort uint16, b netip.Addr, bPort uint16) bool {
	c := a.Compare(b)
	return c > 0 || c == 0 && aPort > bPort
}

// pairs of ICMP types that ask and answer.
var (
	pairs4 = [][2]uint16{{8, 0}, {13, 14}, {15, 16}, {10, 9}, {17, 18}}
	pairs6 = [][2]uint16{{128, 129}, {133, 134}, {135, 136}, {130, 131}, {144, 145}, {139, 140}}
)

func counterpart(protocol uint8, kind uint16) (uint16, bool) {
	pairs := pairs4
	if protocol == ProtoICMPv6 {
		pairs = pairs6
	}
	for _, p := range pairs {
		for i := range p {
			if p[i] == kind {
				return p[1-i], true
			}
		}
	}
	return 0, false
}
