package conversations

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"weft/cmd/weft/capturefile"
	"weft/internal/testreq"
	"weft/packet"
)

// table is lines as `tshark -z conv` has them, in an order of our own: kind, ends
// with the lesser first, and packets and bytes each way.
type table map[string]int

// tsharkOptions make tshark look at packets one by one: a fragment but the first
// belongs to no TCP or UDP conversation then.
var tsharkOptions = []string{"-n", "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE", "-o", "ipv6.tso_support:TRUE"}

// strangers are what tshark is told not to look into: it counts what is in a tunnel
// beside the tunnel, and gives packets of these applications other conversations
// than their addresses and ports say.
var strangers = []string{"gre", "vxlan", "geneve", "teredo", "gtp", "l2tp", "capwap", "udpencap", "snmp", "tftp", "sip", "rtsp", "h225"}

var conversationLine = regexp.MustCompile(`^(\S+)\s+<->\s+(\S+)\s+(\d+) (\d+ \S+)\s+(\d+) (\d+ \S+)\s`)

// fromTshark is what `tshark -q -z conv,…` says of a file.
func fromTshark(t testing.TB, file string) (table, error) {
	t.Helper()
	args := append([]string{"-q", "-r", file}, tsharkOptions...)
	for _, name := range strangers {
		args = append(args, "--disable-protocol", name)
	}
	for _, kind := range []string{"tcp", "udp", "sctp", "ip", "ipv6"} {
		args = append(args, "-z", "conv,"+kind)
	}
	cmd := exec.Command("tshark", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("tshark: %w: %s", err, stderr.String())
	}
	found, kind := table{}, ""
	for _, line := range strings.Split(string(out), "\n") {
		if name, is := strings.CutSuffix(line, " Conversations"); is {
			kind = name
			continue
		}
		m := conversationLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		// The left columns are what the second end sent.
		found.add(kind, m[1], m[2], m[5]+" "+m[6], m[3]+" "+m[4])
	}
	return found, nil
}

func (t table) add(kind, a, b, fromA, fromB string) {
	if a > b {
		a, b, fromA, fromB = b, a, fromB, fromA
	}
	if a == b && fromA < fromB { // to itself: tshark and we may differ in which end is which
		fromA, fromB = fromB, fromA
	}
	t[fmt.Sprintf("%s %s <-> %s: -> %s, <- %s", kind, a, b, fromA, fromB)]++
}

// rounded writes bytes as tshark does.
func rounded(n uint64) string {
	for _, unit := range []struct {
		size uint64
		name string
	}{{1e12, "TB"}, {1e9, "GB"}, {1e6, "MB"}, {1e3, "kB"}} {
		if n/unit.size >= 10 {
			return strconv.FormatUint(n/unit.size, 10) + " " + unit.name
		}
	}
	return strconv.FormatUint(n, 10) + " bytes"
}

var transports = map[uint8]string{packet.ProtoTCP: "TCP", packet.ProtoUDP: "UDP", packet.ProtoSCTP: "SCTP"}

// ours is the same of what weft reads.
func ours(s *Summary) table {
	out := table{}
	type pair struct{ a, b netip.Addr }
	addresses := map[pair]*[2]Count{}
	for i := range s.Conversations {
		c := &s.Conversations[i]
		sent, received := c.Sent, c.Received
		p, swap := pair{c.Client.Addr(), c.Server.Addr()}, false
		if p.a.Compare(p.b) > 0 {
			p, swap = pair{p.b, p.a}, true
		}
		both := addresses[p]
		if both == nil {
			both = &[2]Count{}
			addresses[p] = both
		}
		for n, side := range []Count{sent, received} {
			if p.a.Is6() { // tshark counts fragments of IPv4 only
				side.Packets -= side.Fragments
				side.WireBytes -= side.FragmentBytes
			}
			switch {
			case p.a == p.b:
				n = 0
			case swap:
				n = 1 - n
			}
			both[n].Packets += side.Packets
			both[n].WireBytes += side.WireBytes
		}
		kind := transports[c.Protocol]
		for _, side := range []*Count{&sent, &received} {
			side.Packets -= side.Fragments
			side.WireBytes -= side.FragmentBytes
		}
		if kind == "" || sent.Packets+received.Packets == 0 || c.Client.Port()|c.Server.Port() == 0 {
			continue
		}
		out.add(kind, endpoint(c.Client), endpoint(c.Server), text(sent), text(received))
	}
	for p, both := range addresses {
		if both[0].Packets+both[1].Packets == 0 {
			continue
		}
		kind := "IPv4"
		if p.a.Is6() {
			kind = "IPv6"
		}
		out.add(kind, p.a.String(), p.b.String(), text(both[0]), text(both[1]))
	}
	return out
}

func text(c Count) string { return strconv.FormatUint(c.Packets, 10) + " " + rounded(c.WireBytes) }

// endpoint is an end as tshark writes it.
func endpoint(a netip.AddrPort) string { return a.Addr().String() + ":" + strconv.Itoa(int(a.Port())) }

func readFile(t testing.TB, name string, o Options) (*Summary, error) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := capturefile.NewReader(f)
	if err != nil {
		return nil, err
	}
	return Read(r, o)
}

// difference is the lines that one has and the other has not.
func difference(a, b table) (out []string) {
	for _, line := range slices.Sorted(maps.Keys(a)) {
		if n := a[line] - b[line]; n > 0 {
			out = append(out, line)
		}
	}
	return out
}

// Your own files: WEFT_PCAPS=DIRECTORY go test -v -run Own ./cmd/weft/conversations
func TestOwnFilesAgreeWithTshark(t *testing.T) {
	dir := os.Getenv("WEFT_PCAPS")
	if dir == "" {
		t.Skip("WEFT_PCAPS names no directory")
	}
	testreq.Need(t, "tshark")
	var files []string
	if err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, name)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	same := 0
	for _, name := range files {
		want, err := fromTshark(t, name)
		if err != nil {
			t.Logf("%s: left out: %v", name, err)
			continue
		}
		s, err := readFile(t, name, Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := ours(s)
		missing, extra := difference(want, got), difference(got, want)
		if len(missing)+len(extra) == 0 {
			same++
			continue
		}
		t.Errorf("%s:\nonly tshark:\n  %s\nonly weft:\n  %s", name, strings.Join(missing[:min(len(missing), 10)], "\n  "), strings.Join(extra[:min(len(extra), 10)], "\n  "))
	}
	t.Logf("%d of %d files agree", same, len(files))
}
