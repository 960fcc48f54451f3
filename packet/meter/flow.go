package meter

import (
	"bytes"
	"cmp"
	"net/netip"
	"time"
)

// Flow is what was seen of a conversation since its record before: a biflow
// (RFC 5103).
type Flow struct {
	// Client is who began it, as far as packets tell: who sent the SYN, else who was
	// asked at a well-known port, else who was seen first. For ICMP the ports are the
	// echo identifier.
	Client, Server netip.AddrPort
	Protocol       uint8
	ICMP           uint16    // type<<8|code of its first packet
	First, Last    time.Time // of all its packets, and of the last
	Sent, Received Side      // by the client, by the server
	// Handshake is from the SYN to the ACK of the answer, a round trip through the
	// place of the capture; 0: not seen.
	Handshake time.Duration
	// New is set in the first record of a flow, End in every one.
	New bool
	End End
	// State is the caller's, from record to record of a flow.
	State any

	key
	swapped bool // the client is the key's second end
	part    time.Time
	tcp     tcp
	id      int32
	// The list by time of the last packet.
	before, after int32
}

// Side is what one end of a flow sent.
type Side struct {
	Packets uint64
	Bytes   uint64 // of IP packets, headers included
	Wire    uint64 // bytes of frames, with all that was before and behind
	// Later and LaterWire are those of Packets and Wire that were fragments but the
	// first of a datagram: they have no ports, which are known by the first.
	Later, LaterWire uint64
	Flags            uint8 // of TCP, all that were seen
	// Retransmits counts segments of what was sent before. A segment that others
	// overtook looks the same.
	Retransmits uint32
}

func (s *Side) add(o *Side) {
	s.Packets += o.Packets
	s.Bytes += o.Bytes
	s.Wire += o.Wire
	s.Later += o.Later
	s.LaterWire += o.LaterWire
	s.Flags |= o.Flags
	s.Retransmits += o.Retransmits
}

// End is why a record ends, as flowEndReason of RFC 5102 says it.
type End uint8

// The reasons.
const (
	Idle   End = 1 + iota // nothing came for so long
	Active                // it goes on, and was due
	Over                  // FIN or RST, or another flow with its addresses and ports
	Forced                // the meter was stopped
	Full                  // the table was full, and this was quiet for longest
)

// Ended says whether the flow has ended, and is not only reported.
func (e End) Ended() bool { return e != Active }

// key is the addresses and ports of a flow, the lesser end first.
type key struct {
	a, b         [16]byte
	aPort, bPort uint16
	protocol     uint8
	version      uint8 // of IP
}

// keyOf orders two ends; swapped: from is the second.
func keyOf(from, to [16]byte, fromPort, toPort uint16, protocol, version uint8) (k key, swapped bool) {
	if c := cmp.Or(bytes.Compare(from[:], to[:]), cmp.Compare(fromPort, toPort)); c > 0 {
		return key{to, from, toPort, fromPort, protocol, version}, true
	}
	return key{from, to, fromPort, toPort, protocol, version}, false
}

// ends returns the key's ends.
func (k *key) ends() (a, b netip.AddrPort) {
	first, second := netip.AddrFrom16(k.a), netip.AddrFrom16(k.b)
	if k.version == 4 {
		first, second = first.Unmap(), second.Unmap()
	}
	return netip.AddrPortFrom(first, k.aPort), netip.AddrPortFrom(second, k.bPort)
}
