// Command meter measures F1, how much of what is sent is in flows and what metering
// costs, and F2, how many connections are put to the process and the container that
// made them.
//
// Two machines send alike to a third. On one weft's agent meters; on the other the
// peers do, one after the other, or nobody, so that what metering costs in the
// sender's own time is known too. Peers that are not on PATH are left out, and
// standard error says so.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"weft/bench/charge"
	"weft/bench/fleet"
	"weft/bench/result"
	"weft/lab"
)

const topology = `apiVersion: weft/v1
kind: Topology
metadata: {name: bench-meter}
spec:
  switches:
  - {name: net, subnet: 10.9.0.0/24}
  hosts:
  - {name: controller, attach: net}
  - {name: sink, attach: net}
  - {name: metered, attach: net, containers: [{name: c1}, {name: c2}, {name: c3}]}
  - {name: plain, attach: net, containers: [{name: c1}, {name: c2}, {name: c3}]}
`

func main() {
	if len(os.Args) > 1 {
		if play, ok := roles[os.Args[1]]; ok {
			if err := play(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, "bench/meter:", err)
				os.Exit(1)
			}
			return
		}
	}
	short := flag.Bool("short", false, "run briefly, to see that it works")
	largest := flag.Int("largest", 1_000_000, "how many flows the largest crowd has")
	runs := flag.Int("runs", 5, "how often")
	only := flag.String("only", "", "measure this alone: F1 or F2")
	flag.Parse()
	b := bench{runs: *runs, crowds: []int{10_000, 100_000, *largest}, active: 100_000, every: 10 * time.Second, rounds: 3, connections: 10_000, patience: 30 * time.Second}
	if *short {
		b = bench{runs: 1, crowds: []int{2_000}, active: 2_000, every: 400 * time.Millisecond, rounds: 1, connections: 200, patience: 4 * time.Second}
	}
	switch *only {
	case "", "F1", "F2":
		b.only = *only
	default:
		fmt.Fprintf(os.Stderr, "bench/meter: -only %s: F1 or F2\n", *only)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := b.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/meter:", err)
		os.Exit(1)
	}
}

type bench struct {
	runs        int
	only        string        // F1 or F2; empty for both
	crowds      []int         // flows of a datagram or two
	active      int           // flows that go on
	every       time.Duration // between two datagrams of such a flow
	rounds      int           // of datagrams that are charged
	connections int
	patience    time.Duration // with which more flows are waited for where no more come

	fleet                *fleet.Fleet
	self                 string
	sink, metered, plain *lab.Host
	source               int // the next port to send from
	series               result.Series
	cost                 charge.Meter
	foreign              []float64
}

// manyRuns is up to how many flows a crowd is sent as often as is asked for; a
// larger one once.
const manyRuns = 100_000

func (b *bench) run(ctx context.Context) (err error) {
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.fleet, err = fleet.Up(ctx, topology); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.fleet.Down()) }()
	b.sink, b.metered, b.plain = b.fleet.Host("sink"), b.fleet.Host("metered"), b.fleet.Host("plain")
	b.cost.Cgroup, b.source = filepath.Base(filepath.Dir(b.sink.CgroupDir())), 10_000
	end, err := b.receive(ctx)
	if err != nil {
		return err
	}
	defer end()
	meters := b.meters()
	for run := range b.runs {
		if b.only != "F2" {
			if err := b.account(ctx, meters, run == 0); err != nil {
				return err
			}
		}
		if b.only != "F1" {
			if err := b.attribute(ctx); err != nil {
				return err
			}
		}
	}
	b.notes(meters)
	return result.Write(os.Stdout, b.series.Cells()...)
}

// account measures F1.
func (b *bench) account(ctx context.Context, meters []meter, first bool) error {
	for _, n := range b.crowds {
		if n > manyRuns && !first {
			continue
		}
		for _, m := range meters {
			if err := b.crowd(ctx, m, n); err != nil {
				return fmt.Errorf("%s, %d flows: %w", m.name, n, err)
			}
		}
	}
	idle := 0.0 // the machine's CPU where nobody meters
	for _, m := range meters {
		if err := b.hold(ctx, m, &idle); err != nil {
			return fmt.Errorf("%s, %d flows that go on: %w", m.name, b.active, err)
		}
	}
	return nil
}

// meter is a program that accounts for what a machine sends.
type meter struct {
	name, note string
	host       *lab.Host
	start      func(context.Context) (*lab.Cmd, error)
	// counted ends the program where it only then tells, and returns how many bytes it
	// has counted since start. It waits until they are so many, or no more come.
	counted func(ctx context.Context, cmd *lab.Cmd, want uint64) (uint64, error)
	// settled, unless nil, waits until no more comes of what was sent.
	settled func(context.Context) error
}

// nobody is the machine without a meter: what the others are charged on top of.
const nobody = "nobody"

func (b *bench) meters() []meter {
	none := meter{name: nobody, host: b.plain, start: func(context.Context) (*lab.Cmd, error) { return nil, nil }}
	return append([]meter{none, b.weft()}, b.peers()...)
}

func (b *bench) accounted(flows int) string {
	return fmt.Sprintf("bytes accounted for, %d flows of one or two datagrams", flows)
}

// crowd sends many short flows.
func (b *bench) crowd(ctx context.Context, m meter, flows int) error {
	if m.counted == nil {
		return nil
	}
	cmd, err := m.start(ctx)
	if err != nil {
		return err
	}
	defer stop(cmd)
	sent, err := b.send(ctx, m.host, "scatter", fmt.Sprint(b.sinkAddress(), ":", firstPort), fmt.Sprint(b.source), fmt.Sprint(flows), fmt.Sprint(perSecond))
	if err != nil {
		return err
	}
	b.source += (flows + sinkPorts - 1) / sinkPorts
	if b.source > 28_000 { // below the ports that a kernel gives
		b.source = 10_000
	}
	got, err := m.counted(ctx, cmd, sent.Bytes)
	if err != nil {
		return err
	}
	b.series.Add("F1", b.accounted(flows), m.name, "%", 100*float64(got)/float64(sent.Bytes))
	return nil
}

