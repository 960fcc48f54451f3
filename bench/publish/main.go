// Command publish measures S5: how long after a policy is written all agents that
// it touches have acknowledged it. Controller and store are one process, the
// agents another, on loopback: every agent has its own certificate, TLS connection and session, decodes
// what it is sent and acknowledges it, and enforces nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"

	"golang.org/x/sys/unix"

	"weft/bench/result"
)

func main() {
	short := flag.Bool("short", false, "run briefly, with a few agents, to see that it works")
	count := flag.Int("agents", 10_000, "how many agents")
	runs := flag.Int("runs", 5, "how many changes of each sort")
	profile := flag.String("profile", "", "write a CPU profile of the changes to this file")
	of := flag.String("agents-of", "", "be the agents of a controller at this address: for this program itself")
	dir := flag.String("dir", "", "where that controller's authority is")
	flag.Parse()
	if *short {
		*count, *runs = 200, 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *of != "" {
		if err := agents(ctx, *of, *dir); err != nil {
			fmt.Fprintln(os.Stderr, "bench/publish: agents:", err)
			os.Exit(1)
		}
		return
	}
	if err := measure(ctx, *count, *runs, *profile); err != nil {
		fmt.Fprintln(os.Stderr, "bench/publish:", err)
		os.Exit(1)
	}
}

// perHost are the workloads of each agent.
const perHost = 10

func measure(ctx context.Context, agents, runs int, profile string) (err error) {
	if err := files(uint64(agents + 1000)); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "weft-publish-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := start(ctx, dir)
	if err != nil {
		return err
	}
	defer c.stop()
	var series result.Series
	joined, err := c.join(ctx, agents)
	if err != nil {
		return err
	}
	series.Add("S5", fmt.Sprintf("%d agents connect and have their sections", agents), result.Ours, "s", joined.Seconds())
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	for n := range runs {
		for _, change := range []struct{ name, policy string }{{"1 %", "part-7"}, {"100 %", "all"}} {
			touched := (agents + 99) / 100
			if change.policy == "all" {
				touched = agents
			}
			got, err := c.publish(ctx, change.policy, 2000+n, touched)
			if err != nil {
				return fmt.Errorf("%s: %w", change.name, err)
			}
			name := fmt.Sprintf("a policy changes for %s of %d agents: ", change.name, agents)
			for _, f := range []struct {
				name, unit string
				value      float64
			}{
				{"planned and handed to the sessions", "s", got.planned.Seconds()},
				{"half have acknowledged", "s", got.half.Seconds()},
				{"all have acknowledged", "s", got.all.Seconds()},
				{"processor, agents included", "CPU-s", got.cpu},
				{"bytes of sections to each", "B", got.bytes},
			} {
				series.Add("S5", name+f.name, result.Ours, f.unit, f.value)
			}
		}
	}
	return result.Write(os.Stdout, series.Cells()...)
}

// files makes room for so many open files.
func files(n uint64) error {
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		return err
	}
	if have.Cur >= n {
		return nil
	}
	want := unix.Rlimit{Cur: n, Max: max(n, have.Max)}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &want); err != nil {
		return fmt.Errorf("make room for %d open files: %w; run as root, or with fewer -agents", n, err)
	}
	return nil
}
