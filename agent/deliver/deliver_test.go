package deliver

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/internal/tchook"
	"weft/internal/testreq"
	"weft/model"
	"weft/packet"
	"weft/wire/tapstream"
	"weft/wire/wirepb"
)

// alone moves the test's thread into a fresh network namespace. The goroutine
// stays locked, so the thread and the namespace end with the test.
func alone(t testing.TB) {
	t.Helper()
	testreq.Need(t, testreq.Root, testreq.NetNS)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

func newDeliver(t testing.TB) *Deliver {
	t.Helper()
	d, err := New(Config{}, Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

const sourceID = "spiffe://test/host/src/1"

func section(devices map[string]string) *wirepb.DeliverSection {
	s := &wirepb.DeliverSection{}
	for line, device := range devices {
		s.Lines = append(s.Lines, &wirepb.DeliverLine{Line: line, Device: device, Sources: []*wirepb.Peer{{Name: "src", SpiffeId: sourceID}}})
	}
	return s
}

func index(name string) int {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return 0
	}
	return l.Attrs().Index
}

func mustApply(t testing.TB, d *Deliver, devices map[string]string) {
	t.Helper()
	if _, err := d.Apply(context.Background(), section(devices)); err != nil {
		t.Fatal(err)
	}
}

func TestDevicesComeAndGoWithTheirLines(t *testing.T) {
	alone(t)
	d := newDeliver(t)
	mustApply(t, d, map[string]string{"a": "weft0", "b": "weft0", "c": "a-long-device-n"})
	first := index("weft0")
	if first == 0 || index("weft0-feed") == 0 || index("a-long-device-n") == 0 {
		t.Fatal("devices are missing")
	}
	mustApply(t, d, map[string]string{"b": "weft0"})
	if index("weft0") != first || index("a-long-device-n") != 0 {
		t.Error("weft0 is to stay as it is, the other to go")
	}
	d.Close()
	if index("weft0") != first {
		t.Error("Close takes the device")
	}
	again := newDeliver(t) // with no memory
	mustApply(t, again, map[string]string{"b": "weft0"})
	if index("weft0") != first {
		t.Error("a restarted agent does not know its device")
	}
	mustApply(t, again, nil)
	links, _ := netlink.LinkList()
	for _, l := range links {
		if l.Attrs().Name != "lo" {
			t.Errorf("%s is left", l.Attrs().Name)
		}
	}
}

func TestDeviceThatWasDeletedComesBack(t *testing.T) {
	alone(t)
	d := newDeliver(t)
	mustApply(t, d, map[string]string{"a": "weft0"})
	if err := removeLink("weft0"); err != nil {
		t.Fatal(err)
	}
	mustApply(t, d, map[string]string{"a": "weft0"})
	if index("weft0") == 0 {
		t.Error("no device")
	}
}

func TestForeignDeviceIsRefusedAndLeft(t *testing.T) {
	alone(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "weft0"
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	d := newDeliver(t)
	items, err := d.Apply(context.Background(), section(map[string]string{"a": "weft0"}))
	if err == nil || !strings.Contains(err.Error(), `remove it with "ip link del weft0"`) {
		t.Errorf("error %v", err)
	}
	if len(items) != 1 || items[0].State != itemError || items[0].Item != "a/src" {
		t.Errorf("items %v", items)
	}
	if _, refuse := d.admit(tapstream.Hello{Min: 1, Max: 1, Line: "a"}, sourceID); refuse.Code != tapstream.CodeDevice {
		t.Errorf("refusal %+v", refuse)
	}
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	if index("weft0") == 0 {
		t.Error("the foreign device was removed")
	}
}

func TestBadDeviceNames(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "a b", "a:1", strings.Repeat("x", 16)} {
		if checkDeviceName(name) == nil {
			t.Errorf("%q: accepted", name)
		}
	}
	for _, name := range []string{"weft0", strings.Repeat("x", 15)} {
		if n := feedName(name); len(n) > maxName || n == name {
			t.Errorf("%q: fed by %q", name, n)
		}
	}
}

// client opens a stream to d as a source.
type client struct {
	net.Conn
	in  *tapstream.Reader
	end chan error
}

func dial(d *Deliver, spiffe string, hello tapstream.Hello) (*client, tapstream.Type, []byte) {
	a, b := net.Pipe()
	c := &client{Conn: a, in: tapstream.NewReader(a), end: make(chan error, 1)}
	go func() { c.end <- d.Serve(context.Background(), b, spiffe) }()
	a.SetDeadline(time.Now().Add(10 * time.Second))
	a.Write(hello.Append(nil))
	kind, payload, _ := c.in.Next()
	return c, kind, payload
}

func TestOnlyGrantedSourcesAreHeard(t *testing.T) {
	alone(t)
	d := newDeliver(t)
	hello := tapstream.Hello{Min: 1, Max: 1, Line: "a", Epoch: 5, Next: 1}
	refused := func(what, spiffe string, hello tapstream.Hello, want tapstream.Code) {
		t.Helper()
		_, kind, payload := dial(d, spiffe, hello)
		r, err := tapstream.ParseRefuse(payload)
		if kind != tapstream.TypeRefuse || err != nil || r.Code != want {
			t.Errorf("%s: type %d, %+v, %v", what, kind, r, err)
		}
	}
	refused("no plan yet", sourceID, hello, tapstream.CodeBusy)
	mustApply(t, d, map[string]string{"a": "weft0"})
	refused("another identity", "spiffe://test/host/src/2", hello, tapstream.CodeNotGranted)
	other := hello
	other.Line = "b"
	refused("another line", sourceID, other, tapstream.CodeNotGranted)
	newer := hello
	newer.Min, newer.Max = 7, 9
	refused("another version", sourceID, newer, tapstream.CodeVersion)

	c, kind, _ := dial(d, sourceID, hello)
	if kind != tapstream.TypeAccept {
		t.Fatalf("type %d", kind)
	}
	mustApply(t, d, nil)
	if _, _, err := c.in.Next(); err == nil {
		t.Error("the stream outlives its grant")
	}
	if err := <-c.end; err == nil {
		t.Error("Serve calls that an ordinary end")
	}
}

// frame builds an IPv4 or IPv6 super-frame as a kernel hands it around.
func frame(v6 bool, proto byte, payload int) []byte {
	l4 := make([]byte, 8)
	if proto == packet.ProtoTCP {
		l4 = make([]byte, 32)
		l4[12], l4[13] = 8<<4, packet.TCPFin|packet.TCPPsh|0x10
	}
	binary.BigEndian.PutUint16(l4, 40000)
	binary.BigEndian.PutUint16(l4[2:], 9)
	f := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}
	body := len(l4) + payload
	if proto == packet.ProtoUDP {
		binary.BigEndian.PutUint16(l4[4:], uint16(body))
	}
	if v6 {
		f[12], f[13] = 0x86, 0xdd
		ip := make([]byte, 40)
		ip[0], ip[6], ip[7], ip[8], ip[24] = 0x60, proto, 64, 0xfd, 0xfd
		binary.BigEndian.PutUint16(ip[4:], uint16(body))
		f = append(f, ip...)
	} else {
		ip := []byte{0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}
		binary.BigEndian.PutUint16(ip[2:], uint16(20+body))
		binary.BigEndian.PutUint16(ip[10:], ^packet.Fold(packet.Sum(0, ip)))
		f = append(f, ip...)
	}
	f = append(f, l4...)
	for i := range payload {
		f = append(f, byte(i*13))
	}
	h, _ := packet.Parse(f, packet.Ethernet)
	packet.SetPartialChecksum(f, h, body)
	return f
}

func listen(t testing.TB, device string) (next func() []byte) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300000})
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: index(device)}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<17)
	return func() []byte {
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return nil
			}
			return buf[:n]
		}
	}
}

