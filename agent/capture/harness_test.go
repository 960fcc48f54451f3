package capture_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"weft/agent/capture"
	"weft/agent/deliver"
	"weft/packet"
	"weft/wire/wirepb"
)

// namespace is a network namespace of this test's own.
type namespace string

var namespaces atomic.Uint32

func newNamespace(t testing.TB, what string) namespace {
	t.Helper()
	name := fmt.Sprintf("wc%d-%d-%s", os.Getpid(), namespaces.Add(1), what)
	sh(t, "ip", "netns", "add", name)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() })
	n := namespace(name)
	n.sh(t, "ip link set lo up; echo 0 > /proc/sys/net/ipv6/conf/default/router_solicitations") // one would be chatter amid a test
	return n
}

func sh(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// cmd runs a shell command in the namespace; nsenter, not "ip netns exec",
// which would hide /sys.
func (n namespace) cmd(command string) *exec.Cmd {
	return exec.Command("nsenter", "--net=/run/netns/"+string(n), "sh", "-ec", command)
}

func (n namespace) sh(t testing.TB, command string) string {
	t.Helper()
	out, err := n.cmd(command).CombinedOutput()
	if err != nil {
		t.Fatalf("in %s: %s: %v\n%s", n, command, err, out)
	}
	return string(out)
}

// do runs f on a thread in the namespace. The thread is given up where it
// cannot come back.
func (n namespace) do(t testing.TB, f func()) {
	t.Helper()
	fd, err := unix.Open("/run/netns/"+string(n), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(home)
			if err = unix.Setns(fd, unix.CLONE_NEWNET); err == nil {
				f()
				if unix.Setns(home, unix.CLONE_NEWNET) == nil {
					runtime.UnlockOSThread()
				}
			}
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// world is a host with two containers on a bridge, a machine outside, and a
// tool. Addresses: host 10.9.0.1, c1 .11, c2 .12, outside 10.8.0.2 (host .1).
type world struct {
	host, c1, c2, outside, tool namespace
}

func newWorld(t testing.TB, mtu int) *world {
	t.Helper()
	w := &world{host: newNamespace(t, "host"), c1: newNamespace(t, "c1"), c2: newNamespace(t, "c2"),
		outside: newNamespace(t, "out"), tool: newNamespace(t, "tool")}
	w.host.sh(t, fmt.Sprintf(`
		ip link add br0 mtu %[1]d type bridge; ip addr add 10.9.0.1/24 dev br0; ip addr add fd09::1/64 dev br0 nodad; ip link set br0 up
		echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
		ip link add up0 mtu %[1]d type veth peer name eth0 mtu %[1]d netns %[2]s; ip addr add 10.8.0.1/24 dev up0; ip addr add fd08::1/64 dev up0 nodad; ip link set up0 up`, mtu, w.outside))
	w.outside.sh(t, `ip addr add 10.8.0.2/24 dev eth0; ip addr add fd08::2/64 dev eth0 nodad; ip link set eth0 up
		ip route add 10.9.0.0/24 via 10.8.0.1; ip route add fd09::/64 via fd08::1`)
	for i, c := range []namespace{w.c1, w.c2} {
		w.host.sh(t, fmt.Sprintf("ip link add v%[1]d mtu %[2]d type veth peer name eth0 mtu %[2]d netns %[3]s; ip link set v%[1]d master br0 up", i+1, mtu, c))
		c.sh(t, fmt.Sprintf(`ip addr add 10.9.0.1%[1]d/24 dev eth0; ip addr add fd09::1%[1]d/64 dev eth0 nodad; ip link set eth0 up
			ip route add default via 10.9.0.1; ip route add default via fd09::1`, i+1))
	}
	return w
}

// toolConn is a local connection that stands for the mutually
// authenticated one between agents.
type toolConn struct{ net.Conn }

func (toolConn) Path() (kind, relay, remote string) { return "direct", "", "192.0.2.1:1" }

const sourceID = "spiffe://test/host/src/1"

// toolSide accepts streams for a Deliver.
type toolSide struct {
	*deliver.Deliver
	listener net.Listener
	wrap     func(net.Conn) net.Conn
	mu       sync.Mutex
	conns    []net.Conn
	wg       sync.WaitGroup
}

func logger(t testing.TB) *slog.Logger {
	if os.Getenv("WEFT_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("test", t.Name())
}

func newToolSide(t testing.TB) *toolSide {
	t.Helper()
	d, err := deliver.New(deliver.Config{}, deliver.Deps{Log: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "tool")) // crosses namespaces
	if err != nil {
		t.Fatal(err)
	}
	s := &toolSide{Deliver: d, listener: l}
	ctx, cancel := context.WithCancel(context.Background())
	s.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			if s.wrap != nil {
				conn = s.wrap(conn)
			}
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			s.wg.Go(func() {
				if err := d.Serve(ctx, conn, sourceID); err != nil {
					logger(t).Debug("stream ended", "err", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		s.wg.Wait()
	})
	return s
}

// cut breaks every present connection, as a relay's restart does.
func (s *toolSide) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

func (s *toolSide) dial(ctx context.Context, _ string, _ *wirepb.Peer) (capture.Conn, error) {
	return dialUnix(ctx, s.listener.Addr().String())
}

func dialUnix(ctx context.Context, path string) (capture.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return toolConn{conn}, nil
}

// grant lets the source send the lines to weft0.
func (s *toolSide) grant(t testing.TB, w *world, lines ...string) {
	t.Helper()
	section := &wirepb.DeliverSection{}
	for _, l := range lines {
		section.Lines = append(section.Lines, &wirepb.DeliverLine{Line: l, Tap: l, Device: "weft0",
			Sources: []*wirepb.Peer{{Name: "src", SpiffeId: sourceID}}})
	}
	w.tool.do(t, func() {
		items, err := s.Apply(context.Background(), section)
		if err != nil {
			t.Error(err)
		}
		for _, it := range items {
			if it.State != "Ready" {
				t.Errorf("%s: %s %s", it.Item, it.State, it.Message)
			}
		}
	})
}

func newCapture(t testing.TB, dir string, s *toolSide) *capture.Capture {
	t.Helper()
	c, err := capture.New(capture.Config{BPFDir: dir, RingBytes: 16 << 20, Attach: way()}, capture.Deps{Log: logger(t), Dial: s.dial})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// runCapture runs c until the test ends or stop is called.
func runCapture(t testing.TB, c *capture.Capture) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- c.Run(ctx, func() { close(ready) }) }()
	<-ready
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

var workloads = []capture.Workload{
	{ID: "host", Interfaces: []string{"up0"}, Sense: capture.Uplink},
	{ID: "c1", Interfaces: []string{"v1"}, Sense: capture.Veth},
	{ID: "c2", Interfaces: []string{"v2"}, Sense: capture.Veth},
}

func captureLine(line string, ids ...string) *wirepb.CaptureLine {
	return &wirepb.CaptureLine{Line: line, Tap: "tap-" + line, Tool: &wirepb.Peer{Name: "ids", SpiffeId: "spiffe://test/host/ids/1"},
		Workloads: ids, Ingress: true, Egress: true}
}

// apply sets the lines and wants every item captured.
func apply(t testing.TB, w *world, c *capture.Capture, lines ...*wirepb.CaptureLine) {
	t.Helper()
	w.host.do(t, func() {
		items, err := c.Apply(context.Background(), &wirepb.CaptureSection{Lines: lines}, workloads)
		if err != nil {
			t.Error(err)
		}
		for _, it := range items {
			if it.State != "Capturing" {
				t.Errorf("%s: %s %s", it.Item, it.State, it.Message)
			}
		}
	})
}

// filter compiles a pcap-filter expression by tcpdump.
func filter(t testing.TB, expression string) []*wirepb.BPFInstruction {
	t.Helper()
	lines := bufio.NewScanner(strings.NewReader(sh(t, "tcpdump", "-ddd", "-y", "EN10MB", expression)))
	var prog []*wirepb.BPFInstruction
	for first := true; lines.Scan(); first = false {
		if first {
			continue
		}
		ins := &wirepb.BPFInstruction{}
		if _, err := fmt.Sscan(lines.Text(), &ins.Op, &ins.Jt, &ins.Jf, &ins.K); err != nil {
			t.Fatal(err)
		}
		prog = append(prog, ins)
	}
	return prog
}

// sniffer holds what a packet socket sees on one interface, as the wire would
// carry it: super-frames cut, tags put back, checksums completed.
type sniffer struct {
	mu     sync.Mutex
	frames []string
	t      testing.TB
	fd     int
	stop   atomic.Bool
	done   chan struct{}
	supers int // super-frames met
}

func sniff(t testing.TB, n namespace, device string) *sniffer {
	t.Helper()
	s := &sniffer{t: t, done: make(chan struct{})}
	n.do(t, func() {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			t.Fatal(err)
		}
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			t.Fatal(err)
		}
		unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20)
		for _, opt := range []int{unix.PACKET_VNET_HDR, unix.PACKET_AUXDATA} {
			if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, opt, 1); err != nil {
				t.Fatal(err)
			}
		}
		unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50000})
		if err := unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: dev.Index}); err != nil {
			t.Fatal(err)
		}
	})
	go s.run()
	t.Cleanup(func() { s.end() })
	return s
}

