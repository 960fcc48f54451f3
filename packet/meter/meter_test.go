package meter

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weft/packet"
)

var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }

// segment is a TCP segment in IPv4 or IPv6, without a link header.
func segment(from, to string, flags uint8, seq, ack uint32, payload string) []byte {
	f, t := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	l4 := make([]byte, 20, 20+len(payload))
	binary.BigEndian.PutUint16(l4, f.Port())
	binary.BigEndian.PutUint16(l4[2:], t.Port())
	binary.BigEndian.PutUint32(l4[4:], seq)
	binary.BigEndian.PutUint32(l4[8:], ack)
	l4[12], l4[13] = 5<<4, flags
	return network(f.Addr(), t.Addr(), packet.ProtoTCP, append(l4, payload...))
}

func datagramOf(from, to string, payload string) []byte {
	f, t := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	l4 := binary.BigEndian.AppendUint16(nil, f.Port())
	l4 = binary.BigEndian.AppendUint16(l4, t.Port())
	l4 = append(binary.BigEndian.AppendUint16(l4, uint16(8+len(payload))), 0, 0)
	return network(f.Addr(), t.Addr(), packet.ProtoUDP, append(l4, payload...))
}

func network(from, to netip.Addr, protocol uint8, body []byte) []byte {
	var ip []byte
	if from.Is4() {
		ip = make([]byte, 12)
		ip[0], ip[8], ip[9] = 0x45, 64, protocol
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(body)))
	} else {
		ip = make([]byte, 8)
		ip[0], ip[6], ip[7] = 0x60, protocol, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(body)))
	}
	return append(append(append(ip, from.AsSlice()...), to.AsSlice()...), body...)
}

// fragmentsOf cuts an IPv4 packet in two.
func fragmentsOf(ip []byte, id uint16, at int) (first, second []byte) {
	first = append([]byte{}, ip[:20+at]...)
	second = append(append([]byte{}, ip[:20]...), ip[20+at:]...)
	for i, f := range [][]byte{first, second} {
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		binary.BigEndian.PutUint16(f[4:], id)
		binary.BigEndian.PutUint16(f[6:], []uint16{0x2000, uint16(at / 8)}[i])
	}
	return first, second
}

// script writes down records as they come.
type script struct {
	*Meter
	t   *testing.T
	out strings.Builder
}

func newScript(t *testing.T, cfg Config) *script {
	s := &script{t: t}
	cfg.Record = func(f *Flow) {
		side := func(x *Side) string {
			out := fmt.Sprintf("%d/%d", x.Packets, x.Bytes)
			if x.Later > 0 {
				out += fmt.Sprintf(" later %d", x.Later)
			}
			if x.Retransmits > 0 {
				out += fmt.Sprintf(" again %d", x.Retransmits)
			}
			return out
		}
		fmt.Fprintf(&s.out, "%s -> %s %d: %s, %s end %d", f.Client, f.Server, f.Protocol, side(&f.Sent), side(&f.Received), f.End)
		if f.New {
			s.out.WriteString(" new")
		}
		if f.Handshake > 0 {
			fmt.Fprintf(&s.out, " rtt %s", f.Handshake)
		}
		s.out.WriteByte('\n')
	}
	var err error
	if s.Meter, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *script) add(ms int, ip []byte) Seen { return s.Add(at(ms), ip, len(ip), packet.RawIP) }

func (s *script) want(text string) {
	s.t.Helper()
	s.Flush()
	if got := strings.TrimSpace(s.out.String()); got != strings.TrimSpace(text) {
		s.t.Errorf("records:\n%s\nwant:\n%s", got, text)
	}
}

const (
	fin = packet.TCPFin
	syn = packet.TCPSyn
	rst = packet.TCPRst
	ack = packet.TCPAck
)

