package packet

import (
	"encoding/binary"
	"net/netip"
)

// Ends are the addresses and ports of a TCP or UDP packet. False: it is none, or
// cut before its ports are known, or a later fragment.
func Ends(frame []byte, link Link) (source, destination netip.AddrPort, protocol uint8, ok bool) {
	h, ok := Parse(frame, link)
	if !ok || h.L4 == 0 || h.Proto != ProtoTCP && h.Proto != ProtoUDP || len(frame) < h.L4+4 {
		return source, destination, 0, false
	}
	var a, b netip.Addr
	switch ip := frame[h.L3:]; h.Type {
	case EtherTypeIPv4:
		a, b = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	case EtherTypeIPv6:
		a, b = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	default:
		return source, destination, 0, false
	}
	ports := frame[h.L4:]
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(ports)), netip.AddrPortFrom(b, binary.BigEndian.Uint16(ports[2:])), h.Proto, true
}
