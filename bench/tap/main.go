// Command tap measures what a tap costs, from the source to the tool (marks T1,
// T3 and T4): CPU time of the whole machine for each packet and each gigabit
// tapped, bytes on the wire for each byte tapped, and the harm to the workload.
//
// In a lab, a source talks to a sink. What crosses the source's eth0 is copied
// to a tool by weft (encrypted, directly and over a relay), by tc's mirred
// through VXLAN (clear text), or captured by tcpdump at the source and thrown
// away. All run in each run, one after the other, beside the same load; a tap is
// charged what the machine used more than without any tap in the same run. All
// hosts share the processors; nothing is pinned.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"weft/bench/charge"
	"weft/bench/fleet"
	"weft/bench/offload"
	"weft/bench/result"
	"weft/lab"
)

const topology = `apiVersion: weft/v1
kind: Topology
metadata: {name: bench-tap}
spec:
  switches:
  - {name: net, subnet: 10.9.0.0/24}
  - {name: inside, subnet: 10.8.0.0/24}
  routers:
  - {name: nat, uplink: net, downlinks: inside, nat: port-restricted}
  hosts:
  - {name: controller, attach: net}
  - {name: relay, attach: net}
  - {name: source, attach: net}
  - {name: sink, attach: net}
  - {name: tool, attach: net}
  - {name: far-tool, attach: inside}
`

func main() {
	short := flag.Bool("short", false, "run briefly, to see that it works")
	runs := flag.Int("runs", 5, "runs")
	length := flag.Duration("length", 1500*time.Millisecond, "of the load in each measurement")
	patience := flag.Duration("patience", time.Minute, "to spend in all on repeating measurements that other programs disturbed")
	only := flag.String("only", "", "only loads whose name contains this")
	flag.Parse()
	b := bench{runs: *runs, length: *length, only: *only, patience: *patience}
	if *short {
		b.runs, b.length, b.patience = 1, 200*time.Millisecond, 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := b.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/tap:", err)
		os.Exit(1)
	}
}

type bench struct {
	runs     int
	length   time.Duration
	patience time.Duration
	only     string

	fleet        *fleet.Fleet
	meter        charge.Meter
	source, sink *lab.Host
	agents       map[string]*lab.Cmd
	series       result.Series
	baseline     map[string]float64 // CPU-seconds a second of each load without a tap, in this run
}

// load is something the source and the sink do together.
type load interface {
	run(ctx context.Context, source, sink *lab.Host, length time.Duration) (traffic, error)
}

// plan is one load and what is to be learnt from it.
type plan struct {
	name     string
	load     load
	offloads bool // of the source and the sink
	relayed  bool // measure weft over the relay too
	packets  bool // cost for each packet
	bits     bool // cost for each gigabit
	wire     bool // bytes on the wire
	harm     bool // throughput or latency of the load itself
}

var imix = []int{64, 594, 64, 64, 594, 64, 1514, 64, 594, 64, 594, 64} // 7:4:1

var plans = []plan{
	{name: "UDP 64 B, 50 kpps", load: datagrams{[]int{64}, 50_000}, offloads: true, packets: true},
	{name: "UDP IMIX, 40 kpps", load: datagrams{imix, 40_000}, offloads: true, relayed: true, packets: true, bits: true},
	{name: "UDP 1514 B, 25 kpps", load: datagrams{[]int{1514}, 25_000}, offloads: true, packets: true, bits: true},
	{name: "HTTP JSON, 2,000 requests/s, offloads on", load: requests{2_000}, offloads: true, relayed: true, bits: true, harm: true},
	{name: "one TCP stream, offloads on", load: bulk{}, offloads: true, harm: true},
	{name: "UDP 64 B", load: datagrams{[]int{64}, 20_000}, wire: true},
	{name: "UDP IMIX", load: datagrams{imix, 20_000}, wire: true},
	{name: "UDP 1514 B", load: datagrams{[]int{1514}, 10_000}, wire: true},
	{name: "HTTP JSON, 2,000 requests/s, offloads off", load: requests{2_000}, bits: true, wire: true, harm: true},
	{name: "one TCP stream, offloads off", load: bulk{}, harm: true},
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.fleet, err = fleet.Up(ctx, topology); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.fleet.Down()) }()
	b.source, b.sink = b.fleet.Host("source"), b.fleet.Host("sink")
	b.meter = charge.Meter{Cgroup: "weft-lab-" + b.fleet.ID}
	if _, err := b.fleet.Relay(ctx, b.fleet.Host("relay")); err != nil {
		return err
	}
	b.agents = map[string]*lab.Cmd{}
	if err := b.startSource(ctx); err != nil {
		return err
	}
	for _, name := range []string{"tool", "far-tool"} {
		if err := b.start(ctx, name); err != nil {
			return err
		}
	}
	contenders := b.contenders()
	for range b.runs {
		b.baseline = map[string]float64{}
		for _, on := range []bool{true, false} {
			if err := errors.Join(offload.Set(b.source.NetNS(), "eth0", on), offload.Set(b.sink.NetNS(), "eth0", on)); err != nil {
				return err
			}
			for _, c := range contenders {
				if err := b.contend(ctx, c, on); err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
			}
		}
	}
	return result.Write(os.Stdout, b.series.Cells()...)
}

// startSource starts the source's agent, anew if it runs.
func (b *bench) startSource(ctx context.Context) error {
	if cmd := b.agents["source"]; cmd != nil {
		fleet.Stop(cmd)
	}
	return b.start(ctx, "source")
}

