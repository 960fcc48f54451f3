package capture_test

import (
	"fmt"
	"testing"
	"time"

	"weft/agent/capture"
	"weft/internal/testreq"
	"weft/model"
	"weft/packet"
	"weft/wire/wirepb"
)

// setup is a world with one line up and quiet.
func setup(t testing.TB, lines ...*wirepb.CaptureLine) (*world, *toolSide, *capture.Capture, func()) {
	t.Helper()
	w := newWorld(t, 1500)
	tool := newToolSide(t)
	var ids []string
	for _, l := range lines {
		ids = append(ids, l.Line)
	}
	tool.grant(t, w, ids...)
	c := newCapture(t, testreq.BPFFS(t), tool)
	runCapture(t, c)
	apply(t, w, c, lines...)
	connected(t, c)
	hush(t, c)
	return w, tool, c, func() { removeEverything(t, w, c, tool) }
}

func only(frames []string, keep func(frame []byte, h packet.Headers) bool) (out []string) {
	for _, f := range frames {
		h, _ := packet.Parse([]byte(f), packet.Ethernet)
		if keep([]byte(f), h) {
			out = append(out, f)
		}
	}
	return out
}

func TestFilterAndSnaplen(t *testing.T) {
	need(t)
	line := captureLine("uid/ids", "c1")
	line.Filter, line.FilterEthernet = "icmp or tcp port 5001", filter(t, "icmp or tcp port 5001")
	line.Snaplen = 100
	w, _, _, remove := setup(t, line)
	source, landing := sniff(t, w.host, "v1"), sniff(t, w.tool, "weft0")
	w.c1.sh(t, "ping -q -c 3 -i 0.01 -s 1000 10.9.0.12; ping -q -c 3 -i 0.01 fd09::12; for i in 1 2 3; do echo x | socat -u - UDP:10.9.0.12:9; done")
	bulk(t, w.c2, w.c1, "10.9.0.12", 1<<19)
	settled(source)
	settled(landing)
	got := landing.end()
	// A frame of its own is cut to 100 bytes; of a super-frame only the first
	// segment has payload, the others their headers.
	want := only(source.end(), func(f []byte, h packet.Headers) bool {
		return h.Type == packet.EtherTypeIPv4 && (h.Proto == packet.ProtoICMP || h.Proto == packet.ProtoTCP)
	})
	if len(want) != len(got) || len(got) < 300 {
		t.Errorf("%d frames match the filter, %d arrived", len(want), len(got))
	}
	full := make(map[string]int)
	for _, f := range want {
		full[headersOf(f)]++
	}
	for _, f := range got {
		if len(f) > 100 {
			t.Fatalf("a frame of %d bytes", len(f))
		}
		full[headersOf(f)]--
	}
	for h, n := range full {
		if n != 0 {
			t.Errorf("%+d of headers % x", -n, h)
			break
		}
	}
	remove()
}

// headersOf is a frame's headers without its transport checksum, which a cut
// frame cannot have.
func headersOf(f string) string {
	b := []byte(f)
	h, _ := packet.Parse(b, packet.Ethernet)
	end := h.Payload
	if end == 0 {
		end = min(len(b), 60)
	}
	if h.Proto == packet.ProtoTCP && h.Payload > 0 {
		b[h.L4+16], b[h.L4+17] = 0, 0
	}
	return string(b[:end])
}

func TestDirections(t *testing.T) {
	need(t)
	in, out := captureLine("uid/in", "c1"), captureLine("uid/out", "c1")
	in.Egress, out.Ingress = false, false
	w, _, c, remove := setup(t, in, out)
	w.c1.sh(t, "ping -q -f -c 100 -s 500 10.9.0.12")
	for _, name := range []string{"uid/in", "uid/out"} {
		l := quiet(t, c, name)
		if l.Delivered.Packets < 100 || l.Delivered.Packets > 130 || l.Deduplicated != (model.Count{}) {
			t.Errorf("%s: %+v", name, l)
		}
	}
	remove()
}

// Every case in which both ends are on this host: each frame is reported, and
// reported once where it is the same frame.
func TestDuplicates(t *testing.T) {
	need(t)
	eachWay(t, duplicates)
}

