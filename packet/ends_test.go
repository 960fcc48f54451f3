package packet

import (
	"encoding/hex"
	"testing"
)

func TestEnds(t *testing.T) {
	frame, err := hex.DecodeString("02000000000202000000000108004500001c00000000401100" + "00c0000201c00002020035123400080000")
	if err != nil {
		t.Fatal(err)
	}
	a, b, protocol, ok := Ends(frame, Ethernet)
	if !ok || protocol != ProtoUDP || a.String() != "192.0.2.1:53" || b.String() != "192.0.2.2:4660" {
		t.Errorf("ends are %v %v %d %v", a, b, protocol, ok)
	}
	for n := range frame[:38] {
		if _, _, _, ok := Ends(frame[:n], Ethernet); ok {
			t.Errorf("a frame cut to %d bytes has ends", n)
		}
	}
	if n := testing.AllocsPerRun(100, func() { Ends(frame, Ethernet) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzEnds(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint8(0))
	f.Fuzz(func(_ *testing.T, b []byte, link uint8) { Ends(b, Link(link%6)) })
}
