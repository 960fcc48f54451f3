// Package meter counts what frames do, by biflow: packets and bytes each way,
// times, TCP's flags and handshake, fragments under the ports of their first. It
// allocates nothing per packet, keeps a table of bounded size, and never loses a
// count: what finds no room pushes out the flow that was quiet for longest, whose
// record comes early.
package meter

import (
	"encoding/binary"
	"errors"
	"time"

	"weft/packet"
)

// Config of a Meter.
type Config struct {
	// Flows is how many are in the table at most; 65,536 unless given.
	Flows int
	// Idle ends a flow that was quiet for so long, Active reports one that goes on;
	// 0: never. Closed ends one of TCP that has said so, some time after; 0: never.
	Idle, Active, Closed time.Duration
	// Unwrap meters what a tunnel carries, instead of the tunnel: GRE, ERSPAN, VXLAN,
	// GENEVE, IP in IP.
	Unwrap bool
	// Record takes each record. The flow is the meter's: it is good until Record returns.
	Record func(*Flow)
}

// Counters is what a meter did.
type Counters struct {
	Frames uint64
	// Other had no IP header, or none that was whole.
	Other uint64
	// Cut lacked bytes of a transport header: their flow has no ports.
	Cut uint64
	// Orphans are fragments whose first was not seen before: their flow has no ports.
	Orphans uint64
	Flows   uint64 // that began
	Full    uint64 // that ended for want of room
}

// Meter is used by one goroutine.
type Meter struct {
	cfg       Config
	counters  Counters
	table     table
	fragments fragments
	expired   time.Time // when Expire was called last
}

// New makes a Meter. Its memory grows with its flows, up to what Config says.
func New(cfg Config) (*Meter, error) {
	if cfg.Record == nil {
		return nil, errors.New("a meter needs somebody to take records")
	}
	if cfg.Flows == 0 {
		cfg.Flows = 65_536
	}
	if cfg.Flows < 1 || cfg.Flows > 1<<24 {
		return nil, errors.New("a meter has 1 to 16777216 flows")
	}
	m := &Meter{cfg: cfg}
	m.table.init(cfg.Flows)
	m.fragments.init()
	return m, nil
}

// Counters returns what the meter did so far.
func (m *Meter) Counters() Counters { return m.counters }

// Len is how many flows are in the table.
func (m *Meter) Len() int { return len(m.table.places) }

// Seen is what Add found. Its flow is the meter's, and good until the next Add.
type Seen struct {
	Flow *Flow // nil: no IP
	// FromClient says who sent it.
	FromClient bool
	// Payload is what comes next of what the sender said: of a datagram all, of TCP
	// nothing of what was said before, and nothing behind a gap.
	Payload []byte
}

// maxNested is how many tunnels may be in one another.
const maxNested = 4

// Add counts a frame that had so many bytes on the wire, which may be more than
// are here. Times should not go back; what is older counts, and ages nothing.
func (m *Meter) Add(when time.Time, frame []byte, wire int, link packet.Link) Seen {
	m.counters.Frames++
	h, ok := packet.Parse(frame, link)
	// What goes around an inner packet is not its own, but is what its frame took.
	length := max(wire, len(frame))
	for n := 0; m.cfg.Unwrap && ok && n < maxNested; n++ {
		inner, link, is := packet.Unwrap(frame, h)
		if !is {
			break
		}
		ih, whole := packet.Parse(inner, link)
		if !whole {
			break
		}
		frame, h = inner, ih
	}
	var p part
	if !ok || !p.read(frame, h, wire) {
		m.counters.Other++
		return Seen{}
	}
	m.age(when)
	return m.count(when, &p, uint64(length))
}

// part is what the meter reads of a frame.
type part struct {
	from, to         [16]byte
	fromPort, toPort uint16
	protocol         uint8
	version          uint8
	bytes            uint64
	later            bool // a fragment but the first
	fragment         bool
	id               uint32
	cut              bool
	icmp             uint16
	flags            uint8
	seq, ack         uint32
	length           uint32 // of what TCP carries
	payload          []byte
}