func duplicates(t *testing.T) {
	both := captureLine("uid/both", "c1", "c2", "host")
	ingress := captureLine("uid/ingress", "c1", "c2")
	ingress.Egress = false
	for _, l := range []*wirepb.CaptureLine{both, ingress} { // the namespaces' own chatter is not to be counted
		l.Filter, l.FilterEthernet = "icmp", filter(t, "icmp")
	}
	w, _, c, remove := setup(t, both, ingress)
	count := func(line string) model.Ledger { return quiet(t, c, line) }
	check := func(what, command string, delivered, deduplicated, ingress int) {
		t.Helper()
		before, beforeIn := count("uid/both"), count("uid/ingress")
		w.c1.sh(t, command)
		hushFor(t, c, 300*time.Millisecond) // of what is tapped here there is no chatter
		after, afterIn := count("uid/both"), count("uid/ingress")
		got := fmt.Sprint(after.Delivered.Packets-before.Delivered.Packets, after.Deduplicated.Packets-before.Deduplicated.Packets, afterIn.Delivered.Packets-beforeIn.Delivered.Packets)
		if want := fmt.Sprint(delivered, deduplicated, ingress); got != want {
			t.Errorf("%s: delivered, deduplicated and on the ingress line: %s, want %s", what, got, want)
		}
		if afterIn.Deduplicated != (model.Count{}) {
			t.Errorf("%s: a line without egress has no other side to rely on: %+v", what, afterIn)
		}
	}
	w.c1.sh(t, "ping -q -c 1 10.9.0.12; ping -q -c 1 10.9.0.1; ping -q -c 1 10.8.0.2") // neighbours are known from here on
	w.c1.sh(t, "ip neigh replace 10.9.0.12 lladdr $(ip neigh show 10.9.0.12 | awk '{print $5}') dev eth0 nud permanent; ip neigh replace 10.9.0.1 lladdr $(ip neigh show 10.9.0.1 | awk '{print $5}') dev eth0 nud permanent")
	hush(t, c)
	// 10 requests and 10 replies; each passes both containers' interfaces.
	check("container to container", "ping -q -f -c 10 10.9.0.12", 20, 20, 20)
	// Only c1's interface is passed; the host's uplink is not.
	check("container to its host", "ping -q -f -c 10 10.9.0.1", 20, 0, 10)
	// c1's interface and the uplink are passed, by frames that routing has changed: both are reported.
	check("container to the outside, host tapped too", "ping -q -f -c 10 10.8.0.2", 40, 0, 10)
	// A broadcast leaves c1 once and enters c2, which keeps silent.
	check("broadcast", "ping -q -b -c 3 -i 0.2 -W 0.3 10.9.0.255 >/dev/null 2>&1 || true", 3, 3, 3)
	remove()
}

// A frame with a forged source comes from outside: the address of a tapped
// container does not hide it.
func TestForgedSourceIsReported(t *testing.T) {
	need(t)
	w, _, c, remove := setup(t, captureLine("uid/ids", "c1", "c2"))
	w.outside.sh(t, "ip addr add 10.9.0.11/32 dev lo")
	w.host.sh(t, "echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter; echo 0 > /proc/sys/net/ipv4/conf/up0/rp_filter")
	hush(t, c)
	before := quiet(t, c, "uid/ids")
	w.outside.sh(t, "ping -q -c 5 -i 0.01 -W 0.1 -I 10.9.0.11 10.9.0.12 || true")
	hush(t, c)
	after := quiet(t, c, "uid/ids")
	if n := after.Delivered.Packets - before.Delivered.Packets; n < 10 { // 5 to c2, 5 replies from it to the true c1
		t.Errorf("%d delivered: %+v", n, after)
	}
	remove()
}

func TestTaggedFrames(t *testing.T) {
	need(t)
	eachWay(t, taggedFrames)
}

func taggedFrames(t *testing.T) {
	line := captureLine("uid/ids", "c1")
	tagged := captureLine("uid/vlan", "c1")
	tagged.Filter, tagged.FilterEthernet = "vlan 7 and udp port 9", filter(t, "vlan 7 and udp port 9")
	w, _, c, remove := setup(t, line, tagged)
	before := quiet(t, c, "uid/vlan")
	source, landing := sniff(t, w.host, "v1"), sniff(t, w.tool, "weft0")
	sendTagged(t, w.c1, "eth0", 7, 20)
	sendTagged(t, w.c1, "eth0", 8, 5)
	settled(source)
	l := quiet(t, c, "uid/vlan")
	settled(landing)
	want := source.end()
	want = append(want, only(want, func(f []byte, h packet.Headers) bool { return h.Tags == 1 && f[15] == 7 })...)
	compare(t, "weft0", want, landing.end())
	if n := l.Delivered.Packets - before.Delivered.Packets; n != 20 {
		t.Errorf("the filter took %d tagged frames, want 20", n)
	}
	remove()
}
