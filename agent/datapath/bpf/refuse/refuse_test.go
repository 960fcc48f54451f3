package refuse

import (
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

func build(t testing.TB, list ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, list...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func ip4(p layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: p, SrcIP: []byte{192, 0, 2, 1}, DstIP: []byte{192, 0, 2, 2}}
}

func ip6(p layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: p, SrcIP: []byte{0x20, 1, 0xd, 0xb8, 15: 1}, DstIP: []byte{0x20, 1, 0xd, 0xb8, 15: 2}}
}

func segment(n gopacket.NetworkLayer, set func(*layers.TCP)) *layers.TCP {
	s := &layers.TCP{SrcPort: 40000, DstPort: 80, Seq: 1000}
	set(s)
	s.SetNetworkLayerForChecksum(n)
	return s
}

// right checks an answer with a second implementation of everything.
func right(t *testing.T, raw []byte) gopacket.Packet {
	t.Helper()
	first := gopacket.Decoder(layers.LayerTypeIPv4)
	if raw[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	p := gopacket.NewPacket(raw, first, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatal(e.Error())
	}
	for _, l := range p.Layers() {
		if c, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			c.SetNetworkLayerForChecksum(p.NetworkLayer())
		}
	}
	if err, bad := p.VerifyChecksums(); err != nil || len(bad) > 0 {
		t.Fatalf("checksums: %v %v", err, bad)
	}
	return p
}

func TestResetAnswersASyn(t *testing.T) {
	n4, n6 := ip4(layers.IPProtocolTCP), ip6(layers.IPProtocolTCP)
	syn := func(s *layers.TCP) { s.SYN = true }
	for _, raw := range [][]byte{build(t, n4, segment(n4, syn)), build(t, n6, segment(n6, syn))} {
		out, to, ok := Answer(raw, len(raw))
		if !ok {
			t.Fatal("no answer")
		}
		p := right(t, out)
		tcp := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !tcp.RST || !tcp.ACK || tcp.Ack != 1001 || tcp.Seq != 0 || tcp.SrcPort != 80 || tcp.DstPort != 40000 {
			t.Errorf("got %+v", tcp)
		}
		if dst := p.NetworkLayer().NetworkFlow().Dst().String(); dst != to.String() {
			t.Errorf("to %s, the header says %s", to, dst)
		}
	}
}

func TestResetInTheMiddle(t *testing.T) {
	n := ip4(layers.IPProtocolTCP)
	raw := build(t, n, segment(n, func(s *layers.TCP) { s.ACK, s.Ack = true, 777 }), gopacket.Payload("hello"))
	out, _, ok := Answer(raw, len(raw))
	if !ok {
		t.Fatal("no answer")
	}
	if tcp := right(t, out).Layer(layers.LayerTypeTCP).(*layers.TCP); !tcp.RST || tcp.ACK || tcp.Seq != 777 {
		t.Errorf("got %+v", tcp)
	}
}

func TestMessageAnswersADatagram(t *testing.T) {
	n4, n6 := ip4(layers.IPProtocolUDP), ip6(layers.IPProtocolUDP)
	u4, u6 := &layers.UDP{SrcPort: 1, DstPort: 53}, &layers.UDP{SrcPort: 1, DstPort: 53}
	u4.SetNetworkLayerForChecksum(n4)
	u6.SetNetworkLayerForChecksum(n6)
	out, _, ok := Answer(build(t, n4, u4), 28)
	if !ok {
		t.Fatal("no answer")
	}
	if m := right(t, out).Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); m.TypeCode != layers.CreateICMPv4TypeCode(3, 13) {
		t.Errorf("got %s", m.TypeCode)
	}
	out, _, ok = Answer(build(t, n6, u6), 48)
	if !ok {
		t.Fatal("no answer")
	}
	if m := right(t, out).Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); m.TypeCode != layers.CreateICMPv6TypeCode(1, 1) {
		t.Errorf("got %s", m.TypeCode)
	}
}

// A reset, an ICMP error and a fragment are answered by nothing: two machines
// would answer one another for ever.
func TestSilence(t *testing.T) {
	n := ip4(layers.IPProtocolTCP)
	fragment := ip4(layers.IPProtocolUDP)
	fragment.FragOffset = 100
	for name, raw := range map[string][]byte{
		"reset":    build(t, n, segment(n, func(s *layers.TCP) { s.RST = true })),
		"error":    build(t, ip4(layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 13)}),
		"fragment": build(t, fragment, gopacket.Payload("12345678")),
		"empty":    nil,
	} {
		if out, _, ok := Answer(raw, len(raw)); ok {
			t.Errorf("%s: answered by % x", name, out)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	n := ip6(layers.IPProtocolTCP)
	f.Add(build(f, n, segment(n, func(s *layers.TCP) { s.SYN = true })), 60)
	f.Add([]byte{0x4f}, 1)
	f.Fuzz(func(t *testing.T, raw []byte, length int) {
		out, to, ok := Answer(raw, length)
		if ok && (!to.IsValid() || len(out) < ip4Len+icmpLen) {
			t.Errorf("% x to %s", out, to)
		}
		if ok {
			if _, _, again := Answer(out, len(out)); again {
				t.Errorf("the answer % x is answered", out)
			}
		}
	})
}