func seal(t testing.TB, sequence uint64, records ...tapstream.Record) []byte {
	t.Helper()
	var e tapstream.Encoder
	for i := range records {
		if !e.Add(&records[i]) {
			t.Fatal("batch is full")
		}
	}
	return e.Seal(nil, sequence)
}

func decoder(t testing.TB, message []byte) *tapstream.Decoder {
	t.Helper()
	b, err := tapstream.ParseBatch(message[tapstream.HeaderLen:])
	if err != nil {
		t.Fatal(err)
	}
	d := &tapstream.Decoder{}
	if err := d.Open(b); err != nil {
		t.Fatal(err)
	}
	return d
}

// The kernel's own cutting, seen on the device, is what packet.Segment makes.
func TestKernelCutsAsSegmentDoes(t *testing.T) {
	alone(t)
	d := newDeliver(t)
	mustApply(t, d, map[string]string{"a": "weft0"})
	next := listen(t, "weft0")
	for _, c := range []struct {
		v6    bool
		proto byte
		size  int
		total int
	}{
		{false, packet.ProtoTCP, 1448, 60000}, {true, packet.ProtoTCP, 1428, 60000}, {false, packet.ProtoTCP, 8948, 60000},
		{false, packet.ProtoUDP, 1400, 40000}, {true, packet.ProtoUDP, 1200, 40000}, {false, packet.ProtoTCP, 1448, 1448}, {false, packet.ProtoTCP, 100, 1001},
	} {
		f := frame(c.v6, c.proto, c.total)
		h, _ := packet.Parse(f, packet.Ethernet)
		super := packet.SuperFrame{Frame: f, Length: len(f), Size: c.size}
		n := super.Segments(h)
		dev := d.devices["weft0"]
		delivered, failed, err, _ := dev.feed.write(decoder(t, seal(t, 1, tapstream.Record{Time: 1, Length: uint32(len(f)), GSOSize: uint16(c.size), Segments: uint16(n), Data: f})))
		if err != nil || failed != (model.Count{}) || delivered.Packets != uint64(n) {
			t.Fatalf("%+v: delivered %v, failed %v, %v", c, delivered, failed, err)
		}
		dst := make([]byte, 1<<16)
		for i := range n {
			got, want := next(), super.Segment(dst, h, i)
			if string(got) != string(want) {
				t.Errorf("%+v segment %d of %d:\n got % x\nwant % x", c, i, n, got[:min(len(got), 80)], want[:80])
				break
			}
		}
	}
	if extra := next(); extra != nil {
		t.Errorf("one frame too many: % x", extra)
	}
}

