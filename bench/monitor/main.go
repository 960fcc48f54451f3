// Command monitor measures F5: what it costs to watch a machine with 500 processes
// every 2 seconds, beside Glances and node-exporter. All run at the same time on a
// lab host whose processes sleep, are started anew for every run, and are charged
// the CPU time of their own process and their resident memory at the end.
//
// weft is the whole agent while somebody looks at the machine: its session with
// the controller, its connection table and its meter of flows are part of it. What
// sampling alone costs, in a process that does nothing else, stands beside it.
//
// Peers that are not on PATH are left out, and standard error says so.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"weft/agent/monitor"
	"weft/bench/charge"
	"weft/bench/fleet"
	"weft/bench/result"
	"weft/cmd/top"
	"weft/lab"
	"weft/model"
)

const topology = `apiVersion: weft/v1
kind: Topology
metadata: {name: bench-monitor}
spec:
  switches:
  - {name: net, subnet: 10.9.0.0/24}
  hosts:
  - {name: controller, attach: net}
  - name: machine
    attach: net
    units: [{name: load}]
    containers: [{name: c1}, {name: c2}, {name: c3}]
`

// every is the time between two looks of everybody.
const every = 2 * time.Second

// aloneVariable makes this program the one that samples and does nothing else.
const aloneVariable = "WEFT_BENCH_MONITOR_ALONE"

func main() {
	if os.Getenv(aloneVariable) != "" {
		w := monitor.NewWatch(monitor.New(monitor.Config{}, monitor.Deps{}))
		if err := w.Every(nil, every, func(*model.Sample) bool { return true }); err != nil {
			fmt.Fprintln(os.Stderr, "bench/monitor:", err)
			os.Exit(1)
		}
		return
	}
	short := flag.Bool("short", false, "run briefly, to see that it works")
	flag.Parse()
	b := bench{runs: 5, each: 30 * time.Second, settle: 6 * time.Second, processes: 500}
	if *short {
		b = bench{runs: 1, each: 4 * time.Second, settle: 2 * time.Second, processes: 50}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := b.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/monitor:", err)
		os.Exit(1)
	}
}

type bench struct {
	runs         int
	settle, each time.Duration
	processes    int
	fleet        *fleet.Fleet
	machine      *lab.Host
	series       result.Series
}

// contender is a program to measure.
type contender struct {
	name, figure, note string
	start              func(context.Context) (*lab.Cmd, error)
	look               func(context.Context) // is called every 2 s; may be nil
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.fleet, err = fleet.Up(ctx, topology); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.fleet.Down()) }()
	b.machine = b.fleet.Host("machine")
	for range b.processes {
		if err := b.machine.UnitCommand(ctx, "load", "sleep", "3600").Start(); err != nil {
			return fmt.Errorf("start sleeping process: %w", err)
		}
	}
	figure := fmt.Sprintf("watching %d processes every 2 s", b.processes)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	contenders := append([]contender{
		{name: result.Ours, figure: figure, note: "the whole agent, with a controller, 3 containers and a viewer; mark: 1 % of a core, 40 MB", start: func(ctx context.Context) (*lab.Cmd, error) {
			return b.fleet.Agent(ctx, b.machine)
		}},
		{name: result.Ours, figure: "sampling alone", note: "the same look in a process that does nothing else", start: func(ctx context.Context) (*lab.Cmd, error) {
			return b.fleet.Start(ctx, b.machine, "env", aloneVariable+"=1", self)
		}},
	}, b.peers(figure)...)
	for range b.runs {
		if err := b.once(ctx, contenders); err != nil {
			return err
		}
	}
	for _, c := range contenders {
		b.series.Note("F5", "CPU, "+c.figure, c.name, "% of a core", c.note)
	}
	return result.Write(os.Stdout, b.series.Cells()...)
}

