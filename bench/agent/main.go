// Command agent measures A1: what an idle agent costs a machine, beside other
// agents that watch a machine. Each runs for a while on a lab host that holds
// idle processes, one after the other, again and again; charged are the CPU
// time of the process itself and the resident memory at the end.
//
// Peers that are not on PATH are left out, and standard error says so.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

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
  - name: machine
    attach: net
    units: [{name: load}]
    containers: [{name: c1}, {name: c2}, {name: c3}]
`

func main() {
	short := flag.Bool("short", false, "run briefly, to see that it works")
	flag.Parse()
	b := bench{runs: 5, each: 30 * time.Second, settle: 10 * time.Second, processes: 500}
	if *short {
		b = bench{runs: 1, each: 3 * time.Second, settle: time.Second, processes: 50}
	}
	if err := b.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "bench agent:", err)
		os.Exit(1)
	}
}

type bench struct {
	runs         int
	each, settle time.Duration
	processes    int
	lab          *lab.Lab
	bin          string
}

// contender is a program to measure.
type contender struct {
	name string
	argv []string
	poke func(ctx context.Context) // asked every 15 s, as a scraper would
}

func (b *bench) run(ctx context.Context) error {
	b.bin = "bin"
	if dir := os.Getenv("WEFT_BIN"); dir != "" {
		b.bin = dir
	}
	bin, err := filepath.Abs(b.bin)
	if err != nil {
		return err
	}
	b.bin = bin
	t, err := lab.Parse("bench/agent", []byte(topology))
	if err != nil {
		return err
	}
	if b.lab, err = lab.Up(ctx, t, lab.Options{Log: slog.New(slog.DiscardHandler)}); err != nil {
		return err
	}
	defer b.lab.Down()
	machine := b.lab.Host("machine")
	for range b.processes {
		idle := machine.UnitCommand(ctx, "load", "sleep", "3600")
		if err := idle.Start(); err != nil {
			return fmt.Errorf("start idle process: %w", err)
		}
	}
	stop, err := b.controller(ctx)
	if err != nil {
		return err
	}
	defer stop()
	contenders := []contender{{name: "weft", argv: []string{filepath.Join(b.bin, "weft-agent"), "run", "--controller", "https://controller:7443",
		"--token-file", filepath.Join(machine.StateDir(), "token"), "--state-dir", filepath.Join(machine.StateDir(), "agent"),
		"--cgroup-root", machine.CgroupDir(), "--bpf-dir", machine.BPFDir()}}}
	contenders = append(contenders, peers(machine)...)

	cpu, rss := map[string][]float64{}, map[string][]float64{}
	for range b.runs {
		for _, c := range contenders {
			share, memory, err := b.measure(ctx, machine, c)
			if err != nil {
				return fmt.Errorf("measure %s: %w", c.name, err)
			}
			cpu[c.name] = append(cpu[c.name], share)
			rss[c.name] = append(rss[c.name], memory)
		}
	}
	size, err := os.Stat(filepath.Join(b.bin, "weft-agent"))
	if err != nil {
		return err
	}
	var cells []result.Cell
	for _, figure := range []struct {
		name, unit string
		runs       map[string][]float64
	}{{fmt.Sprintf("CPU of one core, idle, %d processes", b.processes), "%", cpu}, {"resident memory", "MB", rss}} {
		ours := result.New("A1", figure.name, "weft", figure.unit, figure.runs["weft"])
		cells = append(cells, ours)
		for _, c := range contenders[1:] {
			cell := result.New("A1", figure.name, c.name, figure.unit, figure.runs[c.name])
			if cell.Median > 0 {
				cell.Ratio = ours.Median / cell.Median
			}
			cells = append(cells, cell)
		}
	}
	cells = append(cells, result.New("A1", "size of the binary", "weft", "MB", []float64{float64(size.Size()) / 1e6}))
	return result.Write(os.Stdout, cells...)
}

func peers(machine *lab.Host) []contender {
	var out []contender
	if path, err := exec.LookPath("prometheus-node-exporter"); err == nil {
		address := machine.Addresses()[0].String() + ":9100"
		out = append(out, contender{name: "node-exporter, scraped every 15 s", argv: []string{path, "--web.listen-address=" + address},
			poke: func(ctx context.Context) {
				machine.Command(ctx, "curl", "-s", "-o", "/dev/null", "http://"+address+"/metrics").Run()
			}})
	} else {
		fmt.Fprintln(os.Stderr, "bench agent: prometheus-node-exporter is not on PATH: left out")
	}
	if path, err := exec.LookPath("glances"); err == nil {
		out = append(out, contender{name: "glances, every 2 s", argv: []string{path, "--quiet", "--time", "2", "--disable-check-update"}})
	} else {
		fmt.Fprintln(os.Stderr, "bench agent: glances is not on PATH: left out")
	}
	return out
}

// controller starts one with a join token that lasts for every run.
func (b *bench) controller(ctx context.Context) (func(), error) {
	h := b.lab.Host("controller")
	socket := filepath.Join(h.StateDir(), "api.sock")
	cmd := h.Command(ctx, filepath.Join(b.bin, "weft"), "controller", "--data", filepath.Join(h.StateDir(), "data"), "--name", "controller", "--socket", socket)
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() }
	for end := time.Now().Add(20 * time.Second); ; {
		create := exec.CommandContext(ctx, filepath.Join(b.bin, "weft"), "token", "create")
		create.Env = append(os.Environ(), "WEFT_SERVER=unix://"+socket)
		token, err := create.Output()
		if err == nil {
			return stop, os.WriteFile(filepath.Join(b.lab.Host("machine").StateDir(), "token"), token, 0o600)
		}
		if time.Now().After(end) {
			stop()
			return nil, fmt.Errorf("create join token: %w", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// measure runs a contender and returns its share of a core in percent and its
// resident memory in MB.
func (b *bench) measure(ctx context.Context, machine *lab.Host, c contender) (float64, float64, error) {
	cmd := machine.Command(ctx, c.argv...)
	cmd.Env = append(os.Environ(), "HOME="+machine.StateDir())
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	defer func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() }()
	time.Sleep(b.settle)
	before, _, err := usage(cmd.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	for left := b.each; left > 0; left = b.each - time.Since(began) {
		if c.poke != nil {
			c.poke(ctx)
		}
		time.Sleep(min(left, 15*time.Second))
	}
	after, memory, err := usage(cmd.Process.Pid)
	return (after - before).Seconds() / time.Since(began).Seconds() * 100, memory, err
}

// usage is the CPU time (proc(5), stat fields 14 and 15) and resident memory of
// a process.
func usage(pid int) (time.Duration, float64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 22 {
		return 0, 0, fmt.Errorf("short stat of process %d", pid)
	}
	const ticksPerSecond = 100 // USER_HZ, the same on every Linux of this architecture
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		ticks += n
	}
	pages, err := strconv.ParseInt(fields[21], 10, 64)
	return time.Duration(ticks) * time.Second / ticksPerSecond, float64(pages) * float64(unix.Getpagesize()) / 1e6, err
}
