package bpf

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"weft/internal/testreq"
)

// compile lets tcpdump turn a pcap-filter expression into classic BPF.
func compile(t testing.TB, linktype, expression string) []Instruction {
	t.Helper()
	out, err := exec.Command("tcpdump", "-ddd", "-y", linktype, expression).Output()
	if err != nil {
		t.Fatalf("tcpdump -ddd %q: %v", expression, err)
	}
	var prog []Instruction
	lines := bufio.NewScanner(bytes.NewReader(out))
	for first := true; lines.Scan(); first = false {
		if first {
			continue
		}
		var ins Instruction
		if _, err := fmt.Sscan(lines.Text(), &ins.Op, &ins.Jt, &ins.Jf, &ins.K); err != nil {
			t.Fatal(err)
		}
		prog = append(prog, ins)
	}
	return prog
}

func makeMaps(t testing.TB) map[string]*ebpf.Map {
	t.Helper()
	specs, err := MapSpecs(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	maps := make(map[string]*ebpf.Map)
	for name, spec := range specs {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Cleanup(func() { m.Close() })
		maps[name] = m
	}
	return maps
}

var expressions = []string{
	"", "tcp port 80 or udp port 53", "ip6", "vlan 10", "vlan and tcp port 80", "host 10.0.0.1 and not port 22",
	"tcp[tcpflags] & (tcp-syn|tcp-fin) != 0", "ip6 and tcp dst port 443", "portrange 1000-2000", "less 100", "greater 1500",
	"ether host 02:00:00:00:00:01", "ether[14:4] = 0x45000054", "tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420",
	"icmp or arp", "net 10.0.0.0/8 and not net 10.1.0.0/16", "ip[2:2] % 7 = 3", "ether multicast", "ip[8] / 2 > 10",
}

func TestLoadAcceptsEveryFilter(t *testing.T) {
	testreq.Need(t, testreq.Root, testreq.BPF, "tcpdump")
	maps := makeMaps(t)
	for _, expression := range expressions {
		for _, raw := range []bool{false, true} {
			if raw && (strings.Contains(expression, "ether") || strings.Contains(expression, "vlan") || strings.Contains(expression, "arp")) {
				continue
			}
			linktype := "EN10MB"
			if raw {
				linktype = "RAW"
			}
			var filter []Instruction
			if expression != "" {
				filter = compile(t, linktype, expression)
			}
			pair, err := Load(Line{Slot: 3, Snaplen: 96, Filter: filter, Raw: raw}, maps)
			if err != nil {
				t.Errorf("%q raw=%v: %+v", expression, raw, err)
				continue
			}
			pair.Close()
		}
	}
}

func TestBadFiltersAreRefused(t *testing.T) {
	ret := Instruction{Op: 0x06, K: 1}
	for name, prog := range map[string][]Instruction{
		"empty":            {},
		"no return":        {{Op: 0x28, K: 12}},
		"jump out":         {{Op: 0x15, Jt: 9}, ret},
		"far jump":         {{Op: 0x05, K: 0xffffffff}, ret},
		"memory":           {{Op: 0x60, K: 16}, ret},
		"store":            {{Op: 0x02, K: 99}, ret},
		"ancillary":        {{Op: 0x20, K: 0xfffff000}, ret},
		"division":         {{Op: 0x34, K: 0}, ret},
		"shift":            {{Op: 0x64, K: 32}, ret},
		"unknown jump":     {{Op: 0xf5}, ret},
		"unknown alu":      {{Op: 0xf4}, ret},
		"unknown load":     {{Op: 0xe0}, ret},
		"long":             make([]Instruction, maxFilter+1),
		"load X from data": {{Op: 0x21, K: 1}, ret},
	} {
		if _, err := translate(prog, false); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzTranslate: any program is refused or translated, never a panic.
func FuzzTranslate(f *testing.F) {
	f.Add([]byte{0x28, 0, 0, 0, 12, 0, 0, 0, 0x06, 0, 0, 0, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		var prog []Instruction
		for ; len(data) >= 8 && len(prog) < 64; data = data[8:] {
			prog = append(prog, Instruction{Op: binary.LittleEndian.Uint16(data), Jt: data[2], Jf: data[3], K: binary.LittleEndian.Uint32(data[4:])})
		}
		for _, raw := range []bool{false, true} {
			if body, err := translate(prog, raw); err == nil && len(body) == 0 {
				t.Fatal("no code and no error")
			}
		}
	})
}
