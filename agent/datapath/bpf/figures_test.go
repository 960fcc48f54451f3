package bpf

import (
	"os/exec"
	"testing"
	"time"

	"weft/agent/connection"
	"weft/agent/datapath/datapathtest"
	"weft/model"
	"weft/policy"
)

// metered is a machine on which nothing is turned down.
func metered(t *testing.T) (*Driver, *datapathtest.Site) {
	t.Helper()
	m, w := unapplied(t)
	if err := m.Apply(t.Context(), w.State); err != nil {
		t.Fatal(err)
	}
	return m.Driver, m.site
}

func unapplied(t *testing.T) (inMachine, *datapathtest.World) {
	t.Helper()
	pins := mountBPF(t)
	s := datapathtest.NewSite(t)
	d, err := Open(Config{CgroupRoot: s.Root, PinDir: pins}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	m := inMachine{d, s}
	t.Cleanup(func() {
		if err := m.Remove(); err != nil {
			t.Error(err)
		}
	})
	return m, s.World(model.ModeObserve)
}

// linesOf are the lines between two ports, seen from the first.
func linesOf(t *testing.T, d *Driver, x told) (out []connection.Line) {
	t.Helper()
	err := d.Connections(func(c *connection.Line) bool {
		if c.Local == x.Local && c.Remote == x.Remote {
			out = append(out, *c)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What the kernel hands on as one is counted as what a wire would have carried,
// which is what the kernel says of its own sockets.
func TestSuperFramesAreCountedAsOnAWire(t *testing.T) {
	d, s := metered(t)
	if out, err := exec.Command("nsenter", "--net="+s.Machine, "ip", "link", "set", "lo", "mtu", "1500").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for what, header := range map[string]uint64{"bulk4": 20 + 20, "bulk6": 40 + 20, "segments": 20 + 8} {
		for _, x := range inside(t, what, s.Machine, s.Endpoint("machine").Cgroup) {
			list := linesOf(t, d, x)
			if len(list) != 1 {
				t.Fatalf("%s: %d lines of %+v", what, len(list), x)
			}
			c := &list[0]
			if c.Sent.Packets != x.Sent || c.Received.Packets != x.Received {
				t.Errorf("%s: %+v sent, %+v received; the socket says %+v", what, c.Sent, c.Received, x)
			}
			// Options come on top: timestamps on every packet of TCP, more on the first.
			least, most := x.SentBytes+x.Sent*header, x.SentBytes+x.Sent*header
			if what != "segments" {
				least, most = least+x.Sent*12, most+x.Sent*40
			}
			if c.Sent.Bytes < least || c.Sent.Bytes > most {
				t.Errorf("%s: %d bytes sent, from %d to %d expected", what, c.Sent.Bytes, least, most)
			}
		}
	}
}

// Connections that take the ports of others within a reading lose nothing.
func TestPortsComeAgain(t *testing.T) {
	d, s := metered(t)
	truth := inside(t, "reuse", s.Machine, s.Endpoint("machine").Cgroup)
	counts := func() (packets uint64) {
		t.Helper()
		list, err := d.Counts()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			packets += c.Packets
		}
		return packets
	}
	before := counts()
	list := linesOf(t, d, truth[0])
	if len(truth) != reuses || len(list) != reuses {
		t.Fatalf("%d connections, %d lines", len(truth), len(list))
	}
	began := map[uint64]bool{}
	var bytes, sent uint64
	for i := range list {
		if c := &list[i]; c.Direction == policy.Egress {
			began[c.Began] = true
			bytes, sent = bytes+c.Sent.Bytes, sent+c.Sent.Packets
		}
	}
	var want, packets uint64
	for _, x := range truth {
		want, packets = want+x.SentBytes+x.Sent*(20+20+12), packets+x.Sent
	}
	// A SYN has eight bytes more of options; some are sent twice, where the other end
	// has not let go of the connection before.
	more := bytes - want
	if len(began) != reuses || sent != packets || more%8 != 0 || more < reuses*8 || more > 2*reuses*8 {
		t.Errorf("%d connections, %d packets of %d bytes sent; %d packets of %d bytes expected", len(began), sent, bytes, packets, want)
	}
	// The second reading has nothing of those that made way, and rules' counts have
	// it all still.
	if list = linesOf(t, d, truth[0]); len(list) != 1 {
		t.Errorf("%d lines at the second reading", len(list))
	}
	if after := counts(); after != before || after < packets {
		t.Errorf("rules have counted %d packets, then %d", before, after)
	}
}

// What a container did before anybody knew of it is its own, not its machine's.
func TestKnownLaterThanItSpoke(t *testing.T) {
	m, w := unapplied(t)
	d, s := m.Driver, m.site
	early := *w.State
	early.Subjects = nil
	for _, x := range w.State.Subjects {
		if x.Workload != "unit" {
			early.Subjects = append(early.Subjects, x)
		}
	}
	if err := m.Apply(t.Context(), &early); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s.Hold(t, "unit", "c2", "tcp", 80)
	who := func() (out []string) {
		t.Helper()
		err := d.Connections(func(c *connection.Line) bool {
			if c.Direction == policy.Egress && c.Remote.Addr() == s.Endpoint("c2").IPv4 && c.Remote.Port() == 80 && c.First.After(began.Add(-20*time.Millisecond)) {
				out = append(out, c.Workload)
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := who(); len(got) != 1 || got[0] != "machine" {
		t.Errorf("before the unit is known: %q", got)
	}
	if err := m.Apply(t.Context(), w.State); err != nil {
		t.Fatal(err)
	}
	if got := who(); len(got) != 1 || got[0] != "unit" {
		t.Errorf("after it is: %q", got)
	}
}