// once starts everybody, looks at the machine through each, and ends them.
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
	b.look(ctx, contenders, b.settle)
	if err := b.idle(ctx, contenders, cmds[0]); err != nil {
		return err
	}
	viewer, err := b.view()
	if err != nil {
		return err
	}
	defer viewer.Close()
	b.look(ctx, contenders, every)
	used := make([]time.Duration, len(cmds))
	for i, cmd := range cmds {
		if used[i], _, err = charge.Process(cmd.Process.Pid); err != nil {
			return err
		}
	}
	began := time.Now()
	b.look(ctx, contenders, b.each)
	for i, cmd := range cmds {
		after, memory, err := charge.Process(cmd.Process.Pid)
		if err != nil {
			return err
		}
		c := contenders[i]
		b.series.Add("F5", "CPU, "+c.figure, c.name, "% of a core", (after-used[i]).Seconds()/time.Since(began).Seconds()*100)
		b.series.Add("F5", "resident memory, "+c.figure, c.name, "MB", memory)
	}
	return nil
}

// idle charges the agent while nobody looks: what it costs anyway.
func (b *bench) idle(ctx context.Context, contenders []contender, agent *lab.Cmd) error {
	before, _, err := charge.Process(agent.Process.Pid)
	if err != nil {
		return err
	}
	began := time.Now()
	b.look(ctx, contenders, b.each/2)
	after, _, err := charge.Process(agent.Process.Pid)
	if err != nil {
		return err
	}
	b.series.Add("F5", "CPU, the same agent while nobody looks", result.Ours, "% of a core", (after-before).Seconds()/time.Since(began).Seconds()*100)
	return nil
}

// look asks those that answer questions, every 2 s.
func (b *bench) look(ctx context.Context, contenders []contender, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(min(every, time.Until(end))) {
		for _, c := range contenders {
			if c.look != nil {
				c.look(ctx)
			}
		}
	}
}

// view looks at the machine through its agent, as `weft-agent top` does, and takes
// whatever it says.
func (b *bench) view() (net.Conn, error) {
	var conn net.Conn
	err := fleet.Await(20*time.Second, func() (err error) {
		conn, err = net.Dial("unix", filepath.Join(b.machine.StateDir(), "agent", top.SampleSocket))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look through the agent: %w", err)
	}
	if _, err := fmt.Fprintf(conn, "{\"seconds\":%g}\n", every.Seconds()); err != nil {
		return nil, err
	}
	// The first sample has come when there is a line.
	in := bufio.NewReader(conn)
	if _, err := in.ReadBytes('\n'); err != nil {
		return nil, fmt.Errorf("look through the agent: %w", err)
	}
	go io.Copy(io.Discard, in) //nolint:errcheck // it ends with the connection
	return conn, nil
}

func (b *bench) peers(figure string) []contender {
	var out []contender
	start := func(argv ...string) func(context.Context) (*lab.Cmd, error) {
		return func(ctx context.Context) (*lab.Cmd, error) { return b.fleet.Start(ctx, b.machine, argv...) }
	}
	if path, err := exec.LookPath("glances"); err == nil {
		out = append(out, contender{name: "glances", figure: figure, note: "without a screen", start: start(path, "--quiet", "--time", "2", "--disable-check-update")})
	} else {
		left("glances")
	}
	if path, err := exec.LookPath("prometheus-node-exporter"); err == nil {
		address := b.machine.Addresses()[0].String() + ":9100"
		out = append(out, contender{name: "node-exporter", figure: figure, note: "scraped every 2 s; looks at no process", start: start(path, "--web.listen-address="+address),
			look: func(ctx context.Context) {
				_ = b.machine.Command(ctx, "curl", "-s", "-o", "/dev/null", "http://"+address+"/metrics").Run()
			}})
	} else {
		left("prometheus-node-exporter")
	}
	return out
}

func left(peer string) {
	fmt.Fprintf(os.Stderr, "bench/monitor: %s is not on PATH: left out\n", peer)
}
