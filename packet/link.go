package packet

import "encoding/binary"

// Link is how frames begin.
type Link uint8

// The kinds of link.
const (
	Ethernet Link = iota
	RawIP         // with the IP header
	Loopback      // BSD's: four bytes of address family, in the order of the machine or of the network
	LinuxSLL      // what Linux hands to captures of any interface
	LinuxSLL2
	PPP // RFC 1662, with or without address and control; Cisco's HDLC
)

const (
	sllLen  = 16
	sll2Len = 20
	maxMPLS = 8
)

// link reads the link header, and what may lie between it and the network
// header. Where that is cut off, or is nothing known, Type is what came last.
func (h *Headers) link(frame []byte, link Link) bool {
	switch link {
	case RawIP:
		return h.bare(frame, 0)
	case Loopback:
		if len(frame) < 4 {
			return false
		}
		// No family has a number that both orders would fit.
		family := binary.LittleEndian.Uint32(frame)
		if family > 0xffff {
			family = binary.BigEndian.Uint32(frame)
		}
		h.L3 = 4
		switch family {
		case 2:
			h.Type = EtherTypeIPv4
		case 10, 24, 28, 30: // of Linux, NetBSD and OpenBSD, FreeBSD, macOS
			h.Type = EtherTypeIPv6
		}
		return true
	case LinuxSLL:
		if len(frame) < sllLen {
			return false
		}
		h.L3, h.Type = sllLen, binary.BigEndian.Uint16(frame[14:])
	case LinuxSLL2:
		if len(frame) < sll2Len {
			return false
		}
		h.L3, h.Type = sll2Len, binary.BigEndian.Uint16(frame)
	case PPP:
		switch {
		case len(frame) >= 4 && frame[0]&^0x80 == 0x0f && frame[1] == 0:
			h.L3, h.Type = 4, binary.BigEndian.Uint16(frame[2:])
			h.between(frame)
			return true
		case len(frame) >= 4 && frame[0] == 0xff && frame[1] == 3:
			h.L3 = 2
		}
		return h.ppp(frame)
	default:
		if len(frame) < ethernetLen {
			return false
		}
		h.L3, h.Type = ethernetLen, binary.BigEndian.Uint16(frame[12:])
	}
	h.between(frame)
	return true
}

// bare takes what begins at an offset for an IP packet.
func (h *Headers) bare(frame []byte, at int) bool {
	h.L3, h.Type = at, 0
	if len(frame) <= at {
		return false
	}
	switch frame[at] >> 4 {
	case 4:
		h.Type = EtherTypeIPv4
	case 6:
		h.Type = EtherTypeIPv6
	default:
		return false
	}
	return true
}

// between passes tags, LLC and SNAP, MPLS labels and PPPoE.
func (h *Headers) between(frame []byte) {
	for (h.Type == EtherTypeVLAN || h.Type == EtherTypeQinQ) && h.Tags < maxTags {
		if len(frame) < h.L3+4 {
			return
		}
		h.Type = binary.BigEndian.Uint16(frame[h.L3+2:])
		h.L3 += 4
		h.Tags++
	}
	rest := frame[h.L3:]
	switch h.Type {
	case EtherTypeMPLS, EtherTypeMPLS + 1: // unicast, multicast
		for range maxMPLS {
			if len(rest) < 4 {
				return
			}
			last := rest[2]&1 != 0
			rest, h.L3 = rest[4:], h.L3+4
			if last {
				was := h.Type
				if !h.bare(frame, h.L3) {
					h.Type = was // a frame of a pseudowire, or anything
				}
				return
			}
		}
	case EtherTypePPPoE:
		if len(rest) >= 6 {
			h.L3 += 6
			h.ppp(frame)
		}
	default:
		// A length instead of a type (IEEE 802.3): LLC, and SNAP for an EtherType. 4 is
		// what Linux calls 802.2 frames in captures of any interface.
		if h.Type <= 1500 && len(rest) >= 8 && rest[0] == 0xaa && rest[1] == 0xaa && rest[2] == 3 && rest[3]|rest[4]|rest[5] == 0 {
			h.Type, h.L3 = binary.BigEndian.Uint16(rest[6:]), h.L3+8
		}
	}
}

// ppp reads a PPP protocol number, of one byte or two.
func (h *Headers) ppp(frame []byte) bool {
	rest := frame[h.L3:]
	if len(rest) < 2 {
		return false
	}
	number := binary.BigEndian.Uint16(rest)
	h.L3 += 2
	if rest[0]&1 != 0 {
		number = uint16(rest[0])
		h.L3--
	}
	h.Type = 0
	switch number {
	case 0x21:
		h.Type = EtherTypeIPv4
	case 0x57:
		h.Type = EtherTypeIPv6
	case 0x281, 0x283:
		h.Type = EtherTypeMPLS
		h.between(frame)
	}
	return true
}
