package bpf

import (
	"encoding/binary"
	"testing"
	"time"

	"weft/agent/connection"
	"weft/agent/datapath/datapathtest"
	"weft/model"
	"weft/policy"
)

// aged puts lines into the table whose last packet was some time ago: each of one
// packet, of 100 bytes.
func aged(t *testing.T, d *Driver, first, n int, protocol uint8, flags uint32, ago time.Duration, rule uint64) {
	t.Helper()
	now, err := bootTime()
	if err != nil {
		t.Fatal(err)
	}
	keys, values := make([]policyConnKey, n), make([]policyConn, n)
	for i := range keys {
		keys[i] = policyConnKey{Family: 4, Protocol: protocol, Netns: 1, RemotePort: 80}
		binary.BigEndian.PutUint32(keys[i].Local[:], uint32(first+i))
		at := uint64(now - ago)
		values[i] = policyConn{FirstNs: at, LastNs: at, Direction: 1, Action: actionNumbers[model.ActionAllow], Slot: 1, Flags: flags, Rule: rule, SentPackets: 1, SentBytes: 100}
	}
	if _, err := d.objects.Conns.BatchUpdate(keys, values, nil); err != nil {
		t.Fatal(err)
	}
	d.goThrough() // no program has told of them
}

// Exactly what was shown as ended leaves the table, and rules' counts keep it.
func TestForgetsWhatWasShownAsEnded(t *testing.T) {
	d, _ := metered(t)
	const rule, silent, open, closed, late = 7, 20_000, 500, 300, 10
	aged(t, d, 0, silent, 17, 0, keepUnanswered+time.Second, rule)
	aged(t, d, 100_000, open, 6, connEstablished|connAnswered, time.Hour, rule)
	aged(t, d, 200_000, closed, 6, connEstablished|connClosed, keepEnded+time.Second, rule)
	shown := func() (lines, ended int) {
		t.Helper()
		err := d.Connections(func(c *connection.Line) bool {
			if c.NetNS == 1 {
				lines++
				if c.Ended {
					ended++
				}
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		return lines, ended
	}
	forget := func() {
		t.Helper()
		if err := d.Forget(); err != nil {
			t.Fatal(err)
		}
	}
	packets := func() uint64 {
		t.Helper()
		list, err := d.Counts()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			if c.Rule == policy.RuleID(rule) {
				return c.Packets
			}
		}
		return 0
	}
	forget() // of a visit that there was not
	if lines, ended := shown(); lines != silent+open+closed || ended != silent+closed {
		t.Fatalf("%d lines, %d ended", lines, ended)
	}
	if got := packets(); got != silent+open+closed {
		t.Errorf("%d packets before", got)
	}
	aged(t, d, 0, late, 17, 0, 0, rule)                                         // go on
	aged(t, d, 300_000, late, 17, 0, keepUnanswered-time.Second, rule)          // have time left
	aged(t, d, 200_000, late, 6, connEstablished|connClosed, keepEnded/2, rule) // were closed a moment ago only
	forget()
	const left = open + 3*late
	if lines, ended := shown(); lines != left || ended != 0 {
		t.Errorf("%d lines are left, %d ended; want %d", lines, ended, left)
	}
	for range 2 {
		if got := packets(); got != silent+open+closed+late {
			t.Errorf("%d packets after", got)
		}
		forget()
	}
	// A visit that was broken off says nothing of the rest.
	aged(t, d, 0, late, 17, 0, keepUnanswered+time.Second, rule)
	if err := d.Connections(func(*connection.Line) bool { return false }); err != nil {
		t.Fatal(err)
	}
	forget()
	if lines, ended := shown(); lines != left || ended != late {
		t.Errorf("%d lines, %d ended after a visit that was broken off", lines, ended)
	}
}

// Who reads the table is called when it fills, and while it is full what has ended
// is shown as such sooner.
func TestACrowdCallsForAReading(t *testing.T) {
	pins, s := mountBPF(t), datapathtest.NewSite(t)
	called := make(chan struct{}, 1)
	const room = reuses * alarmShare / 2
	m, w := opened(t, s, Config{CgroupRoot: s.Root, PinDir: pins, Connections: room}, Deps{Crowded: func() {
		select {
		case called <- struct{}{}:
		default:
		}
	}})
	if err := m.Apply(t.Context(), w.State); err != nil {
		t.Fatal(err)
	}
	visit := func() (ended int) {
		t.Helper()
		if err := m.Connections(func(c *connection.Line) bool {
			if c.NetNS == 1 && c.Ended {
				ended++
			}
			return true
		}); err != nil {
			t.Fatal(err)
		}
		return ended
	}
	visit() // sets the alarm
	inside(t, "reuse", s.Machine, s.Endpoint("machine").Cgroup)
	select {
	case <-called:
	case <-time.After(20 * time.Second):
		t.Fatalf("nobody was called when %d connections had begun where there is room for %d", reuses, room)
	}
	visit()
	if m.Filling() {
		t.Error("the table is said to fill by lines that made way")
	}
	aged(t, m.Driver, 0, room/2, 17, 0, keepUnanswered/2, 7)
	if n := visit(); n != 0 {
		t.Errorf("%d lines are said to have ended while there is room", n)
	}
	if !m.Filling() {
		t.Error("the table is not said to fill")
	}
	if n := visit(); n != room/2 {
		t.Errorf("%d lines are said to have ended in a table that fills", n)
	}
	if err := m.Forget(); err != nil {
		t.Fatal(err)
	}
	if m.Filling() {
		t.Error("the table is said to fill when it has been emptied")
	}
}
