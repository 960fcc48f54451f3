package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/agent/connection"
	"weft/agent/datapath/datapathtest"
	"weft/internal/testreq"
	"weft/model"
	"weft/packet"
)

// fullBuffer sends more than somebody takes who never reads. The kernel's socket
// says how much of it is lost.
func fullBuffer() ([]told, error) {
	to, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	if err := to.SetReadBuffer(4096); err != nil {
		return nil, err
	}
	from, err := net.DialUDP("udp4", nil, to.LocalAddr().(*net.UDPAddr))
	if err != nil {
		return nil, err
	}
	for range 100 {
		if _, err := from.Write(make([]byte, 1000)); err != nil {
			return nil, err
		}
	}
	x := told{Local: to.LocalAddr().(*net.UDPAddr).AddrPort(), Remote: from.LocalAddr().(*net.UDPAddr).AddrPort(), Received: 100}
	table, err := os.ReadFile("/proc/thread-self/net/udp")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 12 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", x.Local.Port())) {
			x.Drops, err = strconv.ParseUint(f[12], 10, 64)
		}
	}
	if x.Drops == 0 {
		err = errors.Join(err, errors.New("everything was taken"))
	}
	return []told{x}, err
}

// unheard sends to a port at which nobody listens.
func unheard() ([]told, error) {
	l, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	port := l.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	if err := l.Close(); err != nil {
		return nil, err
	}
	return unheardAt(port)
}

func unheardAt(port uint16) ([]told, error) {
	from, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	x := told{Local: from.LocalAddr().(*net.UDPAddr).AddrPort(), Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port), Drops: 7}
	for range x.Drops {
		if _, err := from.WriteToUDPAddrPort(make([]byte, 10), x.Remote); err != nil {
			return nil, err
		}
	}
	return []told{x}, nil
}

// hungUp makes connections that go well and that the server closes first, with all
// that it has said on its way and without waiting for the other end.
func hungUp() ([]told, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 100))
			c.Write(make([]byte, 1000))
			c.Close()
		}
	}()
	var out []told
	for range 20 {
		c, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			return nil, err
		}
		out = append(out, told{Local: l.Addr().(*net.TCPAddr).AddrPort(), Remote: c.LocalAddr().(*net.TCPAddr).AddrPort()})
		if _, err := c.Write(make([]byte, 50)); err != nil {
			return nil, err
		}
		b, err := io.ReadAll(c)
		if err = errors.Join(err, c.Close()); err != nil || len(b) != 1000 {
			return nil, fmt.Errorf("%d bytes: %w", len(b), err)
		}
	}
	return out, nil
}

// wrongChecksum calls a port that listens, in segments that were spoilt.
func wrongChecksum() ([]told, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return nil, err
	}
	x := told{Local: netip.MustParseAddrPort("127.0.0.1:40001"), Remote: l.Addr().(*net.TCPAddr).AddrPort(), Drops: 3}
	b := make([]byte, 40)
	b[0], b[3], b[8], b[9] = 0x45, 40, 64, unix.IPPROTO_TCP
	copy(b[12:], []byte{127, 0, 0, 1, 127, 0, 0, 1})
	tcp := b[20:]
	binary.BigEndian.PutUint16(tcp, x.Local.Port())
	binary.BigEndian.PutUint16(tcp[2:], x.Remote.Port())
	tcp[12], tcp[13] = 5<<4, packet.TCPSyn
	binary.BigEndian.PutUint16(tcp[16:], 0xbad)
	for range x.Drops {
		if err := unix.Sendto(raw, b, 0, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return nil, err
		}
	}
	return []told{x}, nil
}

// filteredPort is that of packets that a firewall takes away.
const filteredPort = 4999

// What the kernel throws away is counted with the connection it is of, with the
// kernel's own reason, and nothing of what arrives is.
func TestDropsAreCountedByConnection(t *testing.T) {
	testreq.Need(t, testreq.BPF, testreq.DropReasons, "nft")
	d, s := metered(t)
	if d.drops == nil {
		t.Fatal("nothing counts what the kernel drops")
	}
	rule := fmt.Sprintf("table inet weft_test { chain in { type filter hook input priority 0; udp dport %d drop; }; }", filteredPort)
	if out, err := exec.Command("nsenter", "--net="+s.Machine, "nft", rule).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	before, err := d.Drops()
	if err != nil {
		t.Fatal(err)
	}
	for what, reason := range map[string]string{"full": "SOCKET_RCVBUFF", "unheard": "NO_SOCKET", "unheard-fixed": "NETFILTER_DROP", "checksum": "TCP_CSUM"} {
		x := inside(t, what, s.Machine, s.Endpoint("machine").Cgroup)[0]
		list := linesOf(t, d, x)
		if len(list) != 1 {
			t.Fatalf("%s: %d lines of %+v", what, len(list), x)
		}
		if c := &list[0]; c.Drops != x.Drops || c.DropReason != reason {
			t.Errorf("%s: %d dropped for %q, %d for %q expected", what, c.Drops, c.DropReason, x.Drops, reason)
		}
		after, err := d.Drops()
		if err != nil {
			t.Fatal(err)
		}
		if n := after[reason] - before[reason]; n < x.Drops {
			t.Errorf("%s: the machine has dropped %d for %s, of which this connection had %d", what, n, reason, x.Drops)
		}
		if list = linesOf(t, d, x); len(list) != 1 || list[0].Drops != x.Drops {
			t.Errorf("%s: read again: %+v", what, list)
		}
	}
	for _, x := range inside(t, "hung-up", s.Machine, s.Endpoint("machine").Cgroup) {
		list := linesOf(t, d, x)
		if len(list) == 0 {
			t.Errorf("no line of %+v", x)
		}
		for _, c := range list {
			if c.Drops != 0 {
				t.Errorf("of a connection that its server closed %d were dropped for %s", c.Drops, c.DropReason)
			}
		}
	}
	for _, x := range inside(t, "bulk4", s.Machine, s.Endpoint("machine").Cgroup) {
		c := linesOf(t, d, x)[0]
		if c.Drops != 0 {
			t.Errorf("of a connection that went well %d were dropped for %s", c.Drops, c.DropReason)
		}
		if seen := packet.TCPFlags(packet.TCPSyn | packet.TCPAck); c.SentFlags&seen != seen && c.ReceivedFlags&seen != seen || c.SentFlags&packet.TCPSyn == 0 || c.ReceivedFlags&packet.TCPSyn == 0 || c.TCPState != packet.TCPEstablished {
			t.Errorf("flags %s sent, %s received, state %s", c.SentFlags, c.ReceivedFlags, c.TCPState)
		}
	}
}

