package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"weft/bench/fleet"
	"weft/bench/result"
	"weft/lab"
	"weft/lab/netns"
)

// contender is a way to copy what crosses the source's eth0.
type contender struct {
	name string
	// tool and device are where the copies land; nil where they land nowhere.
	tool   *lab.Host
	device string
	on     func(context.Context) error
	off    func(context.Context) error
}

// none is the machine without any tap: what all others are charged on top of.
const none = "no tap"

func (b *bench) contenders() []contender {
	nothing := func(context.Context) error { return nil }
	out := []contender{{name: none, on: nothing, off: nothing}}
	tool, far := b.fleet.Host("tool"), b.fleet.Host("far-tool")
	out = append(out, b.weft(result.Ours, "direct", tool), b.weft(result.Ours+", relayed", "relay", far))
	for _, peer := range []struct {
		program string
		make    func() contender
	}{{"tc", func() contender { return b.mirror(tool) }}, {"tcpdump", b.tcpdump}} {
		if _, err := exec.LookPath(peer.program); err != nil {
			fmt.Fprintf(os.Stderr, "bench/tap: %s is not on PATH: left out\n", peer.program)
			continue
		}
		out = append(out, peer.make())
	}
	return out
}

// weft draws a tap of the source. The far tool sits behind a NAT, so that its
// stream must take the relay.
func (b *bench) weft(name, path string, tool *lab.Host) contender {
	tap := "bench-" + path
	return contender{name: name, tool: tool, device: "weft0",
		on: func(ctx context.Context) error {
			if _, err := b.fleet.Tap(ctx, tap, "role=source,workload.kind=host", "role="+tool.Name+",workload.kind=host"); err != nil {
				return err
			}
			// A stream may begin on the relay and move.
			return fleet.Await(20*time.Second, func() error {
				t, err := b.fleet.ReadTap(ctx, tap)
				if err == nil && (len(t.Status.Paths) != 1 || t.Status.Paths[0].Path != path) {
					err = fmt.Errorf("the tap's paths are %+v, want one that is %s", t.Status.Paths, path)
				}
				return err
			})
		},
		off: func(ctx context.Context) error {
			if err := b.fleet.Untap(ctx, tap); err != nil {
				return err
			}
			time.Sleep(300 * time.Millisecond) // until the agents have heard of it
			// An agent leaves a direct path alone for a minute after a stream
			// on it lived less than that, and these do.
			return b.startSource(ctx)
		}}
}

// mirror copies with tc's mirred into a VXLAN tunnel, in clear text, as one
// would without an agent. Packets of the tunnel itself are left out by the
// tool's address: their fragments have no ports to tell them by.
func (b *bench) mirror(tool *lab.Host) contender {
	source := b.fleet.Host("source")
	from, to := source.Addresses()[0].String(), tool.Addresses()[0].String()
	vxlan := func(h *lab.Host, local, remote string) error {
		return sh(h, "ip link add vx0 type vxlan id 7 local "+local+" remote "+remote+" dstport 4789 nolearning dev eth0 && ip link set vx0 up")
	}
	return contender{name: "tc mirred to VXLAN", tool: tool, device: "vx0",
		on: func(context.Context) error {
			if err := vxlan(tool, to, from); err != nil {
				return err
			}
			if err := vxlan(source, from, to); err != nil {
				return err
			}
			all := " prio 2 protocol all u32 match u32 0 0 action mirred egress mirror dev vx0"
			return sh(source, "tc qdisc add dev eth0 clsact"+
				" && tc filter add dev eth0 egress prio 1 protocol ip u32 match ip dst "+to+"/32 flowid 1:1"+
				" && tc filter add dev eth0 egress"+all+
				" && tc filter add dev eth0 ingress prio 1 protocol ip u32 match ip src "+to+"/32 flowid 1:1"+
				" && tc filter add dev eth0 ingress"+all)
		},
		off: func(context.Context) error {
			if err := sh(source, "tc qdisc del dev eth0 clsact && ip link del vx0"); err != nil {
				return err
			}
			return sh(tool, "ip link del vx0")
		}}
}

// tcpdump captures at the source and writes nowhere: what capturing alone costs.
func (b *bench) tcpdump() contender {
	var cmd *lab.Cmd
	source := b.fleet.Host("source")
	return contender{name: "tcpdump -w /dev/null, not delivered",
		on: func(ctx context.Context) (err error) {
			cmd, err = b.fleet.Start(ctx, source, "tcpdump", "-Z", "root", "-n", "-B", "16384", "-s", "0", "-i", "eth0", "-w", "/dev/null",
				"not host "+b.fleet.Host("controller").Addresses()[0].String())
			if err != nil {
				return err
			}
			log := filepath.Join(source.StateDir(), "tcpdump.log")
			return fleet.Await(5*time.Second, func() error {
				if text, err := os.ReadFile(log); err != nil || !strings.Contains(string(text), "listening on") {
					return fmt.Errorf("tcpdump does not listen: %s %w", text, err)
				}
				return nil
			})
		},
		off: func(context.Context) error { fleet.Stop(cmd); return nil }}
}

func sh(h *lab.Host, script string) error {
	if out, err := h.Command(context.Background(), "sh", "-c", script).CombinedOutput(); err != nil {
		return fmt.Errorf("%s on %s: %w: %s", script, h.Name, err, out)
	}
	return nil
}

// counters are those of a device: packets and bytes, in and out.
type counters struct{ packetsIn, bytesIn, packetsOut, bytesOut int }

func (c counters) minus(before counters) counters {
	return counters{c.packetsIn - before.packetsIn, c.bytesIn - before.bytesIn, c.packetsOut - before.packetsOut, c.bytesOut - before.bytesOut}
}

func (c counters) packets() int { return c.packetsIn + c.packetsOut }
func (c counters) bytes() int   { return c.bytesIn + c.bytesOut }

// readCounters reads /proc/net/dev inside the host's namespace.
func readCounters(h *lab.Host, device string) (c counters, err error) {
	err = netns.Do(h.NetNS(), func() error {
		data, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(data)) {
			name, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
			f := strings.Fields(rest)
			if name != device || len(f) < 10 {
				continue
			}
			for i, into := range map[int]*int{0: &c.bytesIn, 1: &c.packetsIn, 8: &c.bytesOut, 9: &c.packetsOut} {
				if *into, err = strconv.Atoi(f[i]); err != nil {
					return err
				}
			}
			return nil
		}
		return fmt.Errorf("%s has no device %s", h.Name, device)
	})
	return c, err
}
