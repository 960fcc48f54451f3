package main

import "testing"

func TestRulesAreDistinct(t *testing.T) {
	const n = 100_000
	rules := append(many(0, n), many(64<<16, n)...)
	rules = append(rules, missed())
	seen := map[rule]bool{}
	for _, r := range rules {
		if seen[r] {
			t.Fatalf("%v is there twice", r)
		}
		seen[r] = true
	}
	for r, want := range map[rule]uint8{firstUDP(): protocolUDP, lastUDP(n): protocolUDP, lastTCP(n): protocolTCP, missed(): protocolUDP} {
		if r.protocol != want || !seen[r] {
			t.Errorf("%v is not what it is called", r)
		}
	}
}

// A header whose checksum is known.
func TestChecksum(t *testing.T) {
	header := []byte{0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7}
	if got := checksum(header); got != 0xb861 {
		t.Errorf("checksum %#x", got)
	}
}

func TestFlowsAreDistinct(t *testing.T) {
	f := &frames{b: newBatch(1, frameLength)}
	seen := map[string]bool{}
	for flow := range 3 * flowPorts {
		f.write(0, firstUDP(), flow)
		key := string(f.b.buffers[0][26:38]) // addresses and ports
		if seen[key] {
			t.Fatalf("flow %d is another's", flow)
		}
		seen[key] = true
	}
}

func TestGrouped(t *testing.T) {
	for n, want := range map[int]string{7: "7", 999: "999", 1000: "1,000", 100_000: "100,000", 1_234_567: "1,234,567"} {
		if got := grouped(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

func TestField(t *testing.T) {
	lines := []string{"Ip: Forwarding InReceives", "Ip: 1 42", "Udp: InDatagrams RcvbufErrors", "Udp: 5 6"}
	if n, err := field(lines, "Udp:", "RcvbufErrors"); n != 6 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	if _, err := field(lines, "Tcp:", "InSegs"); err == nil {
		t.Error("what is not there is found")
	}
}
