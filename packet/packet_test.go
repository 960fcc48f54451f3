package packet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// build makes an Ethernet frame: IPv4 or IPv6, TCP with options or UDP.
func build(v6 bool, proto uint8, payload []byte) []byte {
	l4 := make([]byte, 8)
	if proto == ProtoTCP {
		l4 = make([]byte, 32)
		binary.BigEndian.PutUint32(l4[4:], 0xfffffff0)
		l4[12], l4[13] = 8<<4, TCPFin|TCPPsh|TCPCwr|0x10
	}
	binary.BigEndian.PutUint16(l4, 1234)
	binary.BigEndian.PutUint16(l4[2:], 80)
	if proto == ProtoUDP {
		binary.BigEndian.PutUint16(l4[4:], uint16(8+len(payload)))
	}
	frame := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}, 8, 0)
	if v6 {
		frame[12], frame[13] = 0x86, 0xdd
		ip := make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(l4)+len(payload)))
		ip[23], ip[39] = 1, 2
		frame = append(frame, ip...)
	} else {
		ip := make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(l4)+len(payload)))
		binary.BigEndian.PutUint16(ip[4:], 0xfffe)
		copy(ip[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
		setIPv4Checksum(ip)
		frame = append(frame, ip...)
	}
	frame = append(frame, l4...)
	return append(frame, payload...)
}

func parse(t testing.TB, frame []byte) Headers {
	t.Helper()
	h, ok := Parse(frame, Ethernet)
	if !ok {
		t.Fatal("does not parse")
	}
	return h
}

// naive is RFC 1071 word by word.
func naive(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
		sum = sum>>16 + sum&0xffff
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum&0xffff)
}

func TestSumEqualsTheWordByWordSum(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for n := range 300 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
			if n%7 == 0 {
				b[i] = 0xff
			}
		}
		if got, want := Fold(Sum(0, b)), naive(b); got != want {
			t.Fatalf("%d bytes: %#x, want %#x", n, got, want)
		}
	}
}

func each(t *testing.T, f func(t *testing.T, v6 bool, proto uint8)) {
	for name, c := range map[string]struct {
		v6    bool
		proto uint8
	}{"tcp4": {false, ProtoTCP}, "tcp6": {true, ProtoTCP}, "udp4": {false, ProtoUDP}, "udp6": {true, ProtoUDP}} {
		t.Run(name, func(t *testing.T) { f(t, c.v6, c.proto) })
	}
}

func TestPartialChecksumsAreCompletedAndOthersLeft(t *testing.T) {
	each(t, func(t *testing.T, v6 bool, proto uint8) {
		frame := build(v6, proto, []byte("an odd number of bytes"[:21]))
		h := parse(t, frame)
		SetPartialChecksum(frame, h, len(frame)-h.L4)
		if got := CompleteChecksum(frame, h); got != Partial {
			t.Fatalf("state %d before", got)
		}
		if got := CheckTransport(frame, h); got != Right {
			t.Fatalf("state %d after", got)
		}
		right := bytes.Clone(frame)
		if CompleteChecksum(frame, h); !bytes.Equal(frame, right) {
			t.Error("a right checksum was changed")
		}
		frame[len(frame)-1] ^= 0x55
		broken := bytes.Clone(frame)
		if got := CompleteChecksum(frame, h); got != Wrong || !bytes.Equal(frame, broken) {
			t.Errorf("a broken checksum was changed, state %d", got)
		}
		if got := CheckTransport(frame[:len(frame)-1], h); got != Unknown {
			t.Errorf("cut frame: state %d", got)
		}
	})
}

