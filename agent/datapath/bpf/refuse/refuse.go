// Package refuse writes the packet that tells a sender that its own was turned
// down: a TCP reset (RFC 9293, 3.5.2) or an ICMP message "communication
// administratively prohibited" (RFC 1812, 5.2.7.1; RFC 4443, 3.1).
package refuse

import (
	"encoding/binary"
	"net/netip"

	"weft/packet"
)

// The lengths of headers without options.
const (
	ip4Len  = 20
	ip6Len  = 40
	tcpLen  = 20
	icmpLen = 8
)

// Answer returns the answer to a packet, from its network header on, and where
// it goes. raw may be cut after the first bytes of the transport; length is what
// the whole packet had. ok is false for what gets no answer: a reset, an ICMP
// error, what does not parse.
func Answer(raw []byte, length int) (answer []byte, to netip.Addr, ok bool) {
	if len(raw) < ip4Len {
		return nil, to, false
	}
	switch raw[0] >> 4 {
	case 4:
		return answer4(raw, length)
	case 6:
		return answer6(raw, length)
	}
	return nil, to, false
}

func answer4(raw []byte, length int) ([]byte, netip.Addr, bool) {
	header := int(raw[0]&15) * 4
	src, dst := netip.AddrFrom4([4]byte(raw[12:16])), netip.AddrFrom4([4]byte(raw[16:20]))
	if header < ip4Len || len(raw) < header+8 || binary.BigEndian.Uint16(raw[6:])&0x1fff != 0 || dst.IsMulticast() {
		return nil, src, false
	}
	var body []byte
	proto := byte(packet.ProtoICMP)
	switch raw[9] {
	case packet.ProtoTCP:
		proto = packet.ProtoTCP
		if body = reset(raw[header:], length-header, dst, src); body == nil {
			return nil, src, false
		}
	case packet.ProtoICMP:
		if t := raw[header]; t != 8 { // an echo request asks, all else tells
			return nil, src, false
		}
		fallthrough
	default:
		body = unreachable(3, 13, raw[:min(len(raw), header+8)])
		binary.BigEndian.PutUint16(body[2:], ^packet.Fold(packet.Sum(0, body)))
	}
	out := make([]byte, ip4Len, ip4Len+len(body))
	out[0], out[8], out[9] = 0x45, 64, proto
	binary.BigEndian.PutUint16(out[2:], uint16(ip4Len+len(body)))
	copy(out[12:], raw[16:20])
	copy(out[16:], raw[12:16])
	binary.BigEndian.PutUint16(out[10:], ^packet.Fold(packet.Sum(0, out)))
	return append(out, body...), src, true
}

func answer6(raw []byte, length int) ([]byte, netip.Addr, bool) {
	if len(raw) < ip6Len+8 {
		return nil, netip.Addr{}, false
	}
	src, dst := netip.AddrFrom16([16]byte(raw[8:24])), netip.AddrFrom16([16]byte(raw[24:40]))
	if dst.IsMulticast() {
		return nil, src, false
	}
	var body []byte
	proto := byte(packet.ProtoICMPv6)
	switch raw[6] {
	case packet.ProtoTCP:
		proto = packet.ProtoTCP
		if body = reset(raw[ip6Len:], length-ip6Len, dst, src); body == nil {
			return nil, src, false
		}
	case packet.ProtoICMPv6:
		if raw[ip6Len] != 128 {
			return nil, src, false
		}
		fallthrough
	default:
		body = unreachable(1, 1, raw)
		binary.BigEndian.PutUint16(body[2:], ^packet.Fold(packet.Sum(pseudo(dst, src, proto, len(body)), body)))
	}
	out := make([]byte, ip6Len, ip6Len+len(body))
	out[0], out[6], out[7] = 0x60, proto, 64
	binary.BigEndian.PutUint16(out[4:], uint16(len(body)))
	copy(out[8:], raw[24:40])
	copy(out[24:], raw[8:24])
	return append(out, body...), src, true
}

// unreachable is an ICMP error about a packet, without its checksum.
func unreachable(kind, code byte, about []byte) []byte {
	out := make([]byte, icmpLen, icmpLen+len(about))
	out[0], out[1] = kind, code
	return append(out, about...)
}

// reset is a TCP reset from one address to another, answering a segment whose
// header begins raw and which has length bytes; nil where that is a reset.
func reset(raw []byte, length int, from, to netip.Addr) []byte {
	if len(raw) < tcpLen {
		return nil
	}
	const fin, syn, rst, ack = 1, 2, 4, 16
	flags := raw[13]
	if flags&rst != 0 {
		return nil
	}
	out := make([]byte, tcpLen)
	copy(out[0:], raw[2:4])
	copy(out[2:], raw[0:2])
	out[12] = tcpLen / 4 << 4
	out[13] = rst
	if flags&ack != 0 {
		copy(out[4:8], raw[8:12])
	} else {
		seq := binary.BigEndian.Uint32(raw[4:]) + uint32(max(0, length-int(raw[12]>>4)*4))
		for _, f := range []byte{syn, fin} {
			if flags&f != 0 {
				seq++
			}
		}
		binary.BigEndian.PutUint32(out[8:], seq)
		out[13] |= ack
	}
	binary.BigEndian.PutUint16(out[16:], ^packet.Fold(packet.Sum(pseudo(from, to, packet.ProtoTCP, len(out)), out)))
	return out
}

// pseudo is the sum of the pseudo-header.
func pseudo(from, to netip.Addr, proto byte, length int) uint64 {
	acc := packet.Sum(0, from.AsSlice())
	acc = packet.Sum(acc, to.AsSlice())
	return packet.Sum(acc, []byte{byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length), 0, 0, 0, proto})
}
