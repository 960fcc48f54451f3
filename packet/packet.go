// Package packet reads and repairs the headers of frames. It allocates nothing,
// never panics on any bytes, and uses the standard library only.
package packet

import "encoding/binary"

// EtherTypes, IEEE 802 numbers.
const (
	EtherTypeIPv4  = 0x0800
	EtherTypeARP   = 0x0806
	EtherTypeTEB   = 0x6558 // a frame in GRE or GENEVE
	EtherTypeVLAN  = 0x8100
	EtherTypeIPv6  = 0x86dd
	EtherTypeMPLS  = 0x8847
	EtherTypePPPoE = 0x8864 // a session's
	EtherTypeQinQ  = 0x88a8
)

// IP protocol numbers, IANA.
const (
	ProtoICMP   = 1
	ProtoIPv4   = 4 // a packet in a packet
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoIPv6   = 41
	ProtoGRE    = 47
	ProtoICMPv6 = 58
	ProtoSCTP   = 132
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
	TCPSyn = 0x02
	TCPRst = 0x04
	TCPPsh = 0x08
	TCPAck = 0x10
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
	Offset   uint16 // of a fragment, in bytes
	ID       uint32 // identification, the same in all fragments of a datagram; 0 where it is none
	IPLen    int    // length of the IP packet as its header says; 0 in a jumbogram
}

// Parse finds the headers of a frame, as far as its bytes go. False: there is
// no whole link header.
func Parse(frame []byte, link Link) (Headers, bool) {
	var h Headers
	if !h.link(frame, link) {
		return h, false
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
	if h.Fragment = frag&0x3fff != 0; h.Fragment {
		h.ID, h.Offset = uint32(binary.BigEndian.Uint16(ip[4:])), frag<<3
	}
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
			h.Offset = binary.BigEndian.Uint16(ip[off+2:]) &^ 7
			if more := ip[off+3]&1 != 0; !more && h.Offset == 0 {
				next, off = ip[off], off+8 // one that is whole (RFC 6946)
				break
			}
			h.Fragment, h.ID = true, binary.BigEndian.Uint32(ip[off+4:])
			if h.Offset != 0 {
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
