package flow

import (
	"testing"

	"weft/agent/connection"
	"weft/packet"
	"weft/wire/flowwire"
	"weft/wire/wirepb"
)

// dropped adds up what records tell of drops.
func dropped(tb testing.TB, f *Flow, after **wirepb.FlowAck) (drops uint64, last flowwire.Record) {
	tb.Helper()
	for {
		b, err := f.Next(*after)
		if err != nil {
			tb.Fatal(err)
		}
		if b == nil {
			return drops, last
		}
		*after = &wirepb.FlowAck{Epoch: b.Epoch, Number: b.Number}
		records, err := flowwire.Decode(b)
		if err != nil {
			tb.Fatal(err)
		}
		for _, r := range records {
			drops += uint64(r.Drops)
			last = r
		}
	}
}

// Each drop is told once: also one of a connection that does nothing else, and
// where the kernel's count began anew.
func TestDropsAreToldOnce(t *testing.T) {
	f, err := Open(Config{Dir: t.TempDir(), Interval: 1}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	var lines table
	var after *wirepb.FlowAck
	c := lines.packet(1, 10, 10)
	c.TCPState, c.SentFlags, c.ReceivedFlags = packet.TCPEstablished, packet.TCPSyn, packet.TCPAck
	for _, step := range []struct {
		drops, want uint64
		reason      string
	}{{3, 3, "TCP_CSUM"}, {3, 0, "TCP_CSUM"}, {5, 2, "SOCKET_BACKLOG"}, {1, 1, "TCP_CSUM"}, {4, 3, "TCP_CSUM"}} {
		c.Drops, c.DropReason = step.drops, step.reason
		lines.show(t, f)
		n, last := dropped(t, f, &after)
		if n != step.want || n > 0 && (last.DropReason != step.reason || last.TCPState != packet.TCPEstablished || last.SentFlags != packet.TCPSyn || last.ReceivedFlags != packet.TCPAck) {
			t.Errorf("%d dropped in all, for %s: told of %d, %d expected; %+v", step.drops, step.reason, n, step.want, last)
		}
	}
}

// What policy turns down never arrives, and its line knows how much that was.
func TestRefusedPacketsAreDrops(t *testing.T) {
	f, err := Open(Config{Dir: t.TempDir(), Interval: 1}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	var lines table
	var after *wirepb.FlowAck
	for _, want := range []uint64{2, 2} { // one each way, again and again
		lines.packet(1, 10, 10).Refused = true
		lines.show(t, f)
		if n, last := dropped(t, f, &after); n != want || last.DropReason != policyDrop {
			t.Errorf("told of %d for %q", n, last.DropReason)
		}
	}
	if n := testing.AllocsPerRun(100, func() { drops(&connection.Line{Refused: true}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
