package flow

import (
	"net/netip"
	"testing"
	"time"

	"weft/wire/flowwire"
)

func observed(n int) []flowwire.Record {
	out := make([]flowwire.Record, n)
	for i := range out {
		out[i] = flowwire.Record{Local: netip.MustParseAddrPort("192.0.2.1:77"), Remote: netip.MustParseAddrPort("192.0.2.2:53"), Protocol: 17, Observed: true, New: true,
			Action: "Allow", First: time.Now(), Last: time.Now(), Sent: flowwire.Count{Packets: 1, Bytes: 30}}
	}
	return out
}

// What was observed goes with what the table says, and is no line of it.
func TestObservedRecordsGoWithTheOthers(t *testing.T) {
	p := newProcess(t)
	var world table
	var controller taken
	p.f.Observe(observed(3))
	world.packet(1, 100, 1000)
	world.show(t, p.f)
	controller.take(t, p.f)
	if controller.bytes[77] != 90 || controller.began[77] != 3 || controller.bytes[1] != 1100 {
		t.Errorf("bytes %v, begun %v", controller.bytes, controller.began)
	}
	// Another process takes the account over, where the last batch was observed.
	p.f.Observe(observed(1))
	world.show(t, p.f)
	p.start()
	world.packet(1, 10, 0)
	world.show(t, p.f)
	controller.take(t, p.f)
	if controller.bytes[77] != 120 || controller.bytes[1] != 1110 || controller.began[1] != 1 {
		t.Errorf("after a restart: bytes %v, begun %v", controller.bytes, controller.began)
	}
	if n := len(p.f.marks.seen); n != 1 {
		t.Errorf("%d marks for one connection", n)
	}
}

// Where nobody reads the table for long, what is observed is bounded and counted.
func TestObservedRecordsAreBounded(t *testing.T) {
	f := openFlow(t, t.TempDir(), time.Hour)
	for range 5 {
		f.Observe(observed(flowwire.MaxRecords))
	}
	var world table
	var controller taken
	world.show(t, f)
	world.packet(1, 1, 1)
	world.show(t, f)
	controller.take(t, f)
	if controller.began[77] != 4*flowwire.MaxRecords || controller.lost != flowwire.MaxRecords {
		t.Errorf("%d records, %d lost", controller.began[77], controller.lost)
	}
}
