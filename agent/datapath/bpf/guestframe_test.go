package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"weft/agent/datapath"
	"weft/agent/datapath/datapathtest"
	"weft/internal/tchook"
	"weft/model"
	"weft/policy"
)

// tap is a guest that the test plays itself, frame by frame.
type tap struct {
	file   *os.File
	mac    net.HardwareAddr
	v4, v6 netip.Addr
}

// newTap makes a tap on the bridge of a site's machine, and its endpoint.
func newTap(t *testing.T, s *datapathtest.Site, name, app string, number byte) *tap {
	t.Helper()
	x := &tap{mac: net.HardwareAddr{2, 0, 0, 0, 0, number}, v4: netip.AddrFrom4([4]byte{10, 78, 0, number}), v6: netip.MustParseAddr(fmt.Sprintf("fd78::%x", number))}
	err := inNamespace(s.Machine, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		ifr, err := unix.NewIfreq("v" + name)
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			return err
		}
		x.file = os.NewFile(uintptr(fd), name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.file.Close() })
	out, err := exec.Command("nsenter", "--net="+s.Machine, "ip", "link", "set", "v"+name, "up", "mtu", "9000", "master", "br0").CombinedOutput()
	if err != nil {
		t.Fatalf("%v %s", err, out)
	}
	s.Endpoints = append(s.Endpoints, &datapathtest.Endpoint{Name: name, Kind: model.WorkloadGuest, IPv4: x.v4, IPv6: x.v6,
		Labels: map[string]string{"app": app, "workload.kind": "guest"}, NetNS: name, Exe: name})
	return x
}

// send hands a frame to the machine; linear is how much of it the guest says to be
// headers, 0 for all.
func (x *tap) send(t *testing.T, frame []byte, linear int) {
	t.Helper()
	head := make([]byte, 10) // struct virtio_net_hdr
	binary.NativeEndian.PutUint16(head[2:], uint16(linear))
	if _, err := x.file.Write(append(head, frame...)); err != nil {
		t.Fatal(err)
	}
}

// receives says whether a frame with this mark comes within a time.
func (x *tap) receives(mark []byte) bool {
	x.file.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	buf := make([]byte, 65536)
	for {
		n, err := x.file.Read(buf)
		if err != nil {
			return false
		}
		if bytes.Contains(buf[:n], mark) {
			return true
		}
	}
}