func (b *bench) start(ctx context.Context, name string) (err error) {
	b.agents[name], err = b.fleet.Agent(ctx, b.fleet.Host(name), "--labels", "role="+name, "--metadata", "-")
	return err
}

// contend puts one load after the other on one contender.
func (b *bench) contend(ctx context.Context, c contender, offloads bool) (err error) {
	if err := c.on(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.off(ctx)) }()
	for _, p := range plans {
		if p.offloads != offloads || !strings.Contains(p.name, b.only) || !p.wants(c) {
			continue
		}
		if err := b.measure(ctx, c, p); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// wants says whether there is something to learn from the pair.
func (p plan) wants(c contender) bool {
	switch {
	case c.name == none:
		return true
	case strings.Contains(c.name, "relayed"):
		return p.relayed
	case c.tool == nil:
		return p.packets || p.bits || p.harm
	}
	return true
}

// noisy is the share of one core that other programs may use during a
// measurement before it is worth repeating.
const noisy = 0.2

// sample is one measurement.
type sample struct {
	traffic
	before, after view
	cost          float64 // CPU-seconds
	others        float64 // processors that other programs used on average
}

// quietest measures until the machine was quiet, or patience has run out, and
// returns the quietest sample.
func (b *bench) quietest(ctx context.Context, c contender, p plan) (best sample, err error) {
	for try := 0; ; try++ {
		began := time.Now()
		s, err := b.sample(ctx, c, p)
		if err != nil {
			return s, err
		}
		if try == 0 || s.others < best.others {
			best = s
		}
		if try > 0 {
			b.patience -= time.Since(began)
		}
		if best.others < noisy || try == 3 || b.patience <= 0 {
			return best, nil
		}
	}
}

func (b *bench) sample(ctx context.Context, c contender, p plan) (s sample, err error) {
	if s.before, err = b.look(c); err != nil {
		return s, err
	}
	from, err := b.meter.Now()
	if err != nil {
		return s, err
	}
	began := time.Now()
	if s.traffic, err = p.load.run(ctx, b.source, b.sink, b.length); err != nil {
		return s, err
	}
	time.Sleep(100 * time.Millisecond) // for what is on its way
	cost, others, err := b.meter.Since(from)
	if err != nil {
		return s, err
	}
	s.cost, s.others = cost, others/time.Since(began).Seconds()
	s.after, err = b.look(c)
	return s, err
}

func (b *bench) measure(ctx context.Context, c contender, p plan) error {
	s, err := b.quietest(ctx, c, p)
	if err != nil {
		return err
	}
	t, before, after := s.traffic, s.before, s.after
	b.series.Add("T1", "CPU that other programs used meanwhile", "everybody else", "% of a core", s.others*100)
	if t.sent > 0 && float64(t.lost) > 0.001*float64(t.sent) {
		fmt.Fprintf(os.Stderr, "bench/tap: %s, %s: the sink lost %d of %d datagrams\n", p.name, c.name, t.lost, t.sent)
	}
	work := after.sink.minus(before.sink)
	b.noteHarm(c, p, t)
	if c.name == none {
		b.baseline[p.name] = s.cost / float64(work.bytes())
		return nil
	}
	extra := s.cost - b.baseline[p.name]*float64(work.bytes())
	if p.packets {
		b.series.Add("T1", p.name+": CPU for each packet tapped", c.name, "µs", extra/float64(work.packets())*1e6)
	}
	if p.bits {
		b.series.Add("T1", p.name+": CPU for each Gbit tapped", c.name, "CPU-s", extra/float64(work.bytes())/8*1e9)
	}
	if c.tool == nil {
		return nil
	}
	if p.wire {
		b.series.Add("T4", p.name+": bytes on the wire for each byte tapped", c.name, "", float64(after.tool.minus(before.tool).bytes())/float64(work.bytes()))
	}
	if p.packets || p.wire {
		missing := 1 - float64(after.device.minus(before.device).packetsIn)/float64(work.packets())
		b.series.Add("T4", p.name+": copies that did not arrive", c.name, "%", max(0, missing*100))
	}
	return b.noteMemory(c)
}

// noteHarm reports what the load itself got done.
func (b *bench) noteHarm(c contender, p plan, t traffic) {
	if !p.harm {
		return
	}
	b.series.Add("T3", p.name+": throughput", c.name, "Mbit/s", t.rate/1e6)
	if n := len(t.latencies); n > 0 {
		slices.Sort(t.latencies)
		b.series.Add("T3", p.name+": latency, p50", c.name, "µs", float64(t.latencies[n/2].Microseconds()))
		b.series.Add("T3", p.name+": latency, p99", c.name, "µs", float64(t.latencies[n*99/100].Microseconds()))
	}
}

// noteMemory reports the size of the agents under load.
func (b *bench) noteMemory(c contender) error {
	if c.device != "weft0" {
		return nil
	}
	for what, name := range map[string]string{"the source": "source", "the tool": c.tool.Name} {
		_, memory, err := charge.Process(b.agents[name].Process.Pid)
		if err != nil {
			return err
		}
		b.series.Add("T1", "resident memory of the agent of "+what, c.name, "MB", memory)
	}
	return nil
}

// view is the state of the counters that matter.
type view struct{ sink, tool, device counters }

func (b *bench) look(c contender) (v view, err error) {
	if v.sink, err = readCounters(b.sink, "eth0"); err != nil || c.tool == nil {
		return v, err
	}
	if v.tool, err = readCounters(c.tool, "eth0"); err != nil {
		return v, err
	}
	v.device, err = readCounters(c.tool, c.device)
	return v, err
}
