package capture_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"weft/agent/capture"
	"weft/internal/testreq"
	"weft/model"
	"weft/packet"
	"weft/wire"
	"weft/wire/wirepb"
)

func need(t testing.TB) {
	t.Helper()
	testreq.Need(t, testreq.Root, testreq.NetNS, testreq.BPF, "ip", "nsenter", "tcpdump")
}

// ledger returns the account of a line once nothing is in flight.
func quiet(t testing.TB, c *capture.Capture, line string) model.Ledger {
	t.Helper()
	var l model.Ledger
	find := func() *wirepb.LineStatus {
		for _, s := range c.Lines() {
			if s.Line == line {
				return s
			}
		}
		t.Fatalf("no line %s", line)
		return nil
	}
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		s := find()
		l = wire.LedgerToModel(s.Ledger)
		if l.InFlight == (model.Count{}) && s.State == "Connected" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("line %s is not quiet: %+v", line, s)
		}
	}
	if err := l.Check(); err != nil {
		t.Errorf("line %s: %v\n%+v", line, err, l)
	}
	return l
}

func connected(t testing.TB, c *capture.Capture) {
	t.Helper()
	eventually(t, "stream", func() bool {
		for _, s := range c.Lines() {
			if s.State != "Connected" {
				return false
			}
		}
		return len(c.Lines()) > 0
	})
}

// hush waits until the namespaces' own chatter (neighbour and multicast
// discovery) is over, so that sniffers and taps begin with the same frame.
func hush(t testing.TB, c *capture.Capture) {
	t.Helper()
	hushFor(t, c, 1500*time.Millisecond)
}

// hushFor waits until nothing was seen for some time.
func hushFor(t testing.TB, c *capture.Capture, silence time.Duration) {
	t.Helper()
	var last uint64
	for since := time.Now(); time.Since(since) < silence; time.Sleep(50 * time.Millisecond) {
		var now uint64
		for _, s := range c.Lines() {
			now += s.Ledger.Seen.Packets
		}
		if now != last {
			last, since = now, time.Now()
		}
	}
}

// settled waits until what arrives stops growing.
func settled(s *sniffer) {
	deadline := time.Now().Add(20 * time.Second)
	for last, same := -1, 0; same < 10 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if n := s.count(); n == last {
			same++
		} else {
			last, same = n, 0
		}
	}
}

// traffic sends some of everything from c1 to c2 and outside.
func traffic(t testing.TB, w *world) {
	t.Helper()
	for _, dst := range []string{"10.9.0.12", "10.8.0.2", "fd09::12", "fd08::2"} {
		w.c1.sh(t, "ping -q -c 3 -i 0.01 -s 1200 "+dst)
	}
	bulk(t, w.c2, w.c1, "10.9.0.12", 2<<20)
	bulk(t, w.outside, w.c1, "10.8.0.2", 2<<20)
	bulk(t, w.outside, w.c1, "[fd08::2]", 2<<20)
	w.c1.sh(t, "for i in 1 2 3 4 5; do echo datagram $i | socat -u - UDP:10.8.0.2:9; done")
}

// bulk pushes bytes over TCP between two namespaces.
func bulk(t testing.TB, server, client namespace, address string, size int) {
	t.Helper()
	family := "4"
	if address[0] == '[' {
		family = "6"
	}
	srv := server.cmd(fmt.Sprintf("socat -u TCP%s-LISTEN:5001,reuseaddr /dev/null", family))
	if err := srv.Start(); err != nil {
		t.Fatal(err)
	}
	// From a file and in large writes: through a pipe the writes are as small as
	// the reads happen to be, and a busy machine would send no super-frames.
	client.sh(t, fmt.Sprintf("f=$(mktemp); head -c %d /dev/urandom >$f; socat -u -b 262144 OPEN:$f TCP%s:%s:5001,retry=50,interval=0.02; code=$?; rm $f; exit $code", size, family, address))
	if err := srv.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestEveryPacketArrivesAsTheWireWouldCarryIt(t *testing.T) {
	need(t)
	eachWay(t, func(t *testing.T) {
		mtus := []int{1500, 9000}
		if way() == capture.AttachClsact {
			mtus = mtus[:1] // attaching and frame size have nothing to do with one another
		}
		for _, mtu := range mtus {
			t.Run(fmt.Sprint("mtu", mtu), func(t *testing.T) { everyPacketArrives(t, mtu) })
		}
	})
}

func everyPacketArrives(t *testing.T, mtu int) {
	w := newWorld(t, mtu)
	tool := newToolSide(t)
	tool.grant(t, w, "uid/ids")
	c := newCapture(t, testreq.BPFFS(t), tool)
	runCapture(t, c)
	apply(t, w, c, captureLine("uid/ids", "c1"))
	connected(t, c)
	hush(t, c)
	before := quiet(t, c, "uid/ids").Seen
	source, landing := sniff(t, w.host, "v1"), sniff(t, w.tool, "weft0")

	traffic(t, w)
	settled(source)
	l := quiet(t, c, "uid/ids")
	settled(landing)

	want, got := source.end(), landing.end()
	compare(t, "weft0", want, got)
	if source.supers == 0 {
		t.Error("the traffic had no super-frames; the test is blind")
	}
	for _, f := range got {
		if len(f) > mtu+14 {
			t.Errorf("a frame of %d bytes on weft0", len(f))
			break
		}
	}
	for _, f := range got {
		h, _ := packet.Parse([]byte(f), packet.Ethernet)
		if state := packet.CheckTransport([]byte(f), h); state == packet.Wrong || state == packet.Partial {
			t.Errorf("a frame with a wrong checksum: % x", f[:min(len(f), 60)])
			break
		}
	}
	if l.Delivered != l.Seen || l.Seen.Packets-before.Packets != uint64(len(want)) {
		t.Errorf("%d frames passed, ledger %+v", len(want), l)
	}
	t.Logf("%d frames, %d super-frames", len(want), source.supers)
	removeEverything(t, w, c, tool)
}

// removeEverything takes line and grant away and wants nothing left.
func removeEverything(t testing.TB, w *world, c *capture.Capture, tool *toolSide) {
	t.Helper()
	apply(t, w, c)
	for _, dev := range []string{"v1", "v2", "up0"} {
		if left := attached(t, w.host, dev); left != 0 {
			t.Errorf("%d programs are left on %s", left, dev)
		}
		if q := qdisc(t, w.host, dev); q != "" {
			t.Errorf("a %s qdisc is left on %s", q, dev)
		}
	}
	tool.grant(t, w)
	if out := w.tool.sh(t, "ip -o link"); len(out) > 0 && containsWeft(out) {
		t.Errorf("a device is left: %s", out)
	}
}

func pins(t testing.TB, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
	return found
}
