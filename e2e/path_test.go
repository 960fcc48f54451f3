package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"weft/model"
)

func (f *fleet) travels(tap, kind string, limit time.Duration) {
	f.t.Helper()
	f.wait(limit, "the path is "+kind, func() error {
		now, err := f.tap(tap)
		if err == nil && (len(now.Status.Paths) != 1 || now.Status.Paths[0].Path != kind) {
			err = fmt.Errorf("paths are %+v", now.Status.Paths)
		}
		return err
	})
}

// A tap starts on the relay while a firewall is in the way and moves to the
// direct path when that opens, without losing a packet; and back again.
func TestPathMovesWithoutLoss(t *testing.T) {
	t.Parallel()
	f := newFleet(t, flat)
	f.controller()
	f.relay()
	f.agents("tool", "web")
	tool := f.lab.Host("tool")
	f.run(tool, "nft", "add table inet e2e; add chain inet e2e in { type filter hook input priority 0; }; add rule inet e2e in tcp dport 7444 drop")
	f.applied(tapWeb)
	f.reaches("web", model.TapActive, 10*time.Second)
	f.travels("web", "relay", 2*time.Second)
	w := f.work("spare", "web", 10_000, 10*time.Millisecond)
	f.run(tool, "nft", "delete table inet e2e")
	f.travels("web", "direct", 15*time.Second)
	f.resumes("web", 5*time.Second)
	w.unharmed()
	l := f.balanced("web")
	if lost(l) > 0 {
		t.Errorf("lost on the way: %+v", l)
	}
	t.Logf("seen %d, delivered %d", l.Seen.Packets, l.Delivered.Packets)
}

// An agent listens nowhere unless it is a tool, and no longer than it is one.
func TestListensOnlyAsTool(t *testing.T) {
	t.Parallel()
	f := newFleet(t, flat)
	f.controller()
	f.relay()
	f.agents("tool", "web", "spare")
	listeners := func(host string) string {
		var out []string
		for line := range strings.Lines(f.run(f.lab.Host(host), "ss", "-Hltun")) {
			if fields := strings.Fields(line); len(fields) > 4 {
				out = append(out, fields[0]+" "+fields[4])
			}
		}
		return strings.Join(out, ", ")
	}
	expect := func(when string, want map[string]string) {
		t.Helper()
		for host, ports := range want {
			f.wait(3*time.Second, when, func() error {
				if got := listeners(host); got != ports {
					return fmt.Errorf("%s listens on %q, want %q", host, got, ports)
				}
				return nil
			})
		}
	}
	expect("without a tap nobody listens", map[string]string{"tool": "", "web": "", "spare": ""})
	f.applied(tapWeb)
	f.reaches("web", model.TapActive, 5*time.Second)
	expect("with a tap only the tool does", map[string]string{"tool": "tcp *:7444", "web": "", "spare": ""})
	f.ok("delete", "tap", "web")
	expect("without the tap nobody does again", map[string]string{"tool": "", "web": "", "spare": ""})
	// The tool's port taken by somebody else: the relay still works, and the status says it.
	f.helper("squatter", "listen", f.lab.Host("tool"), ":7444")
	f.wait(3*time.Second, "the port is taken", func() error {
		if got := listeners("tool"); got == "" {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	f.applied(tapWeb)
	f.travels("web", "relay", 10*time.Second)
	says(t, "describe host", f.ok("describe", "host", "tool"), "listen for direct streams: ", "address already in use; relays still work")
}

// TestTwoLabs runs two labs with the same names and addresses at once.
func TestTwoLabs(t *testing.T) {
	t.Parallel()
	a, b := newFleet(t, flat), newFleet(t, flat)
	for _, f := range []*fleet{a, b} {
		f.controller()
		f.agents("tool", "web")
		f.applied(tapWeb)
	}
	for _, f := range []*fleet{a, b} {
		f.reaches("web", model.TapActive, 5*time.Second)
		f.balanced("web")
	}
	before, _ := strconv.Atoi(b.received("tool", "weft0"))
	a.run(a.lab.Host("web"), "ping", "-c", "20", "-i", "0.01", a.lab.Host("spare").Addresses()[0].String())
	l := a.balanced("web")
	if l.Delivered.Packets < 40 {
		t.Errorf("40 packets of a ping were tapped, %d arrived", l.Delivered.Packets)
	}
	// Its own machines look for one another now and then.
	if now, err := strconv.Atoi(b.received("tool", "weft0")); err != nil || now-before > 10 {
		t.Errorf("the other lab's tool had %d packets, and has %d", before, now)
	}
}