func TestConnectionIsOneFlow(t *testing.T) {
	for _, ends := range [][2]string{{"10.0.0.1:40000", "10.0.0.2:80"}, {"[2001:db8::2]:40000", "[2001:db8::1]:80"}} {
		s := newScript(t, Config{})
		a, b := ends[0], ends[1]
		s.add(0, segment(a, b, syn, 100, 0, ""))
		s.add(10, segment(b, a, syn|ack, 500, 101, ""))
		s.add(25, segment(a, b, ack, 101, 501, ""))
		if got := s.add(26, segment(a, b, ack, 101, 501, "GET /")); string(got.Payload) != "GET /" || !got.FromClient {
			t.Errorf("%+v", got)
		}
		if got := s.add(27, segment(a, b, ack, 101, 501, "GET /")); got.Payload != nil {
			t.Errorf("said again: %q", got.Payload)
		}
		if got := s.add(28, segment(a, b, ack, 104, 501, " / HTTP")); string(got.Payload) != " HTTP" {
			t.Errorf("overlap: %q", got.Payload)
		}
		if got := s.add(29, segment(a, b, ack, 300, 501, "behind a gap")); got.Payload != nil {
			t.Errorf("behind a gap: %q", got.Payload)
		}
		s.add(30, segment(b, a, fin|ack, 501, 111, ""))
		s.add(31, segment(a, b, fin|ack, 312, 502, ""))
		s.add(32, segment(b, a, ack, 502, 313, ""))
		n := uint64(40)
		if strings.Contains(a, "db8") {
			n = 60
		}
		s.want(fmt.Sprintf("%s -> %s 6: 7/%d again 1, 3/%d end 3 new rtt 25ms", a, b, 7*n+5+5+7+12, 3*n))
	}
}

func TestAnotherSynIsAnotherFlow(t *testing.T) {
	s := newScript(t, Config{})
	a, b := "10.0.0.1:40000", "10.0.0.2:80"
	s.add(0, segment(a, b, syn, 100, 0, ""))
	s.add(1, segment(a, b, syn, 100, 0, "")) // the same, again
	s.add(2, segment(b, a, rst|ack, 0, 101, ""))
	s.add(3, segment(a, b, syn, 7000, 0, ""))
	s.want(a + " -> " + b + " 6: 2/80, 1/40 end 3 new\n" + a + " -> " + b + " 6: 1/40, 0/0 end 4 new")
}

func TestWhoseAnswerCameFirst(t *testing.T) {
	s := newScript(t, Config{})
	s.add(0, segment("10.0.0.2:8080", "10.0.0.1:40000", syn|ack, 1, 101, ""))
	s.add(1, datagramOf("10.0.0.2:53", "10.0.0.1:40000", "answer"))
	s.want("10.0.0.1:40000 -> 10.0.0.2:8080 6: 0/0, 1/40 end 4 new\n10.0.0.1:40000 -> 10.0.0.2:53 17: 0/0, 1/34 end 4 new")
}

func TestFragmentsGoWithTheirFirst(t *testing.T) {
	s := newScript(t, Config{})
	whole := datagramOf("10.0.0.1:5000", "10.0.0.2:53", strings.Repeat("x", 100))
	first, second := fragmentsOf(whole, 7, 40)
	s.add(0, first)
	s.add(1, second)
	_, orphan := fragmentsOf(whole, 8, 40)
	s.add(2, orphan)
	s.want("10.0.0.1:5000 -> 10.0.0.2:53 17: 2/148 later 1, 0/0 end 4 new\n10.0.0.1:0 -> 10.0.0.2:0 17: 1/88 later 1, 0/0 end 4 new")
	if c := s.Counters(); c.Orphans != 1 {
		t.Errorf("%+v", c)
	}
}

func TestRecordsAddUp(t *testing.T) {
	s := newScript(t, Config{Idle: time.Second, Active: 10 * time.Second, Closed: 100 * time.Millisecond})
	a, b := "10.0.0.1:5000", "10.0.0.2:53"
	for ms := 0; ms <= 10_500; ms += 500 {
		s.add(ms, datagramOf(a, b, "x"))
	}
	s.add(11_499, datagramOf("10.0.0.3:1", "10.0.0.4:2", "x")) // too early for the end
	s.Expire(at(11_500))
	s.add(12_000, segment("10.0.0.5:5000", "10.0.0.6:80", rst, 1, 0, ""))
	s.Expire(at(12_100))
	s.want(`10.0.0.1:5000 -> 10.0.0.2:53 17: 20/580, 0/0 end 2 new
10.0.0.1:5000 -> 10.0.0.2:53 17: 2/58, 0/0 end 1
10.0.0.5:5000 -> 10.0.0.6:80 6: 1/40, 0/0 end 3 new
10.0.0.3:1 -> 10.0.0.4:2 17: 1/29, 0/0 end 4 new`)
}