func TestSegmentsAddUpToTheSuperFrame(t *testing.T) {
	payload := make([]byte, 10000)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	each(t, func(t *testing.T, v6 bool, proto uint8) {
		frame := build(v6, proto, payload)
		h := parse(t, frame)
		SetPartialChecksum(frame, h, len(frame)-h.L4)
		super := SuperFrame{Frame: frame, Length: len(frame), Size: 1448}
		n := super.Segments(h)
		if n != 7 {
			t.Fatalf("%d segments", n)
		}
		var got []byte
		dst := make([]byte, 2000)
		for i := range n {
			s := super.Segment(dst, h, i)
			sh := parse(t, s)
			if CheckTransport(s, sh) != Right {
				t.Errorf("segment %d: checksum", i)
			}
			if sh.L3+sh.IPLen != len(s) {
				t.Errorf("segment %d: length", i)
			}
			if !v6 {
				if Fold(Sum(0, s[sh.L3:sh.L4])) != 0xffff {
					t.Errorf("segment %d: header checksum", i)
				}
				if id := binary.BigEndian.Uint16(s[sh.L3+4:]); id != 0xfffe+uint16(i) {
					t.Errorf("segment %d: id %d", i, id)
				}
			}
			if proto == ProtoTCP {
				if seq := binary.BigEndian.Uint32(s[sh.L4+4:]); seq != 0xfffffff0+uint32(i*1448) {
					t.Errorf("segment %d: sequence", i)
				}
				want := byte(0x10)
				if i == 0 {
					want |= TCPCwr
				}
				if i == n-1 {
					want |= TCPFin | TCPPsh
				}
				if s[sh.L4+13] != want {
					t.Errorf("segment %d: flags %#x, want %#x", i, s[sh.L4+13], want)
				}
			}
			got = append(got, s[sh.Payload:]...)
		}
		if !bytes.Equal(got, payload) {
			t.Error("payload differs")
		}
	})
}

func TestSlicedSuperFrameKeepsLengths(t *testing.T) {
	whole := build(false, ProtoTCP, make([]byte, 5000))
	sliced := SuperFrame{Frame: whole[:1600], Length: len(whole), Size: 1448}
	full := SuperFrame{Frame: whole, Length: len(whole), Size: 1448}
	h := parse(t, sliced.Frame)
	a, b := make([]byte, 2000), make([]byte, 2000)
	for i, want := range []int{66 + 1448, 66 + 1600 - 66 - 1448, 66, 66} {
		s, f := sliced.Segment(a, h, i), full.Segment(b, h, i)
		if len(s) != want {
			t.Errorf("segment %d has %d bytes, want %d", i, len(s), want)
		}
		if !bytes.Equal(s[:h.L4+16], f[:h.L4+16]) {
			t.Errorf("segment %d: headers are not those of the wire", i)
		}
	}
}

