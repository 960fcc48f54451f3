// Command firewall measures what a firewall costs (marks S1, S2 and S3): packets
// and bits a second against more and more rules, connections a second, and
// changes of rules in flight.
//
// Each firewall with each number of rules stands in a site of its own (site.go),
// all at the same time, and all take turns in each run. Every rule has an address
// and a port of its own; half are for UDP, half for TCP; what no rule allows is
// dropped. The peers let established connections pass before they look at rules,
// as people have them do; what judges each packet anew is thus measured with each
// packet a new connection, and one connection shows what they gain by it.
//
// Packets are judged where the sender's softirq runs, so that the whole machine
// is charged. Nothing is pinned. Open vSwitch is left out: its kernel module is
// not in every kernel, and its user-space datapath reads packets from AF_PACKET
// sockets, which is what one would measure, and not its rules.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"weft/bench/charge"
	"weft/bench/result"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == sinkArgument {
		exit(serveSink())
	}
	short := flag.Bool("short", false, "run briefly, to see that it works")
	runs := flag.Int("runs", 5, "runs")
	length := flag.Duration("length", 250*time.Millisecond, "of the load in each measurement")
	patience := flag.Duration("patience", 30*time.Second, "to spend in all on repeating measurements that other programs disturbed")
	adds := flag.Int("adds", 15, "rules to add one by one")
	only := flag.String("only", "", "S3: changes of rules alone, at the largest number of them")
	flag.Parse()
	b := bench{runs: *runs, length: *length, patience: *patience, adds: *adds, sizes: []int{10, 1000, 10_000, 100_000}}
	if *short {
		b.runs, b.length, b.patience, b.adds, b.sizes = 1, 20*time.Millisecond, 0, 2, []int{10, 1000}
	}
	switch *only {
	case "":
	case "S3":
		b.onlyChanges, b.sizes = true, b.sizes[len(b.sizes)-1:]
	default:
		exit(fmt.Errorf("-only %s: S3 is what can be run alone", *only))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(b.run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/firewall:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type bench struct {
	runs, adds int
	length     time.Duration
	patience   time.Duration
	sizes      []int // numbers of rules, ascending

	onlyChanges bool

	ground *ground
	meter  charge.Meter
	series result.Series
}

// subject is a firewall with so many rules, or none.
type subject struct {
	contender
	site *site
	n    int // what is sent is what a firewall of so many would be sent
}

func (x *subject) forget() error {
	if x.site.wall == nil {
		return nil
	}
	return x.site.wall.forget()
}

func (b *bench) add(mark, name string, x *subject, unit string, value float64) {
	b.series.Add(mark, name, x.name, unit, value)
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.ground, err = newGround(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.ground.clear()) }()
	b.meter = charge.Meter{Cgroup: cgroupName}
	subjects, err := b.raise(ctx)
	if err != nil {
		return err
	}
	for range b.runs {
		if b.onlyChanges {
			break
		}
		if err := b.turn(ctx, subjects); err != nil {
			return err
		}
	}
	var changing []*subject
	for _, x := range subjects {
		if x.changes && x.n == b.sizes[len(b.sizes)-1] {
			changing = append(changing, x)
		}
	}
	if err := b.changes(ctx, changing); err != nil {
		return err
	}
	return result.Write(os.Stdout, b.series.Cells()...)
}

// raise builds all sites. That without a firewall serves for every number of rules.
func (b *bench) raise(ctx context.Context) (out []*subject, err error) {
	bare, err := b.ground.newSite()
	if err != nil {
		return nil, err
	}
	for _, n := range b.sizes {
		out = append(out, &subject{contender{name: none, connections: true}, bare, n})
		for _, c := range present() {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if c.most > 0 && n > c.most || b.onlyChanges && !c.changes {
				continue
			}
			x := &subject{contender: c, n: n}
			if x.site, err = b.ground.newSite(); err != nil {
				return nil, err
			}
			wall, err := c.raise(x.site)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			x.site.wall = wall
			if err := load(wall, many(0, n)); err != nil {
				return nil, fmt.Errorf("%s: load %d rules: %w", c.name, n, err)
			}
			out = append(out, x)
		}
	}
	for _, x := range out {
		for _, r := range []rule{firstUDP(), lastUDP(x.n), lastTCP(x.n), missed()} {
			if err := x.site.sink.open(r); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// atEnd says whether a subject has the fewest rules or the most.
func (b *bench) atEnd(x *subject) bool {
	return x.n == b.sizes[0] || x.n == b.sizes[len(b.sizes)-1]
}

// turn is one run: each measurement at all sites before the next.
func (b *bench) turn(ctx context.Context, subjects []*subject) error {
	var steps []func(*subject) error
	atEnds := func(f func(*subject) error) {
		steps = append(steps, func(x *subject) error {
			if !b.atEnd(x) {
				return nil
			}
			return f(x)
		})
	}
	for _, f := range floods {
		measure := func(x *subject) error { return b.flood(x, f) }
		if f.every {
			steps = append(steps, measure)
		} else {
			atEnds(measure)
		}
	}
	for _, on := range []bool{true, false} {
		atEnds(func(x *subject) error { return b.streams(x, on) })
	}
	for _, workers := range []int{1, 32} {
		atEnds(func(x *subject) error {
			if !x.connections {
				return nil
			}
			return b.connections(x, workers)
		})
	}
	for _, step := range steps {
		for _, x := range subjects {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := step(x); err != nil {
				return fmt.Errorf("%s: %w", x.name, err)
			}
		}
	}
	return nil
}