// What is quiet but not over is reported when it is due, and once.
func TestQuietFlowIsReported(t *testing.T) {
	s := newScript(t, Config{Idle: time.Minute, Active: time.Second})
	s.add(0, datagramOf("10.0.0.1:5000", "10.0.0.2:53", "x"))
	for _, ms := range []int{500, 900, 1400, 2500, 9000} {
		s.Expire(at(ms))
	}
	s.want("10.0.0.1:5000 -> 10.0.0.2:53 17: 1/29, 0/0 end 2 new\n10.0.0.1:5000 -> 10.0.0.2:53 17: 0/0, 0/0 end 4")
}

// A flood ends quiet flows early, and no packet goes uncounted.
func TestFloodLosesNoCount(t *testing.T) {
	var packets, bytes, records uint64
	m, err := New(Config{Flows: 100, Record: func(f *Flow) {
		records++
		packets += f.Sent.Packets + f.Received.Packets
		bytes += f.Sent.Bytes + f.Received.Bytes
	}})
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var want uint64
	for i := range 20_000 {
		ip := datagramOf(fmt.Sprintf("10.0.%d.%d:5000", rng.IntN(8), rng.IntN(256)), "10.9.0.1:53", "x")
		want += uint64(len(ip))
		m.Add(at(i), ip, len(ip), packet.RawIP)
		if m.Len() > 100 {
			t.Fatalf("%d flows", m.Len())
		}
	}
	m.Flush()
	c := m.Counters()
	if packets != 20_000 || bytes != want || records != c.Flows || c.Full == 0 || m.Len() != 0 {
		t.Errorf("%d packets, %d of %d bytes, %d records, %+v", packets, bytes, want, records, c)
	}
}

func TestNothingIsAllocatedPerPacket(t *testing.T) {
	m, err := New(Config{Flows: 256, Idle: time.Second, Active: time.Minute, Closed: time.Second, Unwrap: true, Record: func(*Flow) {}})
	if err != nil {
		t.Fatal(err)
	}
	var frames [][]byte
	for i := range 1000 { // more flows than there is room for
		a, b := fmt.Sprintf("10.0.%d.%d:5000", i/256, i%256), "10.9.0.1:80"
		frames = append(frames, segment(a, b, syn, 1, 0, ""), segment(b, a, syn|ack, 1, 2, ""), segment(a, b, rst, 2, 0, "x"))
		first, second := fragmentsOf(datagramOf(a, b, strings.Repeat("x", 100)), uint16(i), 40)
		frames = append(frames, first, second)
	}
	n := 0
	all := func() {
		for _, f := range frames {
			n++
			m.Add(at(n), f, len(f), packet.RawIP)
		}
	}
	for range 8 {
		all() // maps have their shape when what was in them has been taken out and put in some times
	}
	if got := testing.AllocsPerRun(5, all); got > 5 { // of 5000: a map may still arrange itself anew
		t.Errorf("%v allocations for %d packets", got, len(frames))
	}
}

func TestTunnelsAreUnwrapped(t *testing.T) {
	inner := segment("10.0.0.1:40000", "10.0.0.2:80", syn, 1, 0, "")
	ether := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}, inner...)
	gre := func(head string, body []byte) []byte {
		return network(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), packet.ProtoGRE, append([]byte(head), body...))
	}
	for name, frame := range map[string][]byte{
		"vxlan":         datagramOf("192.0.2.1:5000", "192.0.2.2:4789", "\x08\x00\x00\x00\x00\x00\x07\x00"+string(ether)),
		"geneve":        datagramOf("192.0.2.1:5000", "192.0.2.2:6081", "\x01\x00\x65\x58\x00\x00\x07\x00opts"+string(ether)),
		"gre":           gre("\x00\x00\x08\x00", inner),
		"gre key":       gre("\x20\x00\x65\x58\x00\x00\x00\x01", ether),
		"erspan I":      gre("\x00\x00\x88\xbe", ether),
		"erspan II":     gre("\x10\x00\x88\xbe\x00\x00\x00\x01\x10\x00\x00\x00\x00\x00\x00\x00", ether),
		"erspan III":    gre("\x10\x00\x22\xeb\x00\x00\x00\x01\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", ether),
		"erspan III +8": gre("\x10\x00\x22\xeb\x00\x00\x00\x01\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0112345678", ether),
		"ip in ip":      network(netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), packet.ProtoIPv4, inner),
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t, Config{Unwrap: true})
			s.add(0, frame)
			s.want("10.0.0.1:40000 -> 10.0.0.2:80 6: 1/40, 0/0 end 4 new")
		})
	}
}