func serialize(t *testing.T, list ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, list...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Each kind of frame that a guest can send either is judged or is not let through.
func TestGuestFrames(t *testing.T) {
	pins := mountBPF(t)
	s := datapathtest.NewSite(t)
	a, b := newTap(t, s, "t1", "web", 31), newTap(t, s, "t2", "db", 32)
	d, err := Open(Config{CgroupRoot: s.Root, PinDir: pins}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	driver := inMachine{d, s}
	defer driver.Remove()
	mode := model.ModeEnforce
	elsewhere, metadata := netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("169.254.169.254")
	apply := func(change func(*datapath.State), texts ...string) {
		t.Helper()
		w := s.World(mode, texts...)
		c2, _ := w.Identities.Intern(s.Endpoint("c2").Labels)
		w.State.Addresses = append(w.State.Addresses, datapath.Address{Prefix: netip.PrefixFrom(elsewhere, 32), Identity: c2},
			datapath.Address{Prefix: netip.PrefixFrom(metadata, 32), Entities: policy.EntityBit(model.EntityMetadata)})
		w.State.Sort()
		if change != nil {
			change(w.State)
		}
		if err := driver.Apply(t.Context(), w.State); err != nil {
			t.Fatal(err)
		}
	}
	ports := `
  subject: {selector: "app=web,workload.kind=guest"}
  egress: [{action: Allow, ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 80}]}]`
	in := `
  subject: {selector: "app=db,workload.kind=guest"}
  ingress: [{action: Allow, ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 80}]}]`
	anything := `
  subject: {selector: "workload.kind=guest"}
  egress: [{action: Allow}]
  ingress: [{action: Allow}]`

	marks := 0
	mark := func() gopacket.Payload {
		marks++
		return gopacket.Payload(fmt.Sprintf("mark%04d.", marks))
	}
	eth := func(from, to *tap, kind layers.EthernetType) *layers.Ethernet {
		return &layers.Ethernet{SrcMAC: from.mac, DstMAC: to.mac, EthernetType: kind}
	}
	ip4 := func(from, to netip.Addr, p layers.IPProtocol) *layers.IPv4 {
		return &layers.IPv4{Version: 4, TTL: 64, Id: 7, Protocol: p, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	}
	ip6 := func(from, to netip.Addr, p layers.IPProtocol) *layers.IPv6 {
		return &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: p, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	}
	udp := func(n gopacket.NetworkLayer, port uint16) *layers.UDP {
		u := &layers.UDP{SrcPort: 4000, DstPort: layers.UDPPort(port)}
		u.SetNetworkLayerForChecksum(n)
		return u
	}
	// check sends what make makes of a payload from one tap, and looks for it at the other.
	check := func(what string, from, to *tap, want bool, linear int, make func(m gopacket.Payload) []byte) {
		t.Helper()
		m := mark()
		from.send(t, make(m), linear)
		if got := to.receives(m); got != want {
			t.Errorf("%s: passes %v, want %v", what, got, want)
		}
	}
	datagram := func(from netip.Addr, port uint16) func(m gopacket.Payload) []byte {
		return func(m gopacket.Payload) []byte {
			n := ip4(from, b.v4, layers.IPProtocolUDP)
			return serialize(t, eth(a, b, layers.EthernetTypeIPv4), n, udp(n, port), m)
		}
	}
	apply(nil, ports, in)

	check("UDP to an allowed port", a, b, true, 0, datagram(a.v4, 53))
	check("UDP to another", a, b, false, 0, datagram(a.v4, 54))
	for _, port := range []uint16{53, 54} {
		check(fmt.Sprintf("VLAN-tagged to port %d", port), a, b, port == 53, 0, func(m gopacket.Payload) []byte {
			n := ip4(a.v4, b.v4, layers.IPProtocolUDP)
			return serialize(t, eth(a, b, layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 9, Type: layers.EthernetTypeIPv4}, n, udp(n, port), m)
		})
		check(fmt.Sprintf("hop-by-hop options, then UDP to port %d", port), a, b, port == 53, 0, func(m gopacket.Payload) []byte {
			n := ip6(a.v6, b.v6, layers.IPProtocolUDP)
			raw := serialize(t, n, udp(n, port), m)
			return append(serialize(t, eth(a, b, layers.EthernetTypeIPv6))[:14], insertOptions(raw, 1)...)
		})
		check(fmt.Sprintf("a large frame whose headers are apart, to port %d", port), a, b, port == 53, 14, func(m gopacket.Payload) []byte {
			n := ip4(a.v4, b.v4, layers.IPProtocolUDP)
			return serialize(t, eth(a, b, layers.EthernetTypeIPv4), n, udp(n, port), append(m, bytes.Repeat([]byte{7}, 6000)...))
		})
	}
	check("two VLAN tags", a, b, false, 0, func(m gopacket.Payload) []byte {
		n := ip4(a.v4, b.v4, layers.IPProtocolUDP)
		return serialize(t, eth(a, b, layers.EthernetTypeQinQ), &layers.Dot1Q{VLANIdentifier: 8, Type: layers.EthernetTypeDot1Q}, &layers.Dot1Q{VLANIdentifier: 9, Type: layers.EthernetTypeIPv4}, n, udp(n, 53), m)
	})
	check("a chain of headers that does not end", a, b, false, 0, func(m gopacket.Payload) []byte {
		n := ip6(a.v6, b.v6, layers.IPProtocolUDP)
		return append(serialize(t, eth(a, b, layers.EthernetTypeIPv6))[:14], insertOptions(serialize(t, n, udp(n, 53), m), 9)...)
	})
	check("another protocol than IP", a, b, false, 0, func(m gopacket.Payload) []byte {
		return serialize(t, eth(a, b, 0x88b5), append(m, make([]byte, 50)...))
	})
	fragment := func(offset uint16) func(m gopacket.Payload) []byte {
		return func(m gopacket.Payload) []byte {
			n := ip4(a.v4, b.v4, layers.IPProtocolUDP)
			n.FragOffset = offset
			if offset == 0 {
				n.Flags = layers.IPv4MoreFragments
			}
			return serialize(t, eth(a, b, layers.EthernetTypeIPv4), n, udp(n, 53), m, gopacket.Payload("1234567"))
		}
	}
	check("a first fragment", a, b, true, 0, fragment(0))
	check("a later fragment, where a port would decide", a, b, false, 0, fragment(64))

	for what, from := range map[string]netip.Addr{"another guest's": b.v4, "a container's": s.Endpoint("c2").IPv4, "the machine's": s.Endpoint("machine").IPv4, "nobody's": netip.MustParseAddr("10.78.0.99"),
		"a loopback": netip.MustParseAddr("127.0.0.1")} {
		check("from "+what+" address", a, b, false, 0, datagram(from, 53))
	}
	arp := func(sender, target netip.Addr) func(m gopacket.Payload) []byte {
		return func(m gopacket.Payload) []byte {
			return serialize(t, eth(a, b, layers.EthernetTypeARP), &layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: 1,
				SourceHwAddress: a.mac, SourceProtAddress: sender.AsSlice(), DstHwAddress: make([]byte, 6), DstProtAddress: target.AsSlice()}, m)
		}
	}
	none := netip.IPv4Unspecified()
	check("ARP for its own address", a, b, true, 0, arp(a.v4, b.v4))
	check("ARP for another's", a, b, false, 0, arp(b.v4, a.v4))
	check("an ARP probe for its own", a, b, true, 0, arp(none, a.v4))
	check("an ARP probe for another's", a, b, false, 0, arp(none, b.v4))
	discovery := func(from netip.Addr, hops, kind uint8, target netip.Addr) func(m gopacket.Payload) []byte {
		return func(m gopacket.Payload) []byte {
			n := ip6(from, b.v6, layers.IPProtocolICMPv6)
			n.HopLimit = hops
			c := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
			c.SetNetworkLayerForChecksum(n)
			return serialize(t, eth(a, b, layers.EthernetTypeIPv6), n, c, gopacket.Payload(append([]byte{0, 0, 0, 0}, target.AsSlice()...)), m)
		}
	}
	local := netip.MustParseAddr("fe80::31")
	check("a solicitation", a, b, true, 0, discovery(local, 255, 135, b.v6))
	check("an advertisement of its own address", a, b, true, 0, discovery(a.v6, 255, 136, a.v6))
	check("an advertisement of another's", a, b, false, 0, discovery(a.v6, 255, 136, b.v6))
	check("a probe for another's", a, b, false, 0, discovery(netip.IPv6Unspecified(), 255, 135, b.v6))
	check("an advertisement from beyond the link", a, b, false, 0, discovery(a.v6, 64, 136, a.v6))
	check("a router's advertisement", a, b, false, 0, discovery(local, 255, 134, b.v6))

	segment := func(from, to *tap, source, target uint16, set func(*layers.TCP)) func(m gopacket.Payload) []byte {
		return func(m gopacket.Payload) []byte {
			n := ip4(from.v4, to.v4, layers.IPProtocolTCP)
			c := &layers.TCP{SrcPort: layers.TCPPort(source), DstPort: layers.TCPPort(target), Seq: 1, Window: 1000}
			set(c)
			c.SetNetworkLayerForChecksum(n)
			return serialize(t, eth(from, to, layers.EthernetTypeIPv4), n, c, m)
		}
	}
	syn, ack := func(c *layers.TCP) { c.SYN = true }, func(c *layers.TCP) { c.ACK = true }
	check("a call", a, b, true, 0, segment(a, b, 5000, 80, syn))
	check("its answer", b, a, true, 0, segment(b, a, 80, 5000, func(c *layers.TCP) { c.SYN, c.ACK = true, true }))
	check("a call the other way on the same ports", b, a, false, 0, segment(b, a, 80, 5000, syn))
	check("it goes on", a, b, true, 0, segment(a, b, 5000, 80, ack))
	check("the middle of what nobody has tracked", b, a, true, 0, segment(b, a, 80, 5001, ack))
	check("which is no way to call", b, a, false, 0, segment(b, a, 80, 5001, syn))
	check("the middle of what could not have begun", b, a, false, 0, segment(b, a, 81, 5001, ack))
	trouble := func(port uint16) func(m gopacket.Payload) []byte {
		return func(m gopacket.Payload) []byte {
			about := segment(a, b, 5000, port, ack)(m)[14:]
			return serialize(t, eth(b, a, layers.EthernetTypeIPv4), ip4(b.v4, a.v4, layers.IPProtocolICMPv4), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4)}, gopacket.Payload(about))
		}
	}
	check("an ICMP error about a connection", b, a, true, 0, trouble(80))
	check("an ICMP error about none", b, a, false, 0, trouble(81))

	apply(nil, anything)
	check("a later fragment, where no port decides", a, b, true, 0, fragment(64))
	check("from another's address, whatever rules say", a, b, false, 0, datagram(s.Endpoint("c2").IPv4, 53))
	apply(func(s *datapath.State) {
		for i := range s.Subjects {
			s.Subjects[i].Forwards = s.Subjects[i].Workload == "t1"
		}
	}, ports, in)
	check("a router sends on what others have sent", a, b, true, 0, datagram(s.Endpoint("outside").IPv4, 53))
	check("by its own rules", a, b, false, 0, datagram(s.Endpoint("outside").IPv4, 54))
	check("a router's advertisement, by a router", a, b, true, 0, discovery(local, 255, 134, b.v6))
	unstated := func(s *datapath.State) {
		for i := range s.Subjects {
			if s.Subjects[i].Kind == model.WorkloadGuest {
				s.Subjects[i].Addresses = nil
			}
		}
	}
	apply(unstated, anything)
	check("from nobody's address, where none are stated", a, b, true, 0, datagram(netip.MustParseAddr("10.78.0.99"), 53))
	check("from a container's, where none are stated", a, b, false, 0, datagram(s.Endpoint("c2").IPv4, 53))
	check("from the machine's, where none are stated", a, b, false, 0, datagram(s.Endpoint("machine").IPv4, 53))

	check("from that of a workload elsewhere", a, b, false, 0, datagram(elsewhere, 53))
	check("from the metadata service's", a, b, false, 0, datagram(metadata, 53))
	check("from one that is the link's", a, b, true, 0, datagram(netip.MustParseAddr("169.254.7.7"), 53))
	apply(func(s *datapath.State) {
		unstated(s)
		for i := range s.Subjects {
			s.Subjects[i].Agent = s.Subjects[i].Workload == "t1"
		}
	}, anything)
	check("with an agent of its own, from an address in the fleet", a, b, true, 0, datagram(elsewhere, 53))
	check("from a container's here, all the same", a, b, false, 0, datagram(s.Endpoint("c2").IPv4, 53))
	mode = model.ModeObserve
	apply(nil, `
  subject: {selector: "app=db,workload.kind=guest"}
  ingress: [{action: Deny, ports: [{protocol: UDP, port: 54}]}]`)
	check("observed: from another's address", a, b, true, 0, datagram(s.Endpoint("c2").IPv4, 53))
	check("observed: what a rule denies", a, b, false, 0, datagram(a.v4, 54))
	check("observed: a router's advertisement", a, b, true, 0, discovery(local, 255, 134, b.v6))
	check("observed: another protocol than IP", a, b, true, 0, func(m gopacket.Payload) []byte {
		return serialize(t, eth(a, b, 0x88b5), append(m, make([]byte, 50)...))
	})

	mode = model.ModeObserve
	before, err := d.Troubles()
	if err != nil {
		t.Fatal(err)
	}
	apply(func(s *datapath.State) {
		for i := range s.Subjects {
			if s.Subjects[i].Kind == model.WorkloadGuest {
				s.Subjects[i].Identity = 0
			}
		}
	}, "  subject: {selector: \"app=nobody\"}\n  ingress: []")
	check("metered: from another's address", a, b, true, 0, datagram(s.Endpoint("c2").IPv4, 53))
	check("metered: two VLAN tags", a, b, true, 0, func(m gopacket.Payload) []byte {
		n := ip4(a.v4, b.v4, layers.IPProtocolUDP)
		return serialize(t, eth(a, b, layers.EthernetTypeQinQ), &layers.Dot1Q{VLANIdentifier: 8, Type: layers.EthernetTypeDot1Q}, &layers.Dot1Q{VLANIdentifier: 9, Type: layers.EthernetTypeIPv4}, n, udp(n, 53), m)
	})
	troubles, err := d.Troubles()
	if err != nil {
		t.Fatal(err)
	}
	said := fmt.Sprint(troubles)
	for _, part := range []string{"not theirs", "neither IP nor ARP", "router advertisements", "do not parse", "fragments"} {
		if !strings.Contains(said, part) {
			t.Errorf("it does not say %q: %s", part, said)
		}
	}
	t.Log(said)
	if !maps.Equal(before, troubles) {
		t.Errorf("of guests that are only metered it says %v more than %v", troubles, before)
	}

	// A port that has gone is nobody's, and nothing to repair.
	a.file.Close()
	if found, err := driver.Verify(true); err != nil || len(found) > 0 {
		t.Errorf("a port is gone, and it finds %q, %v", found, err)
	}
	apply(nil, anything)
	want := 2
	if !tchook.TCX().Yes() { // filters of clsact go with their device, and are pinned nowhere
		want = 0
	}
	if left, err := filepath.Glob(d.pin("links/guest-*")); err != nil || len(left) != want {
		t.Errorf("links of one port that is left: %q, %v", left, err)
	}
}

// insertOptions puts headers of hop-by-hop options, or of destination options after
// the first, behind an IPv6 header.
func insertOptions(raw []byte, n int) []byte {
	next := raw[6]
	out := append([]byte{}, raw[:40]...)
	for i := range n {
		kind := byte(60)
		if i == n-1 {
			kind = next
		}
		out = append(out, kind, 0, 1, 4, 0, 0, 0, 0)
	}
	if out[6] = 60; n > 0 {
		out[6] = 0
	}
	binary.BigEndian.PutUint16(out[4:], uint16(len(raw)-40+8*n))
	return append(out, raw[40:]...)
}