func (s *sniffer) end() []string {
	if !s.stop.Swap(true) {
		<-s.done
		unix.Close(s.fd)
	}
	return s.frames
}

func (s *sniffer) run() {
	defer close(s.done)
	buf, oob := make([]byte, 1<<17), make([]byte, 128)
	for {
		n, oobn, _, _, err := unix.Recvmsg(s.fd, buf, oob, 0)
		if err == unix.EAGAIN || err == unix.EINTR {
			if s.stop.Load() {
				return
			}
			continue
		}
		if err != nil { // the device has gone
			return
		}
		frame := append([]byte(nil), buf[10:n]...)
		msgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
		for _, m := range msgs {
			if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA {
				aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&m.Data[0]))
				if aux.Status&unix.TP_STATUS_VLAN_VALID != 0 {
					tag := binary.BigEndian.AppendUint16(nil, aux.Vlan_tpid)
					tag = binary.BigEndian.AppendUint16(tag, aux.Vlan_tci)
					frame = append(frame[:12:12], append(tag, frame[12:]...)...)
				}
			}
		}
		s.keep(frame, buf[1], binary.NativeEndian.Uint16(buf[4:]))
	}
}

func (s *sniffer) keep(frame []byte, gso byte, size uint16) {
	h, _ := packet.Parse(frame, packet.Ethernet)
	s.mu.Lock()
	defer s.mu.Unlock()
	if gso == 0 {
		packet.CompleteChecksum(frame, h)
		s.frames = append(s.frames, string(frame))
		return
	}
	s.supers++
	super := packet.SuperFrame{Frame: frame, Length: len(frame), Size: int(size)}
	dst := make([]byte, 1<<16)
	for i := range super.Segments(h) {
		s.frames = append(s.frames, string(super.Segment(dst, h, i)))
	}
}