func TestLinks(t *testing.T) {
	ip := datagramOf("10.0.0.1:5000", "10.0.0.2:53", "x")
	ether := "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02"
	for name, c := range map[string]struct {
		head string
		link packet.Link
	}{
		"ethernet": {ether + "\x08\x00", packet.Ethernet},
		"vlan":     {ether + "\x81\x00\x00\x05\x08\x00", packet.Ethernet},
		"qinq":     {ether + "\x88\xa8\x00\x05\x81\x00\x00\x06\x08\x00", packet.Ethernet},
		"mpls":     {ether + "\x88\x47\x00\x01\x00\x40\x00\x01\x01\x40", packet.Ethernet},
		"pppoe":    {ether + "\x88\x64\x11\x00\x00\x01\x00\x21\x00\x21", packet.Ethernet},
		"snap":     {ether + "\x00\x2a\xaa\xaa\x03\x00\x00\x00\x08\x00", packet.Ethernet},
		"sll":      {"\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00\x00\x00\x08\x00", packet.LinuxSLL},
		"sll2":     {"\x08\x00\x00\x00\x00\x00\x00\x01\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00\x00\x00", packet.LinuxSLL2},
		"null":     {"\x02\x00\x00\x00", packet.Loopback},
		"loop":     {"\x00\x00\x00\x02", packet.Loopback},
		"ppp":      {"\xff\x03\x00\x21", packet.PPP},
		"ppp mpls": {"\x02\x81\x00\x01\x01\x40", packet.PPP},
		"hdlc":     {"\x0f\x00\x08\x00", packet.PPP},
		"raw":      {"", packet.RawIP},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript(t, Config{})
			frame := append([]byte(c.head), ip...)
			s.Add(begin, append(frame, "padding"...), len(frame)+7, c.link)
			s.want("10.0.0.1:5000 -> 10.0.0.2:53 17: 1/29, 0/0 end 4 new")
		})
	}
}

// FuzzAdd: whatever comes, each frame is counted once.
func FuzzAdd(f *testing.F) {
	f.Add(segment("10.0.0.1:40000", "10.0.0.2:80", syn, 1, 0, "x"), uint8(packet.RawIP), uint16(60))
	f.Add(datagramOf("192.0.2.1:5000", "192.0.2.2:4789", "\x08\x00\x00\x00\x00\x00\x07\x00"), uint8(packet.RawIP), uint16(60))
	first, second := fragmentsOf(datagramOf("10.0.0.1:5000", "10.0.0.2:53", strings.Repeat("x", 100)), 7, 40)
	f.Add(first, uint8(packet.RawIP), uint16(0))
	f.Add(second, uint8(packet.RawIP), uint16(0))
	f.Add([]byte("\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x88\x47\x00\x01\x01\x40\x45"), uint8(0), uint16(100))
	f.Fuzz(func(t *testing.T, frame []byte, link uint8, wire uint16) {
		var packets uint64
		m, err := New(Config{Flows: 4, Unwrap: true, Record: func(f *Flow) {
			packets += f.Sent.Packets + f.Received.Packets
			if f.Sent.Bytes+f.Received.Bytes > f.Sent.Wire+f.Received.Wire {
				t.Errorf("more in packets than in frames: %+v", f)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		for cut := range min(len(frame), 80) {
			m.Add(begin, frame[:len(frame)-cut], int(wire), packet.Link(link%6))
		}
		m.Flush()
		if c := m.Counters(); c.Frames != packets+c.Other {
			t.Errorf("%d packets in flows, %+v", packets, c)
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	m, err := New(Config{Record: func(*Flow) {}})
	if err != nil {
		b.Fatal(err)
	}
	var frames [][]byte
	for i := range 10_000 {
		frames = append(frames, segment(fmt.Sprintf("10.0.%d.%d:5000", i/256, i%256), "10.9.0.1:80", ack, 1, 0, "some bytes"))
	}
	i := 0
	for b.Loop() {
		m.Add(begin, frames[i%len(frames)], 60, packet.RawIP)
		i++
	}
}
