package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"weft/model"
)

// lost is what was counted as lost on the way.
func lost(l model.Ledger) uint64 {
	return l.Shed.Packets + l.RingDropped.Packets + l.PathDropped.Packets
}

// resumes waits until packets are delivered that were not before.
func (f *fleet) resumes(tap string, limit time.Duration) {
	f.t.Helper()
	before, err := f.tap(tap)
	if err != nil {
		f.t.Fatal(err)
	}
	f.wait(limit, "packets are delivered again", func() error {
		now, err := f.tap(tap)
		if err == nil && now.Status.Ledger.Delivered.Packets <= before.Status.Ledger.Delivered.Packets {
			err = fmt.Errorf("still %d: %s %s", now.Status.Ledger.Delivered.Packets, now.Status.State, now.Status.Message)
		}
		return err
	})
}

// apartAndTapped is a source and a tool that meet at a relay, a tap between
// them, and a workload under it.
func apartAndTapped(t *testing.T) (*fleet, *workload) {
	t.Helper()
	f := newFleet(t, apart)
	f.controller()
	f.relay()
	f.agents("tool", "web")
	f.applied(tapWeb)
	tap := f.reaches("web", model.TapActive, 10*time.Second)
	if p := tap.Status.Paths[0]; p.Path != "relay" {
		t.Fatalf("the path is %q; between two NATs it can only be the relay", p.Path)
	}
	w := f.work("peer", "web", 30_000, 10*time.Millisecond)
	f.resumes("web", 5*time.Second)
	return f, w
}

// TestKilled ends each program with kill -9 under load and starts it again. The
// workload must not notice, and every packet be accounted for.
func TestKilled(t *testing.T) {
	t.Parallel()
	restarts(t, (*process).kill)
}

// TestRestarted does the same as a service manager does it.
func TestRestarted(t *testing.T) {
	t.Parallel()
	restarts(t, (*process).end)
}

func restarts(t *testing.T, end func(*process)) {
	f, w := apartAndTapped(t)
	restart := map[string]func(){
		controllerHost: func() { f.controller() },
		relayHost:      func() { f.relay() },
		"web":          func() { f.startAgent("web") },
		"tool":         func() { f.startAgent("tool") },
	}
	for _, name := range []string{controllerHost, "web", "tool", relayHost} {
		before, err := f.tap("web")
		if err != nil {
			t.Fatal(err)
		}
		end(f.procs[name])
		time.Sleep(300 * time.Millisecond)
		restart[name]()
		f.reaches("web", model.TapActive, 15*time.Second)
		f.resumes("web", 10*time.Second)
		after, err := f.tap("web")
		if err != nil {
			t.Fatal(err)
		}
		if is, was := after.Status.Ledger, before.Status.Ledger; is.Seen.Packets <= was.Seen.Packets {
			t.Errorf("end of %s: seen went from %d to %d: the account began anew", name, was.Seen.Packets, is.Seen.Packets)
		} else {
			t.Logf("end of %s: %d seen meanwhile, %d more lost and counted", name, is.Seen.Packets-was.Seen.Packets, lost(is)-lost(was))
		}
	}
	w.unharmed()
	l := f.balanced("web")
	if l.Delivered.Packets < l.Seen.Packets/2 {
		t.Errorf("of %d packets seen only %d were delivered", l.Seen.Packets, l.Delivered.Packets)
	}
}

// TestPartition cuts the source's site off from everything but itself, with
// more traffic than its buffer holds. What does not fit is shed and counted.
func TestPartition(t *testing.T) {
	t.Parallel()
	f, w := apartAndTapped(t)
	before := f.reaches("web", model.TapActive, 5*time.Second).Status.Ledger
	uplink := "cloud-nat@internet"
	if err := f.lab.Cut(uplink); err != nil {
		t.Fatal(err)
	}
	// The controller says that the host is away, once three heartbeats are missed.
	f.wait(20*time.Second, "the tap is not called active", func() error {
		tap, err := f.tap("web")
		if err == nil && tap.Status.State == model.TapActive {
			err = fmt.Errorf("still %s", tap.Status.State)
		}
		return err
	})
	tap, err := f.tap("web")
	if err != nil {
		t.Fatal(err)
	}
	says(t, "the tap", tap.Status.Message, "source web is offline: the agent has no session since ")
	if err := f.lab.Heal(uplink); err != nil {
		t.Fatal(err)
	}
	f.online("web")
	f.reaches("web", model.TapActive, 20*time.Second)
	f.resumes("web", 10*time.Second)
	c := w.unharmed()
	after := f.balanced("web")
	if after.Shed.Packets == before.Shed.Packets {
		t.Errorf("nothing was shed: the buffer did not overflow, so nothing is shown; %d requests, %+v", c.Requests, after)
	}
	t.Logf("seen %d, delivered %d, shed %d, lost otherwise %d", after.Seen.Packets, after.Delivered.Packets, after.Shed.Packets,
		after.RingDropped.Packets+after.PathDropped.Packets)
}

// TestSlowTool stops the tool's agent for ten seconds.
func TestSlowTool(t *testing.T) {
	t.Parallel()
	f, w := apartAndTapped(t)
	before := f.reaches("web", model.TapActive, 5*time.Second).Status.Ledger
	tool := f.procs["tool"]
	tool.signal(syscall.SIGSTOP)
	t.Cleanup(func() { tool.signal(syscall.SIGCONT) })
	time.Sleep(10 * time.Second)
	tap, err := f.tap("web")
	if err != nil {
		t.Fatal(err)
	}
	if shed := tap.Status.Ledger.Shed.Packets; shed == before.Shed.Packets {
		t.Errorf("nothing is reported as shed while the tool stands still: %+v", tap.Status.Ledger)
	}
	tool.signal(syscall.SIGCONT)
	f.resumes("web", 15*time.Second)
	f.reaches("web", model.TapActive, 15*time.Second)
	w.unharmed()
	after := f.balanced("web")
	t.Logf("seen %d, delivered %d, shed %d, lost otherwise %d", after.Seen.Packets, after.Delivered.Packets, after.Shed.Packets,
		after.RingDropped.Packets+after.PathDropped.Packets)
}
