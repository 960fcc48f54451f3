// Package packet reads and repairs the headers of frames. It allocates nothing,
// never panics on any bytes, and uses the standard library only.
package packet

import "encoding/binary"

// EtherTypes, IEEE 802 numbers.
const (
	EtherTypeIPv4 = 0x0800
	EtherTypeARP  = 0x0806
	EtherTypeVLAN = 0x8100
	EtherTypeIPv6 = 0x86dd
	EtherTypeQinQ = 0x88a8
)

// IP protocol numbers, IANA.
const (
	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
)

const (
	ethernetLen = 14
	ipv6Len     = 40
	udpLen      = 8
	maxTags     = 4
	maxExt      = 8
)

// TCP flags, RFC 9293 and RFC 3168.
const (
	TCPFin = 0x01
	TCPPsh = 0x08
	TCPCwr = 0x80
)

// Headers says where the headers of a frame begin. Offsets are from the
// frame's first byte; 0 in L4 or Payload says that there is none or that it was cut
// off.
type Headers struct {
	L3       int    // network header
	L4       int    // transport header
	Payload  int    // what the transport carries; TCP and UDP only
	Type     uint16 // EtherType behind any tags
	Tags     int    // VLAN tags in the frame
	Proto    uint8  // of the transport
	Fragment bool   // part of a fragmented datagram
	IPLen    int    // length of the IP packet as its header says; 0 in a jumbogram
}

// Link is how frames begin.
type Link uint8

// The kinds of link.
const (
	Ethernet Link = iota
	RawIP         // with the IP header
)

// Parse finds the headers of a frame, as far as its bytes go. False: there is
// no whole link header.
func Parse(frame []byte, link Link) (Headers, bool) {
	var h Headers
	if link == RawIP {
		if len(frame) == 0 {
			return h, false
		}
		switch frame[0] >> 4 {
		case 4:
			h.Type = EtherTypeIPv4
		case 6:
			h.Type = EtherTypeIPv6
		default:
			return h, false
		}
	} else {
		if len(frame) < ethernetLen {
			return h, false
		}
		h.L3, h.Type = ethernetLen, binary.BigEndian.Uint16(frame[12:])
		for (h.Type == EtherTypeVLAN || h.Type == EtherTypeQinQ) && h.Tags < maxTags {
			if len(frame) < h.L3+4 {
				return h, true
			}
			h.Type = binary.BigEndian.Uint16(frame[h.L3+2:])
			h.L3 += 4
			h.Tags++
		}
	}
	switch h.Type {
	case EtherTypeIPv4:
		h.ipv4(frame)
	case EtherTypeIPv6:
		h.ipv6(frame)
	}
	if h.L4 == 0 {
		return h, true
	}
	switch l4 := frame[h.L4:]; {
	case h.Proto == ProtoTCP && len(l4) >= 20:
		if n := int(l4[12]>>4) * 4; n >= 20 && n <= len(l4) {
			h.Payload = h.L4 + n
		}
	case h.Proto == ProtoUDP && len(l4) >= udpLen:
		h.Payload = h.L4 + udpLen
	}
	return h, true
}

func (h *Headers) ipv4(frame []byte) {
	ip := frame[h.L3:]
	if len(ip) < 20 || ip[0]>>4 != 4 {
		return
	}
	n := int(ip[0]&15) * 4
	if n < 20 || len(ip) < n {
		return
	}
	h.IPLen = int(binary.BigEndian.Uint16(ip[2:]))
	h.Proto = ip[9]
	frag := binary.BigEndian.Uint16(ip[6:])
	h.Fragment = frag&0x3fff != 0
	if frag&0x1fff == 0 {
		h.L4 = h.L3 + n
	}
}

// ipv6 walks the extension headers of RFC 8200 that lie before the transport.
func (h *Headers) ipv6(frame []byte) {
	ip := frame[h.L3:]
	if len(ip) < ipv6Len || ip[0]>>4 != 6 {
		return
	}
	if n := int(binary.BigEndian.Uint16(ip[4:])); n > 0 {
		h.IPLen = n + ipv6Len
	}
	next, off := ip[6], ipv6Len
	for range maxExt {
		switch next {
		case 0, 43, 60: // hop-by-hop, routing, destination options
			if len(ip) < off+8 {
				return
			}
			next, off = ip[off], off+(int(ip[off+1])+1)*8
		case 44: // fragment
			if len(ip) < off+8 {
				return
			}
			h.Fragment = true
			if binary.BigEndian.Uint16(ip[off+2:])&0xfff8 != 0 {
				h.Proto = ip[off]
				return
			}
			next, off = ip[off], off+8
		case 51: // authentication
			if len(ip) < off+8 {
				return
			}
			next, off = ip[off], off+(int(ip[off+1])+2)*4
		default:
			h.Proto = next
			if off <= len(ip) {
				h.L4 = h.L3 + off
			}
			return
		}
		if off > len(ip) {
			return
		}
	}
}