// What a kernel before 6.2 refuses arrives cut all the same.
func TestRefusedSuperFrameIsCut(t *testing.T) {
	alone(t)
	d := newDeliver(t)
	mustApply(t, d, map[string]string{"a": "weft0"})
	next := listen(t, "weft0")
	feed := d.devices["weft0"].feed
	for _, v6 := range []bool{false, true} {
		f := frame(v6, packet.ProtoUDP, 40001)
		h, _ := packet.Parse(f, packet.Ethernet)
		super := packet.SuperFrame{Frame: f, Length: len(f), Size: 1400}
		if !feed.kernelCuts(f, h, 1400) {
			t.Fatal("not queued for the kernel")
		}
		feed.n = 0
		if errno := feed.cut(0); errno != 0 {
			t.Fatal(errno)
		}
		dst := make([]byte, 1<<16)
		for i := range super.Segments(h) {
			if got, want := next(), super.Segment(dst, h, i); string(got) != string(want) {
				t.Fatalf("v6=%v segment %d:\n got % x\nwant % x", v6, i, got[:min(len(got), 80)], want[:80])
			}
		}
	}
}

func TestRawAndTaggedAndSlicedAndOversizedRecords(t *testing.T) {
	alone(t)
	d := newDeliver(t)
	mustApply(t, d, map[string]string{"a": "weft0"})
	next := listen(t, "weft0")
	f := frame(false, packet.ProtoUDP, 10)
	super := frame(false, packet.ProtoTCP, 4000)
	big := frame(false, packet.ProtoUDP, 9400)
	delivered, failed, _, _ := d.devices["weft0"].feed.write(decoder(t, seal(t, 1,
		tapstream.Record{Time: 1, Length: uint32(len(f) - 14), Segments: 1, Flags: tapstream.FlagRaw, Data: f[14:]},
		tapstream.Record{Time: 1, Length: uint32(len(f)), Segments: 1, Flags: tapstream.FlagVLAN, VLANTCI: 7, VLANProto: 0x8100, Data: f},
		tapstream.Record{Time: 1, Length: uint32(len(super)), Segments: 3, GSOSize: 1448, Data: super[:80]},
		tapstream.Record{Time: 1, Length: uint32(len(super)), Segments: 3, GSOSize: 1448, Flags: tapstream.FlagVLAN, VLANTCI: 8, VLANProto: 0x8100, Data: super},
		tapstream.Record{Time: 1, Length: uint32(len(big)), Segments: 1, Data: big},
		tapstream.Record{Time: 1, Length: 9, Segments: 1, Data: f[:9]},
	)))
	if delivered.Packets != 8 || failed.Packets != 2 {
		t.Errorf("delivered %v, failed %v", delivered, failed)
	}
	for i, want := range []int{len(f), len(f) + 4, 80, 66, 66, 66 + 4 + 1448, 66 + 4 + 1448, 66 + 4 + 4000 - 2896} {
		got := next()
		h, _ := packet.Parse(got, packet.Ethernet)
		if len(got) == want-4 && i > 0 && i != 2 && i != 3 && i != 4 { // the kernel takes the tag out on reception
			got = append(append(append([]byte{}, got[:12]...), 0x81, 0, 0, 0), got[12:]...)
			h, _ = packet.Parse(got, packet.Ethernet)
		}
		if len(got) != want {
			t.Errorf("frame %d has %d bytes, want %d: % x", i, len(got), want, got[:min(len(got), 40)])
		}
		if state := packet.CheckTransport(got, h); len(got) > 100 && state != packet.Right {
			t.Errorf("frame %d: checksum state %d", i, state)
		}
	}
}

