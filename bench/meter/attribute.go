package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"weft/bench/result"
	"weft/lab"
)

var containers = []string{"c1", "c2", "c3"}

// caller is a program that connects, of a name of its own.
type caller struct {
	where     lab.Runner
	container string // empty on the host itself
	program   string
}

// callersOn are those of a machine: one on it, and one in each container.
func (b *bench) callersOn(h *lab.Host) ([]caller, error) {
	out := []caller{{h, "", filepath.Join(h.StateDir(), "call-host")}}
	for _, c := range containers {
		out = append(out, caller{h.Container(c), c, filepath.Join(h.StateDir(), "call-"+c)})
	}
	for _, c := range out {
		if err := copyProgram(b.self, c.program); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func copyProgram(from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// connect has all callers make their part of the connections at the same time.
func (b *bench) connect(ctx context.Context, callers []caller) error {
	failed := make([]error, len(callers))
	var all sync.WaitGroup
	for i, c := range callers {
		all.Go(func() {
			_, failed[i] = generated(c.where.Command(ctx, c.program, "connect", fmt.Sprint(b.sinkAddress(), ":", callPort), strconv.Itoa(b.connections/len(callers))))
		})
	}
	all.Wait()
	return errors.Join(failed...)
}

func (b *bench) attributed() string {
	return fmt.Sprintf("connections put to their process and container, of %d, half of 50 ms and half shorter", b.connections)
}

const bytesAttributed = "bytes put to their process and container"

// attribute measures F2.
func (b *bench) attribute(ctx context.Context) error {
	if err := b.attributeWeft(ctx); err != nil {
		return err
	}
	if there("ss") {
		if err := b.attributeSS(ctx); err != nil {
			return fmt.Errorf("ss: %w", err)
		}
	}
	if there("nethogs") {
		if err := b.attributeNethogs(ctx); err != nil {
			return fmt.Errorf("nethogs: %w", err)
		}
	}
	return nil
}

func (b *bench) attributeWeft(ctx context.Context) error {
	callers, err := b.callersOn(b.metered)
	if err != nil {
		return err
	}
	cmd, err := b.agent(ctx)
	if err != nil {
		return err
	}
	defer stop(cmd)
	// right is what was put to the callers, all also what was put to somebody else.
	type counts struct{ connections, bytes uint64 }
	ask := func() (right, all counts, err error) {
		list, err := b.flows(ctx, "client,process", fmt.Sprintf("host=%s,port=%d,reporter=client", b.metered.Name, callPort))
		for _, x := range list {
			n := counts{x.Connections, x.Sent.Bytes + x.Received.Bytes}
			all.connections, all.bytes = all.connections+n.connections, all.bytes+n.bytes
			for _, c := range callers {
				name := b.metered.Name
				if c.container != "" {
					name += ":" + c.container
				}
				if x.Key["client"] == name && x.Key["process"] == c.program {
					right.connections, right.bytes = right.connections+n.connections, right.bytes+n.bytes
				}
			}
		}
		return right, all, err
	}
	before, beforeAll, err := ask()
	if err != nil {
		return err
	}
	if err := b.connect(ctx, callers); err != nil {
		return err
	}
	right, all := before, beforeAll
	want := beforeAll.connections + uint64(b.connections)
	for since := time.Now(); time.Since(since) < b.patience; time.Sleep(500 * time.Millisecond) {
		was := all
		if right, all, err = ask(); err != nil {
			return err
		}
		if all.connections >= want && all == was { // and their last bytes
			break
		}
		if all != was {
			since = time.Now()
		}
	}
	b.series.Add("F2", b.attributed(), result.Ours, "%", 100*float64(right.connections-before.connections)/float64(b.connections))
	b.series.Add("F2", bytesAttributed, result.Ours, "%", 100*float64(right.bytes-before.bytes)/float64(max(1, all.bytes-beforeAll.bytes)))
	return nil
}

// processOf finds the local port and the name of the process in a line of ss -Htnp.
var processOf = regexp.MustCompile(`:(\d+) +[\d.]+:` + strconv.Itoa(callPort) + ` +users:\(\("([^"]+)"`)

// attributeSS asks ss each second, on the machine and in each of its containers.
func (b *bench) attributeSS(ctx context.Context) error {
	callers, err := b.callersOn(b.plain)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- b.connect(ctx, callers) }()
	seen := map[string]bool{}
	for tick := time.NewTicker(time.Second); ; {
		for _, c := range callers {
			out, err := c.where.Command(ctx, "ss", "-Htnp").Output()
			if err != nil {
				return errors.Join(err, <-done)
			}
			for _, m := range processOf.FindAllStringSubmatch(string(out), -1) {
				if m[2] == filepath.Base(c.program) {
					seen[c.container+":"+m[1]] = true
				}
			}
		}
		select {
		case err := <-done:
			tick.Stop()
			b.series.Add("F2", b.attributed(), "ss -tnp each second", "%", 100*float64(len(seen))/float64(b.connections))
			b.series.Note("F2", b.attributed(), "ss -tnp each second", "%", "asked in each network namespace")
			return err
		case <-tick.C:
		}
	}
}

// attributeNethogs has nethogs watch the machine's interface. It knows no
// connections, only bytes of processes; it says how many so far, each second.
func (b *bench) attributeNethogs(ctx context.Context) error {
	callers, err := b.callersOn(b.plain)
	if err != nil {
		return err
	}
	cmd := b.plain.Command(ctx, "nethogs", "-t", "-v", "2", "-d", "1", "eth0")
	out, err := started(cmd)
	if err != nil {
		return err
	}
	defer stop(cmd)
	refreshed, largest := make(chan struct{}, 1), make(chan map[string]float64, 1)
	go func() { largest <- nethogsBytes(out, refreshed) }()
	if err := b.sniffing(ctx); err != nil {
		return err
	}
	before, err := bytesOf(b.plain)
	if err != nil {
		return err
	}
	if err := b.connect(ctx, callers); err != nil {
		return err
	}
	// It looks through all processes for each connection, and says nothing until it has
	// caught up.
	for late, n := time.After(b.patience), 0; n < 3; n++ {
		select {
		case <-refreshed:
		case <-late:
			n = 3
		}
	}
	after, err := bytesOf(b.plain)
	if err != nil {
		return err
	}
	stop(cmd)
	right := 0.0
	for name, n := range <-largest {
		for _, c := range callers {
			if strings.HasPrefix(name, c.program+"/") || strings.HasPrefix(name, c.program+" ") {
				right += n
			}
		}
	}
	b.series.Add("F2", bytesAttributed, "nethogs", "%", 100*right/max(1, after-before))
	b.series.Note("F2", bytesAttributed, "nethogs", "%", "of bytes at the machine's interface; it knows no connections and no containers, and looks through all processes for each connection")
	return nil
}

// nethogsBytes reads "PROGRAM/PID/UID\tSENT\tRECEIVED" and returns the most that each
// was said to have.
func nethogsBytes(out io.Reader, refreshed chan<- struct{}) map[string]float64 {
	most := map[string]float64{}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "Refreshing") {
			select {
			case refreshed <- struct{}{}:
			default:
			}
		}
		f := strings.Split(lines.Text(), "\t")
		if len(f) != 3 {
			continue
		}
		s, err1 := strconv.ParseFloat(f[1], 64)
		r, err2 := strconv.ParseFloat(f[2], 64)
		if err1 == nil && err2 == nil {
			most[f[0]] = max(most[f[0]], s+r)
		}
	}
	return most
}
