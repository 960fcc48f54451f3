package packet

import "encoding/binary"

// SuperFrame is a frame that a kernel handed around whole and that becomes
// several on the wire.
type SuperFrame struct {
	Frame  []byte // what was captured of it; it is not changed
	Length int    // of the whole
	Size   int    // payload of each segment
	Link   Link
}

// Segments is the number of frames it becomes; 0: it cannot be cut, because its
// headers are not all there or are neither TCP nor UDP over IP.
func (s SuperFrame) Segments(h Headers) int {
	if h.Payload == 0 || h.Fragment || s.Size <= 0 || s.Length <= h.Payload {
		return 0
	}
	return (s.Length - h.Payload + s.Size - 1) / s.Size
}

// Segment writes the i-th frame to dst and returns it, or nil if dst is too
// small. It cuts as the kernel does (net/ipv4/tcp_offload.c, udp_offload.c,
// af_inet.c): each gets the headers, its own lengths, identification, sequence number
// and checksums; FIN and PSH stay on the last, CWR on the first. Where less than the
// whole was captured, a frame holds its headers and what is there of its payload, its
// lengths say what the wire carried, and its checksum is left.
func (s SuperFrame) Segment(dst []byte, h Headers, i int) []byte {
	n := s.Segments(h)
	if i < 0 || i >= n {
		return nil
	}
	from := h.Payload + i*s.Size
	payload := min(s.Size, s.Length-from)
	var have []byte
	if from < len(s.Frame) {
		have = s.Frame[from:min(len(s.Frame), from+payload)]
	}
	if len(dst) < h.Payload+len(have) {
		return nil
	}
	dst = dst[:h.Payload+len(have)]
	copy(dst, s.Frame[:h.Payload])
	copy(dst[h.Payload:], have)
	transport := h.Payload - h.L4 + payload

	ip := dst[h.L3:]
	if h.Type == EtherTypeIPv4 {
		binary.BigEndian.PutUint16(ip[2:], uint16(h.L4-h.L3+transport))
		binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(i))
		setIPv4Checksum(ip[:h.L4-h.L3])
	} else {
		binary.BigEndian.PutUint16(ip[4:], uint16(h.L4-h.L3-ipv6Len+transport))
	}
	l4 := dst[h.L4:]
	at := h.L4 + 6
	absent := false
	if h.Proto == ProtoTCP {
		at = h.L4 + 16
		binary.BigEndian.PutUint32(l4[4:], binary.BigEndian.Uint32(l4[4:])+uint32(i*s.Size))
		if i > 0 {
			l4[13] &^= TCPCwr
		}
		if i < n-1 {
			l4[13] &^= TCPFin | TCPPsh
		}
	} else {
		absent = l4[6] == 0 && l4[7] == 0
		binary.BigEndian.PutUint16(l4[4:], uint16(transport))
	}
	if len(have) == payload && !absent {
		dst[at], dst[at+1] = 0, 0
		put(dst, at, h.Proto, Fold(Sum(pseudo(dst, h, transport), l4)))
	}
	return dst
}
