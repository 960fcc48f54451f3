package reach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/lab"
)

// Config of a run.
type Config struct {
	// Worker is the command that calls Work, and Env more of its environment.
	Worker []string
	Env    []string
	// Timeout is how long silence lasts until it means no answer; 1 s unless given.
	Timeout time.Duration
}

// patience is how many probes are on their way at once: more, and a busy
// machine's own delays look like a firewall's silence.
const patience = 256

// Run makes the probes, many at a time, and notes what came of each. An answer
// that was expected and did not come is waited for once more, three times as
// long, with little else going on.
func Run(ctx context.Context, cfg Config, probes []*Probe) (err error) {
	if len(cfg.Worker) == 0 {
		return errors.New("a run needs a worker's command")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Second
	}
	var places []*lab.Place
	for _, p := range probes {
		for _, place := range []*lab.Place{p.from, p.to} {
			if p.Made() && !slices.Contains(places, place) {
				places = append(places, place)
			}
		}
	}
	workers, err := hire(ctx, cfg, places)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, workers.dismiss()) }()
	for _, round := range rounds(probes) {
		if err := workers.round(ctx, cfg, round); err != nil {
			return err
		}
	}
	return nil
}

// rounds splits probes so that in each round every service has one listener in
// a network namespace: a host and its units share ports.
func rounds(probes []*Probe) [][]*Probe {
	type port struct {
		ns      string
		service Service
	}
	owners := map[port][]*lab.Place{}
	var out [][]*Probe
	for _, p := range probes {
		if !p.Made() {
			continue
		}
		at := port{p.to.NetNS(), p.service}
		i := slices.Index(owners[at], p.to)
		if i < 0 {
			i = len(owners[at])
			owners[at] = append(owners[at], p.to)
		}
		for len(out) <= i {
			out = append(out, nil)
		}
		out[i] = append(out[i], p)
	}
	return out
}

// round listens, asks, and stops listening.
func (c crew) round(ctx context.Context, cfg Config, probes []*Probe) error {
	type post struct {
		at      *lab.Place
		service Service
	}
	taken := map[post]bool{} // by a program that is not ours
	for _, p := range probes {
		at := post{p.to, p.service}
		if _, done := taken[at]; done {
			continue
		}
		a, err := c[p.to].tell(ctx, order{Do: "listen", Service: p.service})
		if err != nil {
			return err
		}
		if a.Busy && p.service.Protocol == "udp" {
			return fmt.Errorf("%s of %s is taken by another program, which need not answer; stop it or leave it out of the table", p.service, p.To)
		}
		taken[at] = a.Busy
	}
	ask := func(p *Probe, timeout time.Duration) error {
		o := order{Do: "call", Service: p.service, Target: p.Target, Timeout: timeout, Silent: taken[post{p.to, p.service}]}
		a, err := c[p.from].tell(ctx, o)
		p.Actual, p.Detail, p.Took = a.Verdict, a.Detail, a.Took
		return err
	}
	if err := each(probes, patience, func(p *Probe) error { return ask(p, cfg.Timeout) }); err != nil {
		return err
	}
	again := slices.DeleteFunc(slices.Clone(probes), func(p *Probe) bool { return p.Holds() || p.Actual != Deny })
	if err := each(again, 16, func(p *Probe) error { return ask(p, 3*cfg.Timeout) }); err != nil {
		return err
	}
	for at := range taken {
		if _, err := c[at.at].tell(ctx, order{Do: "close"}); err != nil {
			return err
		}
	}
	return nil
}

func each(probes []*Probe, atOnce int, f func(*Probe) error) error {
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, p := range probes {
		group.Go(func() error { return f(p) })
	}
	return group.Wait()
}