// read fails where there is no whole IP header.
func (p *part) read(frame []byte, h packet.Headers, wire int) bool {
	ip := frame[min(h.L3, len(frame)):]
	switch {
	case h.Type == packet.EtherTypeIPv4 && len(ip) >= 20 && ip[0]>>4 == 4 && ip[0]&15 >= 5:
		p.version = 4
		p.from[10], p.from[11], p.to[10], p.to[11] = 0xff, 0xff, 0xff, 0xff
		copy(p.from[12:], ip[12:16])
		copy(p.to[12:], ip[16:20])
	case h.Type == packet.EtherTypeIPv6 && len(ip) >= 40 && ip[0]>>4 == 6:
		p.version = 6
		copy(p.from[:], ip[8:24])
		copy(p.to[:], ip[24:40])
	default:
		return false
	}
	p.protocol, p.fragment, p.id, p.later = h.Proto, h.Fragment, h.ID, h.Offset != 0
	// A length of 0 is a jumbogram's, or a super-frame's that the card would cut.
	left := max(wire, len(frame)) - h.L3
	p.bytes = uint64(h.IPLen)
	if h.IPLen == 0 || h.IPLen > left {
		p.bytes = uint64(max(left, 0))
	}
	if p.later {
		return true
	}
	end := min(len(frame), h.L3+int(p.bytes))
	if h.L4 == 0 || h.L4 > end {
		p.cut = hasPorts(p.protocol) || p.protocol == 0
		return true
	}
	l4 := frame[h.L4:end]
	switch p.protocol {
	case packet.ProtoICMP, packet.ProtoICMPv6:
		if len(l4) >= 2 {
			p.icmp = binary.BigEndian.Uint16(l4)
		}
		if len(l4) >= 6 && echo(p.protocol, l4[0]) {
			p.fromPort = binary.BigEndian.Uint16(l4[4:])
			p.toPort = p.fromPort
		}
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP:
		if len(l4) < 4 {
			p.cut = true
			return true
		}
		p.fromPort, p.toPort = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
		if h.Payload == 0 || h.Payload > end {
			return true
		}
		p.payload = frame[h.Payload:end]
		if p.protocol == packet.ProtoTCP {
			p.seq, p.ack, p.flags = binary.BigEndian.Uint32(l4[4:]), binary.BigEndian.Uint32(l4[8:]), l4[13]
			p.length = uint32(int(p.bytes) - (h.Payload - h.L3))
		}
	}
	return true
}

func hasPorts(protocol uint8) bool {
	return protocol == packet.ProtoTCP || protocol == packet.ProtoUDP || protocol == packet.ProtoSCTP
}

// echo says whether an ICMP type has an identifier.
func echo(protocol, kind uint8) bool {
	if protocol == packet.ProtoICMP {
		return kind == 0 || kind == 8 || kind >= 13 && kind <= 18
	}
	return kind == 128 || kind == 129
}

