// Command agent measures A1: what an idle agent costs a machine, beside other
// agents that watch a machine. All of them run at the same time on a lab host
// that holds idle processes and containers, are started anew for every run, and
// are charged the CPU time of their own process and their resident memory at
// the end. Then a tap of the machine and its containers is drawn, on which
// nothing moves, and weft's agent is measured again.
//
// Peers that are not on PATH are left out, and standard error says so.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"weft/bench/charge"
	"weft/bench/fleet"
	"weft/bench/result"
	"weft/lab"
)

const topology = `apiVersion: weft/v1
kind: Topology
metadata: {name: bench-agent}
spec:
  switches:
  - {name: net, subnet: 10.9.0.0/24}
  hosts:
  - {name: controller, attach: net}
  - {name: tool, attach: net}
  - name: machine
    attach: net
    units: [{name: load}]
    containers: [{name: c1}, {name: c2}, {name: c3}]
`

func main() {
	short := flag.Bool("short", false, "run briefly, to see that it works")
	flag.Parse()
	b := bench{runs: 5, each: 30 * time.Second, settle: 4 * time.Second, tapped: 8 * time.Second, processes: 500}
	if *short {
		b = bench{runs: 1, each: 2 * time.Second, settle: time.Second, tapped: time.Second, processes: 50}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := b.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/agent:", err)
		os.Exit(1)
	}
}

type bench struct {
	runs                 int
	settle, each, tapped time.Duration
	processes            int
	fleet                *fleet.Fleet
	machine              *lab.Host
	series               result.Series
}

// scrapeEvery is how often a peer that answers questions is asked one:
// Prometheus' usual interval.
const scrapeEvery = 15 * time.Second

// contender is a program to measure.
type contender struct {
	name   string
	note   string
	start  func(context.Context) (*lab.Cmd, error)
	scrape func(context.Context)
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.fleet, err = fleet.Up(ctx, topology); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.fleet.Down()) }()
	b.machine = b.fleet.Host("machine")
	for range b.processes {
		if err := b.machine.UnitCommand(ctx, "load", "sleep", "3600").Start(); err != nil {
			return fmt.Errorf("start idle process: %w", err)
		}
	}
	if _, err := b.fleet.Agent(ctx, b.fleet.Host("tool"), "--labels", "role=tool", "--metadata", "-"); err != nil {
		return err
	}
	contenders := append([]contender{{name: result.Ours, start: func(ctx context.Context) (*lab.Cmd, error) {
		return b.fleet.Agent(ctx, b.machine, "--labels", "app=idle")
	}}}, b.peers()...)
	for range b.runs {
		if err := b.once(ctx, contenders); err != nil {
			return err
		}
	}
	size, err := os.Stat(filepath.Join(b.fleet.Bin, "weft-agent"))
	if err != nil {
		return err
	}
	b.series.Add("A1", "size of the binary", result.Ours, "MB", float64(size.Size())/1e6)
	b.series.Note("A1", "size of the binary", result.Ours, "MB", "static; mark: 30")
	for _, c := range contenders {
		b.series.Note("A1", b.cpuName(), c.name, "% of a core", c.note)
	}
	b.series.Note("A1", b.cpuName(), result.Ours, "% of a core", "mark: 0.5")
	b.series.Note("A1", "resident memory, with a tap on which nothing moves", result.Ours, "MB", "the ring of 16 MiB counts twice, because it is mapped twice in a row")
	b.series.Note("A1", "resident memory", result.Ours, "MB", "mark: 64")
	return result.Write(os.Stdout, b.series.Cells()...)
}

func (b *bench) cpuName() string {
	return fmt.Sprintf("CPU, idle, %d processes and 3 containers", b.processes)
}

// once starts everybody, watches them together, and ends them.
func (b *bench) once(ctx context.Context, contenders []contender) error {
	var cmds []*lab.Cmd
	defer func() {
		for _, cmd := range cmds {
			fleet.Stop(cmd)
		}
	}()
	for _, c := range contenders {
		cmd, err := c.start(ctx)
		if err != nil {
			return fmt.Errorf("start %s: %w", c.name, err)
		}
		cmds = append(cmds, cmd)
	}
	time.Sleep(b.settle)
	err := b.watch(b.each, cmds, func() {
		for _, c := range contenders {
			if c.scrape != nil {
				c.scrape(ctx)
			}
		}
	}, func(i int, cpu, memory float64) {
		b.series.Add("A1", b.cpuName(), contenders[i].name, "% of a core", cpu)
		b.series.Add("A1", "resident memory", contenders[i].name, "MB", memory)
	})
	if err != nil {
		return err
	}
	if _, err := b.fleet.Tap(ctx, "idle", "app=idle", "role=tool,workload.kind=host"); err != nil {
		return err
	}
	time.Sleep(b.settle / 2)
	err = b.watch(b.tapped, cmds[:1], func() {}, func(_ int, cpu, memory float64) {
		b.series.Add("A1", "CPU, with a tap on which nothing moves", result.Ours, "% of a core", cpu)
		b.series.Add("A1", "resident memory, with a tap on which nothing moves", result.Ours, "MB", memory)
	})
	return errors.Join(err, b.fleet.Untap(ctx, "idle"))
}

// watch charges the processes for a while.
func (b *bench) watch(d time.Duration, cmds []*lab.Cmd, tick func(), note func(i int, cpu, memory float64)) error {
	before := make([]time.Duration, len(cmds))
	for i, cmd := range cmds {
		used, _, err := charge.Process(cmd.Process.Pid)
		if err != nil {
			return err
		}
		before[i] = used
	}
	began := time.Now()
	for left := d; left > 0; left = d - time.Since(began) {
		tick()
		time.Sleep(min(d-time.Since(began), scrapeEvery))
	}
	for i, cmd := range cmds {
		after, memory, err := charge.Process(cmd.Process.Pid)
		if err != nil {
			return err
		}
		note(i, (after-before[i]).Seconds()/time.Since(began).Seconds()*100, memory)
	}
	return nil
}

func (b *bench) peers() []contender {
	var out []contender
	start := func(argv ...string) func(context.Context) (*lab.Cmd, error) {
		return func(ctx context.Context) (*lab.Cmd, error) { return b.fleet.Start(ctx, b.machine, argv...) }
	}
	if path, err := exec.LookPath("prometheus-node-exporter"); err == nil {
		address := b.machine.Addresses()[0].String() + ":9100"
		out = append(out, contender{name: "node-exporter", note: "scraped every 15 s; no connection to a controller, no containers",
			start: start(path, "--web.listen-address="+address),
			scrape: func(ctx context.Context) {
				b.machine.Command(ctx, "curl", "-s", "-o", "/dev/null", "http://"+address+"/metrics").Run()
			}})
	} else {
		left("prometheus-node-exporter")
	}
	if path, err := exec.LookPath("glances"); err == nil {
		out = append(out, contender{name: "glances", note: "every 2 s; weighs every process, which weft does while somebody looks",
			start: start(path, "--quiet", "--time", "2", "--disable-check-update")})
	} else {
		left("glances")
	}
	return out
}

func left(peer string) {
	fmt.Fprintf(os.Stderr, "bench/agent: %s is not on PATH: left out\n", peer)
}