// Another process goes on with what one has counted, and what belongs to nobody
// any more is forgotten.
func TestDropsOutliveTheAgent(t *testing.T) {
	testreq.Need(t, testreq.BPF, testreq.DropReasons)
	pins := mountBPF(t)
	s := datapathtest.NewSite(t)
	open := func() *Driver {
		t.Helper()
		d, err := Open(Config{CgroupRoot: s.Root, PinDir: pins}, Deps{})
		if err != nil {
			t.Fatal(err)
		}
		if err := (inMachine{d, s}).Apply(t.Context(), s.World(model.ModeObserve).State); err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := open()
	if d.drops == nil {
		t.Fatal("nothing counts what the kernel drops")
	}
	x := inside(t, "full", s.Machine, s.Endpoint("machine").Cgroup)[0]
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	y := inside(t, "unheard", s.Machine, s.Endpoint("machine").Cgroup)[0] // while there is no agent
	d = open()
	defer d.Remove()
	for _, x := range []told{x, y} {
		if list := linesOf(t, d, x); len(list) != 1 || list[0].Drops != x.Drops {
			t.Errorf("%d expected of %+v", x.Drops, list)
		}
	}
	if err := d.objects.Conns.Delete(d.keyOf(t, x)); err != nil {
		t.Fatal(err)
	}
	d.goThrough()
	linesOf(t, d, x)
	var v dropsDrop
	entries, n := d.drops.byLine.Iterate(), 0
	for k := new(policyConnKey); entries.Next(k, &v); n++ {
		if port(k.LocalPort) == x.Local.Port() {
			t.Error("what was dropped of a line that is gone is still there")
		}
	}
	if n == 0 {
		t.Error("that of a line that is not is gone too")
	}
}

// keyOf finds a line's key.
func (d *Driver) keyOf(t *testing.T, x told) (out policyConnKey) {
	t.Helper()
	if _, err := d.lines.through(func(k *policyConnKey, _ *policyConn) bool {
		if port(k.LocalPort) == x.Local.Port() && port(k.RemotePort) == x.Remote.Port() {
			out = *k
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// What policy turns down has a line of its own, and is no drop beside it.
func TestVerdictsAreNoDrops(t *testing.T) {
	testreq.Need(t, testreq.BPF, testreq.DropReasons)
	pins := mountBPF(t)
	s := datapathtest.NewSite(t)
	d, err := Open(Config{CgroupRoot: s.Root, PinDir: pins}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Remove()
	if d.drops == nil {
		t.Fatal("nothing counts what the kernel drops")
	}
	w := s.World(model.ModeEnforce, `
  subject: {selector: "app in (web,db)"}
  egress: [{action: Allow, ports: [{protocol: TCP, port: 80}]}]
  ingress: [{action: Allow, ports: [{protocol: TCP, port: 80}]}]`)
	if err := (inMachine{d, s}).Apply(t.Context(), w.State); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	time.AfterFunc(500*time.Millisecond, func() { close(stop) })
	if got := s.Probe(stop, "c1", "c2", "tcp", 443); got != "" {
		t.Error(got)
	}
	refused := 0
	if err := d.Connections(func(c *connection.Line) bool {
		if c.Refused {
			refused++
		}
		if c.Drops > 0 {
			t.Errorf("%d dropped for %s of %+v", c.Drops, c.DropReason, c)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	sums, err := d.Drops()
	if err != nil || refused == 0 || sums["SOCKET_FILTER"]+sums["BPF_CGROUP_EGRESS"] > 0 {
		t.Errorf("%d lines turned down, dropped %v, %v", refused, sums, err)
	}
}

// Joining drops to lines costs no memory.
func TestJoiningDropsDoesNotAllocate(t *testing.T) {
	o := &drops{have: map[policyConnKey]dropped{}}
	k, c := policyConnKey{LocalPort: 1}, policyConn{FirstNs: 7}
	o.have[k] = dropped{dropsDrop: dropsDrop{FirstNs: 7, Packets: 3, Reason: dropReasons}}
	o.names[dropReasons-1] = "OTHER"
	var line connection.Line
	if n := testing.AllocsPerRun(100, func() { o.join(&k, &c, &line) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if line.Drops != 3 || line.DropReason != "OTHER" {
		t.Errorf("%+v", line)
	}
	c.FirstNs, line = 8, connection.Line{}
	if o.join(&k, &c, &line); line.Drops != 0 {
		t.Errorf("of another connection with the same ports: %+v", line)
	}
}