func TestParse(t *testing.T) {
	tcp := build(false, ProtoTCP, []byte("x"))
	tagged := append(bytes.Clone(tcp[:12]), 0x88, 0xa8, 0, 5, 0x81, 0, 0, 7)
	tagged = append(tagged, tcp[12:]...)
	fragment := bytes.Clone(tcp)
	fragment[20], fragment[21] = 0, 9
	ext := build(true, 0, nil)[:54]
	ext = append(ext, 60, 0, 1, 4, 0, 0, 0, 0, ProtoUDP, 0, 1, 4, 0, 0, 0, 0, 0, 1, 0, 2, 0, 8, 0, 0)
	for name, c := range map[string]struct {
		frame []byte
		link  Link
		want  Headers
	}{
		"tcp":      {tcp, Ethernet, Headers{L3: 14, L4: 34, Payload: 66, Type: EtherTypeIPv4, Proto: ProtoTCP, IPLen: 53}},
		"tags":     {tagged, Ethernet, Headers{L3: 22, L4: 42, Payload: 74, Type: EtherTypeIPv4, Tags: 2, Proto: ProtoTCP, IPLen: 53}},
		"fragment": {fragment, Ethernet, Headers{L3: 14, Type: EtherTypeIPv4, Proto: ProtoTCP, IPLen: 53, Fragment: true, ID: 0xfffe, Offset: 72}},
		"raw":      {tcp[14:], RawIP, Headers{L4: 20, Payload: 52, Type: EtherTypeIPv4, Proto: ProtoTCP, IPLen: 53}},
		"options":  {ext, Ethernet, Headers{L3: 14, L4: 70, Payload: 78, Type: EtherTypeIPv6, Proto: ProtoUDP, IPLen: 48}},
		"cut":      {tcp[:40], Ethernet, Headers{L3: 14, L4: 34, Type: EtherTypeIPv4, Proto: ProtoTCP, IPLen: 53}},
		"arp":      {append(bytes.Clone(tcp[:12]), 8, 6, 0, 1), Ethernet, Headers{L3: 14, Type: EtherTypeARP}},
	} {
		got, ok := Parse(c.frame, c.link)
		if !ok || got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestNothingIsAllocated(t *testing.T) {
	frame := build(true, ProtoTCP, make([]byte, 9000))
	dst := make([]byte, 2000)
	if n := testing.AllocsPerRun(100, func() {
		h, _ := Parse(frame, Ethernet)
		SetPartialChecksum(frame, h, len(frame)-h.L4)
		CompleteChecksum(frame, h)
		s := SuperFrame{Frame: frame, Length: len(frame), Size: 1428}
		for i := range s.Segments(h) {
			s.Segment(dst, h, i)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzFrame: no bytes make anything panic or write beyond a frame, and what
// was completed is right.
func FuzzFrame(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		for _, proto := range []uint8{ProtoTCP, ProtoUDP, 0, 44, 51} {
			f.Add(build(v6, proto, []byte("hello")), uint16(3), uint16(200), false)
			f.Add(build(v6, proto, make([]byte, 300))[14:], uint16(100), uint16(400), true)
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte, size, length uint16, raw bool) {
		link := Ethernet
		if raw {
			link = RawIP
		}
		h, ok := Parse(frame, link)
		if !ok {
			return
		}
		if h.L3 > len(frame) || h.L4 > len(frame) || h.Payload > len(frame) {
			t.Fatalf("%+v beyond %d bytes", h, len(frame))
		}
		before := bytes.Clone(frame)
		if CompleteChecksum(frame, h) == Partial {
			if s := CheckTransport(frame, h); s != Right {
				t.Fatalf("completed, but state %d", s)
			}
		} else if !bytes.Equal(before, frame) {
			t.Fatal("changed what was not partial")
		}
		s := SuperFrame{Frame: frame, Length: max(int(length), len(frame)), Size: int(size), Link: link}
		dst := make([]byte, 2048)
		payload := 0
		n := s.Segments(h)
		for i := range min(n, 50) {
			if seg := s.Segment(dst, h, i); seg != nil {
				payload += len(seg) - h.Payload
			}
		}
		if n > 0 && payload > len(frame)-h.Payload {
			t.Fatal("more payload than there was")
		}
	})
}

func BenchmarkCompleteChecksum(b *testing.B) {
	frame := build(false, ProtoTCP, make([]byte, 1448))
	h, _ := Parse(frame, Ethernet)
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		SetPartialChecksum(frame, h, len(frame)-h.L4)
		CompleteChecksum(frame, h)
	}
}

// What the specification's own example and other programs say of these flows.
func TestCommunityID(t *testing.T) {
	for _, c := range []struct {
		seed     uint16
		protocol uint8
		from, to string
		want     string
	}{
		{0, ProtoTCP, "128.232.110.120:34855", "66.35.250.204:80", "1:LQU9qZlK+B5F3KDmev6m5PMibrg="},
		{0, ProtoUDP, "192.168.1.52:54585", "8.8.8.8:53", "1:d/FP5EW3wiY1vCndhwleRRKHowQ="},
		{0, ProtoTCP, "[2001:470:e5bf:dead:4957:2174:e82c:4887]:63943", "[2607:f8b0:400c:c03::1a]:25", "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4="},
		{0, ProtoICMP, "192.168.0.89:8", "192.168.0.1:0", "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="},
		{0, ProtoICMPv6, "[3ffe:501:410:0:2c0:dfff:fe47:33e]:1", "[3ffe:507:0:1:200:86ff:fe05:80da]:4", "1:hLZd0XGWojozrvxqE0dWB1iM6R0="},
		{0, ProtoICMPv6, "[3ffe:507:0:1:200:86ff:fe05:80da]:128", "[3ffe:501:0:1001::2]:0", "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg="},
		{0, 10, "1.2.3.4:0", "5.6.7.8:0", "1:7bYuQ7nyGBIQn7uDcQ5WraAnhWI="},
		{1, ProtoTCP, "1.2.3.4:1122", "5.6.7.8:3344", "1:HhA1B+6CoLbiKPEs5nhNYN4XWfk="},
		{1, ProtoICMP, "1.2.3.4:8", "5.6.7.8:0", "1:9pr4ZGTICiuZoIh90RRYE2RyXpU="},
	} {
		from, to := netip.MustParseAddrPort(c.from), netip.MustParseAddrPort(c.to)
		if got := CommunityID(c.seed, c.protocol, from, to); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
		if c.protocol == ProtoTCP || c.protocol == ProtoUDP {
			if got := CommunityID(c.seed, c.protocol, to, from); got != c.want {
				t.Errorf("%+v, the other way: %s", c, got)
			}
		}
	}
}