func (s *sniffer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.frames)
}

// compare tells what is in one multiset of frames and not in the other.
func compare(t testing.TB, what string, want, got []string) {
	t.Helper()
	diff := make(map[string]int)
	for _, f := range want {
		diff[f]++
	}
	for _, f := range got {
		diff[f]--
	}
	missing, extra, shown := 0, 0, 0
	for f, n := range diff {
		if n > 0 {
			missing += n
		} else if n < 0 {
			extra -= n
		}
		if n != 0 && shown < 6 {
			shown++
			t.Logf("%s: %+d of % x… (%d bytes)", what, -n, f[:min(len(f), 60)], len(f))
		}
	}
	if missing+extra > 0 {
		t.Errorf("%s: of %d frames %d are missing, %d are extra", what, len(want), missing, extra)
	}
}

// eventually waits until f holds.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// sendTagged sends UDP datagrams in frames with a VLAN tag.
func sendTagged(t testing.TB, n namespace, device string, vlan uint16, count int) {
	t.Helper()
	n.do(t, func() {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			t.Error(err)
			return
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		frame := []byte{2, 0, 0, 0, 0, 9}
		frame = append(frame, dev.HardwareAddr...)
		frame = append(frame, 0x81, 0, byte(vlan>>8), byte(vlan), 8, 0)
		frame = append(frame, 0x45, 0, 0, 33, 0, 1, 0, 0, 64, 17, 0, 0, 10, 9, 0, 11, 10, 9, 0, 12)
		frame = append(frame, 0x30, 0x39, 0, 9, 0, 13, 0, 0, 'h', 'e', 'l', 'l', 'o')
		for range count {
			if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index, Protocol: 0x0081}); err != nil {
				t.Error(err)
				return
			}
		}
	})
}

// compareSubset wants every frame of got in want, and none more often.
func compareSubset(t testing.TB, what string, want, got []string) {
	t.Helper()
	left := make(map[string]int)
	for _, f := range want {
		left[f]++
	}
	extra := 0
	for _, f := range got {
		if left[f]--; left[f] < 0 {
			if extra++; extra < 4 {
				t.Logf("%s: extra % x… (%d bytes)", what, f[:min(len(f), 60)], len(f))
			}
		}
	}
	if extra > 0 {
		t.Errorf("%s: %d frames that the source did not have, or not so often", what, extra)
	}
}
