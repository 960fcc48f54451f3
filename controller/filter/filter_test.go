package filter

import (
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/bpf"

	"weft/wire/wirepb"
)

func run(t *testing.T, code []*wirepb.BPFInstruction, packet []byte) bool {
	t.Helper()
	raw := make([]bpf.RawInstruction, len(code))
	for i, c := range code {
		raw[i] = bpf.RawInstruction{Op: uint16(c.Op), Jt: uint8(c.Jt), Jf: uint8(c.Jf), K: c.K}
	}
	insts, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatalf("cannot disassemble %v", raw)
	}
	vm, err := bpf.NewVM(insts)
	if err != nil {
		t.Fatal(err)
	}
	n, err := vm.Run(packet)
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

// tcp80 is an IPv4 TCP segment from 10.0.0.1:4660 to 10.0.0.2:80, SYN.
var tcp80 = []byte{
	0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
	0x12, 0x34, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0,
}

func TestProgramsDecideRealPackets(t *testing.T) {
	ether := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00}, tcp80...)
	for _, c := range []struct {
		expr       string
		ether, raw bool
	}{
		{"tcp port 80 or udp port 53", true, true},
		{"tcp port http", true, true},
		{"udp", false, false},
		{"host 10.0.0.2", true, true},
		{"net 10.0.0.0/8 and not port 22", true, true},
		{"net 10.0", true, true},
		{"src host 10.0.0.2", false, false},
		{"tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn", true, true},
		{"tcp[13:1] & 2 != 0 and ip[2:2] >= 40", true, true},
		{"ip6 host 2001:db8::1 or tcp", true, true},
		{"len - 14 = 40", true, false},
		{"greater 40", true, true},
		{"portrange 70-90", true, true},
		{`ip proto \tcp`, true, true},
		{"ether src 02:00:00:00:00:01", true, false},
		{"(tcp&&port 80)||icmp", true, true},
		{"port ftp or ftp-data or http", true, true},
		{"host 10.0.0.9 or 10.0.0.1", true, true},
		{"tcp[((tcp[12:1] & 0xf0) >> 2):1] = 0 or tcp", true, true},
		{"icmp[icmptype] != icmp-echo or tcp", true, true},
		{"ip6[6] = 58 or icmp6[icmp6type] == icmp6-echo or ip", true, true},
		{"ether[0] & 1 = 0 and ip[16] < 224", true, false},
		{"vlan 5 or tcp", false, false},
		{"ether host 02:00:00:00:00:01 and dst net 10.0.0.0 mask 255.0.0.0", true, false},
		{"ip multicast or tcp", true, true},
		{"dst portrange 70-90 and less 100", true, true},
	} {
		p, err := Compile(c.expr)
		if err != nil {
			t.Errorf("%s: %v", c.expr, err)
			continue
		}
		if got := run(t, p.Ethernet, ether); got != c.ether {
			t.Errorf("%s on Ethernet: %t", c.expr, got)
		}
		if got := run(t, p.Raw, tcp80); got != c.raw {
			t.Errorf("%s on raw IP: %t", c.expr, got)
		}
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	for expr, want := range map[string]string{
		"tcp prot 80":                       `holds "prot", which is no word of pcap-filter(7)`,
		"tcp port":                          "syntax error",
		"host example.org":                  "names of hosts are not looked up",
		"host 10.0.0.1 or example.org":      "names of hosts are not looked up",
		"tcp and udp port 99999":            "illegal port number",
		"tcp and ether proto 0x86dd and ip": "rejects all packets",
		"port nosuchservice":                "unknown port",
		"tcp port 80 – 90":                  "plain ASCII",
		strings.Repeat("ip or ", 1000):      "bytes long; 4096 at most",
	} {
		if _, err := Compile(expr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: got %v, want ...%s...", expr, err, want)
		}
	}
}

func TestEmptyTakesEverything(t *testing.T) {
	if p, err := Compile(" \n"); err != nil || p.Ethernet != nil || p.Raw != nil {
		t.Errorf("got %v, %v", p, err)
	}
}

func TestCompileFromManyGoroutines(t *testing.T) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for _, e := range []string{"tcp", "udp", "port 1", "port 2", "nonsense"} {
				if _, err := Compile(e); (err != nil) != (e == "nonsense") {
					t.Errorf("%s: %v", e, err)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{"tcp port 80", "host 1.2.3.4", "ip[0] & 0xf != 5", "((", "not", "a.b.c", `\`, "net ::/0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		p, err := Compile(expr)
		if err == nil && strings.TrimSpace(expr) != "" && (len(p.Ethernet) == 0 || len(p.Raw) == 0) {
			t.Errorf("%q compiles to nothing", expr)
		}
	})
}
