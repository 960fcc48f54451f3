package flow

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"weft/agent/connection"
	"weft/model"
	"weft/wire/flowwire"
	"weft/wire/wirepb"
)

// table is a connection table, and what its connections have really done.
type table struct {
	lines map[uint16]*connection.Line
}

func (t *table) packet(port uint16, sent, received uint64) *connection.Line {
	if t.lines == nil {
		t.lines = map[uint16]*connection.Line{}
	}
	c := t.lines[port]
	if c == nil {
		c = &connection.Line{Key: connection.Key{Local: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port), Remote: netip.MustParseAddrPort("10.0.0.2:80"), Protocol: 6, NetNS: 1},
			Workload: "host", Action: model.ActionAllow, First: time.Now(), Began: uint64(time.Now().UnixNano())}
		t.lines[port] = c
	}
	c.Sent.Packets, c.Sent.Bytes = c.Sent.Packets+1, c.Sent.Bytes+sent
	c.Received.Packets, c.Received.Bytes = c.Received.Packets+1, c.Received.Bytes+received
	c.Last = time.Now()
	return c
}

func (t *table) show(tb testing.TB, f *Flow) {
	tb.Helper()
	f.Begin()
	for _, c := range t.lines {
		f.See(c)
	}
	if err := f.End(true); err != nil {
		tb.Fatal(err)
	}
}

// taken is what a controller has of a flow, by the client's port.
type taken struct {
	after  *wirepb.FlowAck
	began  map[uint16]int
	bytes  map[uint16]uint64
	lost   uint64
	number int
}

func (c *taken) take(tb testing.TB, f *Flow) {
	tb.Helper()
	if c.began == nil {
		c.began, c.bytes = map[uint16]int{}, map[uint16]uint64{}
	}
	for {
		b, err := f.Next(c.after)
		if err != nil {
			tb.Fatal(err)
		}
		if b == nil {
			return
		}
		c.after = &wirepb.FlowAck{Epoch: b.Epoch, Number: b.Number}
		c.number++
		c.lost = b.Lost
		records, err := flowwire.Decode(b)
		if err != nil {
			tb.Fatal(err)
		}
		for _, r := range records {
			if r.New {
				c.began[r.Local.Port()]++
			}
			c.bytes[r.Local.Port()] += r.Sent.Bytes + r.Received.Bytes
		}
	}
}

func openFlow(tb testing.TB, dir string, interval time.Duration) *Flow {
	tb.Helper()
	f, err := Open(Config{Dir: dir, Interval: interval}, Deps{})
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

func TestRecordsAddUp(t *testing.T) {
	f := openFlow(t, t.TempDir(), time.Nanosecond)
	var world table
	var controller taken
	world.packet(1, 100, 1000)
	world.show(t, f)
	world.show(t, f) // nothing has happened
	world.packet(1, 10, 0)
	world.packet(2, 1, 1)
	world.show(t, f)
	world.packet(1, 5, 5).Ended = true
	world.show(t, f)
	controller.take(t, f)
	if controller.bytes[1] != 1120 || controller.bytes[2] != 2 || controller.began[1] != 1 || controller.began[2] != 1 {
		t.Errorf("bytes %v, begun %v", controller.bytes, controller.began)
	}
	if controller.number != 3 {
		t.Errorf("%d batches; a reading in which nothing happened makes none", controller.number)
	}
}

func TestOneThatGoesOnWaitsForItsInterval(t *testing.T) {
	f := openFlow(t, t.TempDir(), time.Hour)
	var world table
	var controller taken
	world.packet(1, 100, 0)
	world.show(t, f)
	world.packet(1, 100, 0)
	world.show(t, f)
	controller.take(t, f)
	if controller.bytes[1] != 100 {
		t.Errorf("%d bytes after the first reading, want those of the first record", controller.bytes[1])
	}
	world.lines[1].Ended = true
	world.show(t, f)
	controller.take(t, f)
	if controller.bytes[1] != 200 {
		t.Errorf("%d bytes at the end, want all", controller.bytes[1])
	}
}

// The same ports within a second are another connection.
func TestPortsUsedAgain(t *testing.T) {
	f := openFlow(t, t.TempDir(), time.Nanosecond)
	var world table
	var controller taken
	world.packet(1, 100, 100)
	world.show(t, f)
	delete(world.lines, 1)
	world.packet(1, 7, 0)
	world.show(t, f)
	controller.take(t, f)
	if controller.began[1] != 2 || controller.bytes[1] != 207 {
		t.Errorf("%d connections with %d bytes, want 2 with 207", controller.began[1], controller.bytes[1])
	}
}

func TestAcknowledgedIsForgottenAndTheRestStays(t *testing.T) {
	dir := t.TempDir()
	f := openFlow(t, dir, time.Nanosecond)
	var world table
	for range 3 {
		world.packet(1, 1, 0)
		world.show(t, f)
	}
	first, err := f.Next(nil)
	if err != nil {
		t.Fatal(err)
	}
	f.Acknowledge(&wirepb.FlowAck{Epoch: first.Epoch, Number: first.Number})
	var again taken
	again.take(t, openFlow(t, dir, time.Nanosecond)) // another process
	if again.number != 2 {
		t.Errorf("%d batches are left, want 2", again.number)
	}
	f.Acknowledge(again.after)
	if b, err := f.Next(nil); b != nil || err != nil {
		t.Errorf("all is acknowledged, and %v %v is left", b, err)
	}
}

func TestAFullSpoolLosesTheOldestAndSaysSo(t *testing.T) {
	f, err := Open(Config{Dir: t.TempDir(), Interval: time.Nanosecond, Room: 2000}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	var world table
	for range 20 {
		world.packet(1, 1, 0)
		world.show(t, f)
	}
	var controller taken
	controller.take(t, f)
	if controller.lost == 0 || controller.lost+uint64(controller.number) != 20 {
		t.Errorf("%d came and %d were lost of 20", controller.number, controller.lost)
	}
}

// A damaged batch costs itself alone.
func TestADamagedBatchIsLeftOut(t *testing.T) {
	dir := t.TempDir()
	f := openFlow(t, dir, time.Nanosecond)
	var world table
	for range 3 {
		world.packet(1, 1, 0)
		world.show(t, f)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.batch"))
	if err != nil || len(files) != 3 {
		t.Fatal(files, err)
	}
	raw, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 0x55
	if err := os.WriteFile(files[1], raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[2]+".new", raw, 0o600); err != nil { // half written
		t.Fatal(err)
	}
	var controller taken
	controller.take(t, openFlow(t, dir, time.Nanosecond))
	if controller.number != 2 {
		t.Errorf("%d batches, want the 2 that are whole", controller.number)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 2 {
		t.Errorf("%v is left", left)
	}
}