// Nothing that arrives reaches the host's own stack, and others' filters on the
// device see it first. A device that is taken over is blocked again, once.
func TestHostsOwnStackIsBlocked(t *testing.T) {
	for _, attach := range []Attach{AttachTCX, AttachClsact, AttachAuto} {
		t.Run(string(attach), func(t *testing.T) {
			alone(t)
			if attach == AttachTCX && tchook.TCX().No() {
				t.Skip(tchook.TCX())
			}
			for range 2 {
				d, err := New(Config{Attach: attach}, Deps{Log: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				mustApply(t, d, map[string]string{"a": "weft0"})
				if err := d.devices["weft0"].unblocked; err != nil {
					t.Fatal(err)
				}
				end, _ := netlink.LinkByName("weft0")
				if err := netlink.AddrReplace(end, &netlink.Addr{IPNet: &net.IPNet{IP: net.IP{10, 0, 0, 2}, Mask: net.CIDRMask(24, 32)}}); err != nil {
					t.Fatal(err)
				}
				server, err := net.ListenPacket("udp4", "10.0.0.2:9") // where frame's datagrams go
				if err != nil {
					t.Fatal(err)
				}
				next := listen(t, "weft0")
				f := frame(false, packet.ProtoUDP, 10)
				copy(f, end.Attrs().HardwareAddr)
				if delivered, _, _, _ := d.devices["weft0"].feed.write(decoder(t, seal(t, 1, tapstream.Record{Time: 1, Length: uint32(len(f)), Segments: 1, Data: f}))); delivered.Packets != 1 {
					t.Error("not delivered")
				}
				if next() == nil {
					t.Error("a packet socket sees nothing")
				}
				server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
				if n, from, err := server.ReadFrom(make([]byte, 100)); err == nil {
					t.Errorf("%d bytes from %v reached the host's stack", n, from)
				}
				server.Close()
				list, err := netlink.FilterList(end, netlink.HANDLE_MIN_INGRESS)
				if want := tchook.TCX().No() || attach == AttachClsact; want != (err == nil && len(list) == 1) {
					t.Errorf("filters %v, %v", list, err)
				}
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A batch that comes twice is delivered once; a new epoch begins anew.
func TestSequencesAreDealtWithOnce(t *testing.T) {
	alone(t)
	d := newDeliver(t)
	mustApply(t, d, map[string]string{"a": "weft0"})
	f := frame(false, packet.ProtoUDP, 10)
	record := tapstream.Record{Time: 1, Length: uint32(len(f)), Segments: 1, Data: f}
	totals := func(epoch uint64, sequences ...uint64) tapstream.Totals {
		t.Helper()
		c, kind, payload := dial(d, sourceID, tapstream.Hello{Min: 1, Max: 1, Line: "a", Epoch: epoch, Next: 1})
		if kind != tapstream.TypeAccept {
			t.Fatalf("type %d", kind)
		}
		accept, _ := tapstream.ParseAccept(payload)
		got := accept.Totals
		for _, s := range sequences {
			c.Write(seal(t, s, record))
			_, payload, err := c.in.Next()
			if err != nil {
				t.Fatal(err)
			}
			ack, err := tapstream.ParseAck(payload)
			if err != nil || ack.Sequence < s {
				t.Fatalf("ack %+v %v", ack, err)
			}
			got = ack.Totals
		}
		c.Close()
		<-c.end
		return got
	}
	if got := totals(1, 1, 2, 2, 1, 3); got.DeliveredPackets != 3 {
		t.Errorf("%+v", got)
	}
	if got := totals(1, 2, 3, 4, 9); got.DeliveredPackets != 5 {
		t.Errorf("after resuming: %+v", got)
	}
	if got := totals(2, 1); got.DeliveredPackets != 1 {
		t.Errorf("new epoch: %+v", got)
	}
}

// A device that its user has taken down drops everything without an error.
func TestSilentDropsAreCounted(t *testing.T) {
	alone(t)
	d := newDeliver(t)
	mustApply(t, d, map[string]string{"a": "weft0"})
	end, err := netlink.LinkByName("weft0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetDown(end); err != nil {
		t.Fatal(err)
	}
	f := frame(false, packet.ProtoUDP, 10)
	c, kind, _ := dial(d, sourceID, tapstream.Hello{Min: 1, Max: 1, Line: "a", Epoch: 1, Next: 1})
	if kind != tapstream.TypeAccept {
		t.Fatalf("type %d", kind)
	}
	var last tapstream.Ack
	next := func() (pong bool) {
		kind, payload, err := c.in.Next()
		if err != nil {
			t.Fatal(err)
		}
		if kind != tapstream.TypePong {
			if last, err = tapstream.ParseAck(payload); err != nil {
				t.Fatal(err)
			}
		}
		return kind == tapstream.TypePong
	}
	for s := range uint64(3) { // on a slow machine an ack may have the drops already
		c.Write(seal(t, s+1, tapstream.Record{Time: 1, Length: uint32(len(f)), Segments: 1, Data: f}))
		next()
	}
	c.Write(tapstream.AppendPing(nil, 1))
	for !next() {
	}
	if last.Totals.FailedPackets != 3 || last.Totals.DeliveredPackets != 0 || last.Totals.FailedBytes != 3*uint64(len(f)) {
		t.Errorf("%+v", last)
	}
	c.Close()
	<-c.end
}

func TestDecodingIntoTheDeviceAllocatesNothing(t *testing.T) {
	alone(t)
	d := newDeliver(t)
	mustApply(t, d, map[string]string{"a": "weft0"})
	feed := d.devices["weft0"].feed
	f, super := frame(false, packet.ProtoUDP, 500), frame(true, packet.ProtoTCP, 5000)
	message := seal(t, 1,
		tapstream.Record{Time: 1, Length: uint32(len(f)), Segments: 1, Data: f},
		tapstream.Record{Time: 1, Length: uint32(len(f)), Segments: 1, Flags: tapstream.FlagVLAN, VLANTCI: 1, VLANProto: 0x8100, Data: f},
		tapstream.Record{Time: 1, Length: uint32(len(super)), Segments: 4, GSOSize: 1400, Data: super},
		tapstream.Record{Time: 1, Length: uint32(len(super)), Segments: 4, GSOSize: 1400, Data: super[:1000]})
	dec := decoder(t, message)
	if n := testing.AllocsPerRun(200, func() {
		b, err := tapstream.ParseBatch(message[tapstream.HeaderLen:])
		if err != nil || dec.Open(b) != nil {
			t.Fatal("does not decode")
		}
		if _, failed, err, _ := feed.write(dec); err != nil || failed.Packets != 0 {
			t.Fatalf("%v %v", failed, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzServe: no stream makes Serve panic or hang.
func FuzzServe(f *testing.F) {
	var e tapstream.Encoder
	e.Add(&tapstream.Record{Time: 1, Length: 60, Segments: 1, Data: make([]byte, 60)})
	stream := tapstream.Hello{Min: 1, Max: 1, Line: "a", Epoch: 1, Next: 1}.Append(nil)
	stream = e.Seal(tapstream.AppendNames(stream, []tapstream.Name{{Number: 1, ID: "c1"}}), 1)
	f.Add(tapstream.AppendPing(stream, 3))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := New(Config{}, Deps{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		d.applied = true
		d.sources[sourceKey{"a", sourceID}] = &source{grant: grant{device: "none"}}
		a, b := net.Pipe()
		go func() {
			a.SetDeadline(time.Now().Add(2 * time.Second))
			a.Write(data)
			a.Close()
		}()
		go func() {
			buf := make([]byte, 4096)
			for {
				if _, err := a.Read(buf); err != nil {
					return
				}
			}
		}()
		d.Serve(context.Background(), b, sourceID)
	})
}
