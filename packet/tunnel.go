package packet

import "encoding/binary"

// UDP ports of tunnels, IANA; VXLAN's first was Linux' before there was one.
const (
	portVXLAN  = 4789
	portVXLAN0 = 8472
	portGENEVE = 6081
)

const (
	erspan1 = 0x88be // types I and II
	erspan3 = 0x22eb
)

// Unwrap returns the frame that a packet of a tunnel carries: GRE, ERSPAN,
// VXLAN, GENEVE, IP in IP. False: it is of none, or is cut off, or a fragment.
func Unwrap(frame []byte, h Headers) (inner []byte, link Link, ok bool) {
	if h.L4 == 0 || h.Fragment {
		return nil, 0, false
	}
	end := len(frame)
	if h.IPLen > 0 && h.L3+h.IPLen < end {
		end = max(h.L4, h.L3+h.IPLen)
	}
	l4 := frame[h.L4:end]
	switch h.Proto {
	case ProtoIPv4, ProtoIPv6:
		return l4, RawIP, len(l4) > 0
	case ProtoGRE:
		return unwrapGRE(l4)
	case ProtoUDP:
		if len(l4) < udpLen+8 {
			return nil, 0, false
		}
		switch payload := l4[udpLen:]; binary.BigEndian.Uint16(l4[2:]) {
		case portVXLAN, portVXLAN0:
			return payload[8:], Ethernet, payload[0]&0x08 != 0 // RFC 7348: the number is there
		case portGENEVE:
			n := 8 + int(payload[0]&0x3f)*4
			if payload[0]>>6 != 0 || payload[1]&0x80 != 0 || len(payload) < n { // another version; what no captured packet is
				return nil, 0, false
			}
			return carried(payload[n:], binary.BigEndian.Uint16(payload[2:]))
		}
	}
	return nil, 0, false
}

// carried is what an EtherType says of the bytes that it comes with.
func carried(b []byte, etherType uint16) ([]byte, Link, bool) {
	switch etherType {
	case EtherTypeTEB:
		return b, Ethernet, true
	case EtherTypeIPv4, EtherTypeIPv6:
		return b, RawIP, true
	}
	return nil, 0, false
}

// unwrapGRE reads RFC 2784 with the fields of RFC 2890, and Cisco's ERSPAN in it.
func unwrapGRE(b []byte) ([]byte, Link, bool) {
	if len(b) < 4 || b[1]&7 != 0 { // version 1 is PPTP's
		return nil, 0, false
	}
	n, sequenced := 4, b[0]&0x10 != 0
	for _, bit := range []byte{0x80, 0x20, 0x10} { // checksum, key, sequence
		if b[0]&bit != 0 {
			n += 4
		}
	}
	kind := binary.BigEndian.Uint16(b[2:])
	switch {
	case kind == erspan1 && sequenced:
		n += 8
	case kind == erspan3:
		n += 12
		if len(b) >= n && b[n-1]&1 != 0 {
			n += 8
		}
	}
	if len(b) < n {
		return nil, 0, false
	}
	if kind == erspan1 || kind == erspan3 {
		kind = EtherTypeTEB
	}
	return carried(b[n:], kind)
}
