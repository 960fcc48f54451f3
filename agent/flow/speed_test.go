package flow

import (
	"net/netip"
	"testing"
	"time"

	"weft/agent/connection"
	"weft/model"
)

// crowd is a table of many connections.
func crowd(n int) []connection.Line {
	out := make([]connection.Line, n)
	for i := range out {
		out[i] = connection.Line{Key: connection.Key{Local: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 24), byte(i >> 16), 1}), uint16(i)), Remote: netip.MustParseAddrPort("10.0.0.2:80"), Protocol: 6, NetNS: 1},
			Workload: "host", Action: model.ActionAllow, First: time.Now(), Last: time.Now(), Began: uint64(i + 1), Sent: connection.Count{Packets: 1, Bytes: 60}}
	}
	return out
}

func BenchmarkReading(b *testing.B) {
	f, err := Open(Config{Dir: b.TempDir(), Interval: time.Hour}, Deps{})
	if err != nil {
		b.Fatal(err)
	}
	lines := crowd(100_000)
	show := func() {
		f.Begin()
		for i := range lines {
			f.See(&lines[i])
		}
		if err := f.End(true); err != nil {
			b.Fatal(err)
		}
	}
	show()
	b.ReportAllocs()
	for b.Loop() {
		for i := range lines {
			lines[i].Sent.Packets++
		}
		show()
	}
}