// count finds the packet's flow, or begins one.
func (m *Meter) count(when time.Time, p *part, wire uint64) Seen {
	if p.fragment {
		if p.later {
			var known bool
			if p.fromPort, p.toPort, known = m.fragments.find(p); !known && (hasPorts(p.protocol) || p.protocol == packet.ProtoICMP) {
				m.counters.Orphans++
			}
		} else {
			m.fragments.note(p)
		}
	}
	if p.cut {
		m.counters.Cut++
	}
	k, swapped := keyOf(p.from, p.to, p.fromPort, p.toPort, p.protocol, p.version)
	f := m.table.find(k)
	if f != nil && p.protocol == packet.ProtoTCP && f.tcp.another(p, swapped) {
		m.end(f, Over)
		f = nil
	}
	if f == nil {
		f = m.begin(when, k, p, swapped)
	} else {
		m.due(when, f)
	}
	fromClient := swapped == f.swapped
	side := &f.Sent
	if !fromClient {
		side = &f.Received
	}
	side.add(&Side{Packets: 1, Bytes: p.bytes, Wire: wire, Flags: p.flags})
	if p.later {
		side.Later++
		side.LaterWire += wire
	}
	if when.After(f.Last) {
		f.Last = when
	}
	if when.Before(f.First) {
		f.First = when
	}
	m.table.touch(f)
	out := Seen{Flow: f, FromClient: fromClient, Payload: p.payload}
	if p.protocol == packet.ProtoTCP && !p.later {
		out.Payload = f.tcp.segment(f, side, when, p, swapped)
		if f.tcp.closed() && !f.tcp.over {
			m.table.close(f)
		}
	}
	return out
}

// begin makes a flow of its first packet.
func (m *Meter) begin(when time.Time, k key, p *part, swapped bool) *Flow {
	f := m.table.take()
	if f == nil {
		m.counters.Full++
		m.end(m.table.oldest(), Full)
		f = m.table.take()
	}
	m.counters.Flows++
	*f = Flow{Protocol: p.protocol, ICMP: p.icmp, First: when, Last: when, New: true, key: k, part: when, id: f.id, before: f.before, after: f.after}
	answers := p.fromPort < 1024 && p.toPort >= 1024
	switch {
	case p.protocol == packet.ProtoICMP:
		answers = p.icmp>>8 == 0
	case p.protocol == packet.ProtoICMPv6:
		answers = p.icmp>>8 == 129
	case p.flags&packet.TCPSyn != 0:
		answers = p.flags&packet.TCPAck != 0
	}
	f.swapped = swapped != answers
	f.Client, f.Server = k.ends()
	if f.swapped {
		f.Client, f.Server = f.Server, f.Client
	}
	m.table.put(f)
	return f
}

func (m *Meter) end(f *Flow, why End) {
	f.End = why
	m.cfg.Record(f)
	m.table.remove(f)
}

// age ends what was quiet for too long. The list is in the order in which packets
// came, so that only what ends is looked at.
func (m *Meter) age(now time.Time) {
	for f := m.table.at(m.table.open.head); f != nil && m.cfg.Idle > 0 && now.Sub(f.Last) >= m.cfg.Idle; f = m.table.at(m.table.open.head) {
		m.end(f, Idle)
	}
	for f := m.table.at(m.table.closed.head); f != nil && m.cfg.Closed > 0 && now.Sub(f.Last) >= m.cfg.Closed; f = m.table.at(m.table.closed.head) {
		m.end(f, Over)
	}
}

// Expire ends what was quiet for too long at a time, and reports what is due;
// for times at which no packet comes.
func (m *Meter) Expire(now time.Time) {
	m.age(now)
	// What had its last packet before that was due at the last time already.
	before := m.expired.Add(-m.cfg.Active)
	for f := m.table.at(m.table.open.tail); f != nil && m.cfg.Active > 0 && !f.Last.Before(before); f = m.table.at(f.before) {
		m.due(now, f)
	}
	m.expired = now
}

// due reports a flow that goes on, where it is time to.
func (m *Meter) due(now time.Time, f *Flow) {
	if m.cfg.Active == 0 || now.Sub(f.part) < m.cfg.Active || f.Sent.Packets+f.Received.Packets == 0 {
		return
	}
	f.End = Active
	m.cfg.Record(f)
	f.New, f.part = false, now
	f.Sent, f.Received = Side{Flags: f.Sent.Flags}, Side{Flags: f.Received.Flags}
}

// Flush ends all flows, those that were quiet for longest first.
func (m *Meter) Flush() {
	for f := m.table.oldest(); f != nil; f = m.table.oldest() {
		why := Forced
		if f.tcp.over {
			why = Over
		}
		m.end(f, why)
	}
}
