package meter

import (
	"time"

	"weft/packet"
)

// tcp is what the meter knows of a connection. Sides are those of the key: 0 is
// the first.
type tcp struct {
	side   [2]stream
	syn    time.Time // of the SYN that was answered last
	answer bool      // by a SYN and ACK
	over   bool      // it is in the list of those
	reset  bool
}

// stream is what one side has sent.
type stream struct {
	known bool   // base and the rest are set
	base  uint32 // of the SYN, or one before what was seen first
	next  uint32 // what comes after the furthest byte seen
	heard uint32 // what comes after the bytes that were handed on in order
	fin   bool
}

func place(swapped bool) int {
	if swapped {
		return 1
	}
	return 0
}

// another says whether a segment begins another connection between the same
// ends: a SYN whose number is not that of the side's SYN before.
func (t *tcp) another(p *part, swapped bool) bool {
	if p.later || p.flags&(packet.TCPSyn|packet.TCPAck) != packet.TCPSyn {
		return false
	}
	s := &t.side[place(swapped)]
	return s.known && s.base != p.seq
}

func (t *tcp) closed() bool { return t.reset || t.side[0].fin && t.side[1].fin }

// segment takes note of a segment, and returns what is new and in order of what
// it carries.
func (t *tcp) segment(f *Flow, side *Side, when time.Time, p *part, swapped bool) []byte {
	s, other := &t.side[place(swapped)], &t.side[place(!swapped)]
	syn := p.flags&packet.TCPSyn != 0
	if p.flags == 0 && p.payload == nil {
		return nil // cut off before them
	}
	first := p.seq
	if syn {
		first++
	}
	if !s.known {
		*s = stream{known: true, base: first - 1, next: first, heard: first}
	}
	t.handshake(f, when, p, other)
	end := first + p.length
	if p.length > 0 && int32(s.next-end) >= 0 && !keepalive(s, first, p.length) {
		side.Retransmits++
	}
	if int32(end-s.next) > 0 {
		s.next = end
	}
	s.fin = s.fin || p.flags&packet.TCPFin != 0
	t.reset = t.reset || p.flags&packet.TCPRst != 0

	said := int32(s.heard - first) // of it, before
	if said < 0 || int(said) >= len(p.payload) {
		return nil
	}
	fresh := p.payload[said:]
	s.heard += uint32(len(fresh))
	return fresh
}

// keepalive says whether a segment repeats the last byte only to be answered.
func keepalive(s *stream, first, length uint32) bool { return length == 1 && first+1 == s.next }

// handshake times the SYN and the ACK that answers its answer.
func (t *tcp) handshake(f *Flow, when time.Time, p *part, other *stream) {
	switch p.flags & (packet.TCPSyn | packet.TCPAck | packet.TCPRst) {
	case packet.TCPSyn:
		t.syn, t.answer = when, false
	case packet.TCPSyn | packet.TCPAck:
		t.answer = !t.syn.IsZero()
	case packet.TCPAck:
		if t.answer && p.ack == other.base+1 && f.Handshake == 0 {
			f.Handshake = max(when.Sub(t.syn), 0)
		}
		t.answer = false
	}
}
