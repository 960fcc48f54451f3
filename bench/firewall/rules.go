package main

import "net/netip"

// rule allows one address one port of one protocol, as all rules here do.
type rule struct {
	source   netip.Addr
	protocol uint8
	port     uint16
}

const (
	protocolTCP = 6
	protocolUDP = 17
)

func (r rule) protocolName() string {
	if r.protocol == protocolTCP {
		return "tcp"
	}
	return "udp"
}

// nth is a rule that shares address and port with no other: even ones are for
// UDP, odd ones for TCP.
func nth(i int) rule {
	r := rule{source: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), protocol: protocolUDP, port: uint16(1000 + i%60000)}
	if i%2 == 1 {
		r.protocol = protocolTCP
	}
	return r
}

// elsewhere is far from every rule that is loaded.
const elsewhere = 200 << 16

// many are n rules, from the one of that number on.
func many(from, n int) []rule {
	out := make([]rule, n)
	for i := range out {
		out[i] = nth(from + i)
	}
	return out
}

// What is sent, of n rules, an even number.
func firstUDP() rule     { return nth(0) }
func lastUDP(n int) rule { return nth(n - 2) }
func lastTCP(n int) rule { return nth(n - 1) }
func missed() rule       { return nth(elsewhere) }
