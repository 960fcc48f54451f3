package packet

import (
	"encoding/binary"
	"math/bits"
)

// Sum adds b to a ones'-complement sum (RFC 1071). b must begin at an even
// offset of what is summed.
func Sum(acc uint64, b []byte) uint64 {
	var carry uint64
	for len(b) >= 32 {
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b), 0)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b[8:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b[16:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b[24:]), carry)
		acc, carry = bits.Add64(acc, 0, carry)
		acc += carry
		b = b[32:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b), 0)
		acc += carry
		b = b[8:]
	}
	var tail uint64
	for i, v := range b {
		tail |= uint64(v) << (56 - 8*i)
	}
	acc, carry = bits.Add64(acc, tail, 0)
	return acc + carry
}

// Fold brings a sum down to 16 bits, not complemented.
func Fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return uint16(acc)
}

// pseudo sums the pseudo-header of TCP and UDP for a transport of n bytes.
func pseudo(frame []byte, h Headers, n int) uint64 {
	acc := uint64(h.Proto) + uint64(n)
	if h.Type == EtherTypeIPv4 {
		return Sum(acc, frame[h.L3+12:h.L3+20])
	}
	return Sum(acc, frame[h.L3+8:h.L3+40])
}

// checksumAt is the offset of the transport's checksum; false: it has none we
// know, or the header is not all there.
func checksumAt(frame []byte, h Headers) (int, bool) {
	if h.Payload == 0 {
		return 0, false
	}
	if h.Proto == ProtoTCP {
		return h.L4 + 16, true
	}
	return h.L4 + 6, true
}

// Checksum is the state of a transport checksum.
type Checksum uint8

// The states of a checksum.
const (
	Unknown Checksum = iota // no TCP or UDP, a fragment, or not all bytes are here
	Right
	Absent  // UDP over IPv4 without one
	Partial // only the pseudo-header's sum: left for the network card to complete
	Wrong
)

// CheckTransport says what the TCP or UDP checksum of a frame is.
func CheckTransport(frame []byte, h Headers) Checksum {
	state, _ := check(frame, h)
	return state
}

func check(frame []byte, h Headers) (state Checksum, at int) {
	at, ok := checksumAt(frame, h)
	if !ok || h.Fragment || h.IPLen == 0 || h.L3+h.IPLen > len(frame) || h.L3+h.IPLen < h.Payload {
		return Unknown, 0
	}
	segment := frame[h.L4 : h.L3+h.IPLen]
	field := binary.BigEndian.Uint16(frame[at:])
	if h.Proto == ProtoUDP {
		if field == 0 {
			return Absent, 0
		}
		if n := int(binary.BigEndian.Uint16(frame[h.L4+4:])); n != len(segment) {
			return Unknown, 0
		}
	}
	head := pseudo(frame, h, len(segment))
	switch {
	case Fold(Sum(head, segment)) == 0xffff:
		return Right, at
	case field == Fold(head):
		return Partial, at
	}
	return Wrong, at
}

// CompleteChecksum finishes the TCP or UDP checksum that a kernel has left to
// the network card (CHECKSUM_PARTIAL), in place, and returns what it was before. A
// right checksum stays, and so does a wrong one: it was wrong on the wire.
func CompleteChecksum(frame []byte, h Headers) Checksum {
	state, at := check(frame, h)
	if state == Partial {
		// The field holds the pseudo-header's sum already, so the sum over the
		// segment counts it in.
		put(frame, at, h.Proto, Fold(Sum(0, frame[h.L4:h.L3+h.IPLen])))
	}
	return state
}

// put stores the complement of a folded sum; UDP's zero is written as ones
// (RFC 768).
func put(frame []byte, at int, proto uint8, folded uint16) {
	v := ^folded
	if v == 0 && proto == ProtoUDP {
		v = 0xffff
	}
	binary.BigEndian.PutUint16(frame[at:], v)
}

// SetPartialChecksum stores the pseudo-header's sum for a transport of n bytes:
// what a kernel wants in a super-frame that it is to cut.
func SetPartialChecksum(frame []byte, h Headers, n int) bool {
	at, ok := checksumAt(frame, h)
	if ok {
		binary.BigEndian.PutUint16(frame[at:], Fold(pseudo(frame, h, n)))
	}
	return ok
}

// setIPv4Checksum computes the header checksum anew.
func setIPv4Checksum(header []byte) {
	header[10], header[11] = 0, 0
	binary.BigEndian.PutUint16(header[10:], ^Fold(Sum(0, header)))
}