func (b *bench) goingOn() string {
	return fmt.Sprintf("%d flows, a datagram each %s", b.active, b.every)
}

// hold charges a meter for flows that go on. The first round, in which they are new,
// is charged to nobody.
func (b *bench) hold(ctx context.Context, m meter, idle *float64) error {
	cmd, err := m.start(ctx)
	if err != nil {
		return err
	}
	defer stop(cmd)
	// The round after the last is there so that nothing ends while it is measured.
	sender := m.host.Command(ctx, b.self, "hold", fmt.Sprint(b.sinkAddress(), ":", firstPort), fmt.Sprint(b.source), fmt.Sprint(b.active), b.every.String(), fmt.Sprint(b.rounds+2))
	said, err := started(sender)
	if err != nil {
		return err
	}
	defer stop(sender)
	b.source += (b.active + sinkPorts - 1) / sinkPorts
	line := func() error { _, err := said.ReadString('\n'); return err }
	if err := line(); err != nil { // the first round is over
		return err
	}
	var before time.Duration
	if cmd != nil {
		if before, _, err = charge.Family(cmd.Process.Pid); err != nil {
			return err
		}
	}
	mark, err := b.cost.Now()
	if err != nil {
		return err
	}
	began := time.Now()
	for range b.rounds {
		if err := line(); err != nil {
			return err
		}
	}
	took := time.Since(began).Seconds()
	machine, foreign, err := b.cost.Since(mark)
	if err != nil {
		return err
	}
	b.foreign = append(b.foreign, 100*foreign/took)
	if cmd == nil {
		*idle = machine / took
		return nil
	}
	after, memory, err := charge.Family(cmd.Process.Pid)
	if err != nil {
		return err
	}
	b.series.Add("F1", "CPU of its own, "+b.goingOn(), m.name, "% of a core", 100*(after-before).Seconds()/took)
	b.series.Add("F1", "CPU of the machine more than without, "+b.goingOn(), m.name, "% of a core", 100*(machine/took-*idle))
	b.series.Add("F1", "resident memory, "+b.goingOn(), m.name, "MB", memory)
	stop(sender)
	if m.settled != nil {
		return m.settled(ctx)
	}
	return nil
}

func (b *bench) notes(meters []meter) {
	if b.only == "F2" {
		return
	}
	for _, m := range meters {
		if m.counted != nil {
			b.series.Note("F1", b.accounted(b.crowds[0]), m.name, "%", m.note)
		}
	}
	b.series.Note("F1", "CPU of its own, "+b.goingOn(), result.Ours, "% of a core", "the whole agent; mark: 10")
	busy := result.New("", "", "", "", b.foreign)
	b.series.Note("F1", "CPU of the machine more than without, "+b.goingOn(), result.Ours, "% of a core",
		fmt.Sprintf("with what its programs in the kernel take of the sender's time; other programs used %.0f %% of a core meanwhile", busy.Median))
}

func (b *bench) sinkAddress() string { return b.sink.Addresses()[0].String() }

// weft is its agent, which is started anew for each turn.
func (b *bench) weft() meter {
	before := uint64(0)
	return meter{name: result.Ours, host: b.metered, start: func(ctx context.Context) (*lab.Cmd, error) {
		cmd, err := b.agent(ctx)
		if err != nil {
			return nil, err
		}
		before, err = b.settled(ctx, 0)
		return cmd, err
	}, counted: func(ctx context.Context, _ *lab.Cmd, want uint64) (uint64, error) {
		after, err := b.settled(ctx, before+want)
		return after - before, err
	}, settled: func(ctx context.Context) error {
		// The account goes on where an agent ends: what is not told by then is by the next.
		_, err := b.settled(ctx, math.MaxUint64)
		return err
	}}
}

// agent starts weft's agent and waits until it meters and knows its containers.
func (b *bench) agent(ctx context.Context) (*lab.Cmd, error) {
	cmd, err := b.fleet.Agent(ctx, b.metered)
	if err != nil {
		return nil, err
	}
	return cmd, fleet.Await(20*time.Second, func() error {
		attached := false
		filepath.WalkDir(b.metered.BPFDir(), func(path string, e fs.DirEntry, err error) error {
			attached = attached || err == nil && strings.HasSuffix(path, "links/egress") // the last
			return nil
		})
		if !attached {
			return errors.New("the agent does not meter")
		}
		out, err := b.fleet.Weft(ctx, "", "get", "workloads", "-o", "json")
		for _, c := range containers {
			if err == nil && !strings.Contains(out, `"`+b.metered.Name+":"+c+`"`) {
				err = fmt.Errorf("container %s is not known", c)
			}
		}
		return err
	})
}

// settled returns how many bytes of datagrams to the sink are in flows, once they
// are as many as are wanted, or have not been more for a while.
func (b *bench) settled(ctx context.Context, want uint64) (got uint64, err error) {
	for since := time.Now(); time.Since(since) < b.patience; time.Sleep(200 * time.Millisecond) {
		list, err := b.flows(ctx, "host", "client="+b.metered.Name+",protocol=udp,reporter=client,server-address="+b.sinkAddress())
		if err != nil {
			return 0, err
		}
		sum := uint64(0)
		for _, x := range list {
			sum += x.Sent.Bytes
		}
		if sum > got {
			got, since = sum, time.Now()
		}
		if want == 0 || got >= want {
			break
		}
	}
	return got, nil
}
