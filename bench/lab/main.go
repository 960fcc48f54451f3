// Command lab measures L1: how long a lab of many hosts takes to come up and to
// go down again, and what it leaves behind (mark: 1,000 namespaces up in 10 s,
// down in 5 s, 0 leaks). It needs root.
//
// Down returns when everything has been told to go; it is gone when the kernel
// has no namespace left that anything refers to.
//
// Mininet, where it is installed, builds the same star beside us, in PID, mount
// and network namespaces of its own, because its clean-up kills by name.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"weft/bench/charge"
	"weft/bench/result"
	"weft/lab"
)

func main() {
	hosts := flag.Int("hosts", 999, "hosts on one switch; the switch has a namespace too")
	runs := flag.Int("runs", 5, "runs")
	peerHosts := flag.Int("peer-hosts", 100, "hosts of the peer's runs; its time grows with the number")
	short := flag.Bool("short", false, "run briefly, to see that it works")
	flag.Parse()
	if *short {
		*hosts, *runs, *peerHosts = 50, 1, 10
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := measure(ctx, *hosts, *runs, *peerHosts)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/lab:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, hosts, runs, peerHosts int) error {
	if hosts < 1 || hosts > 1000 || runs < 1 {
		return errors.New("want 1 to 1000 hosts and at least 1 run")
	}
	if os.Geteuid() != 0 {
		return errors.New("making namespaces needs root; run it with sudo")
	}
	var series result.Series
	star := func(what string) string { return fmt.Sprintf("%d hosts on one switch, %s", hosts, what) }
	both := fmt.Sprintf("%d hosts on one switch, up and down", peerHosts)
	mn, err := exec.LookPath("mn")
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/lab: Mininet (mn) is not on PATH: left out")
	}
	// Interleaved: ours large, ours small, the peer small.
	for range runs {
		t, err := ours(ctx, hosts)
		if err != nil {
			return err
		}
		series.Add("L1", star("up"), result.Ours, "s", t.up)
		series.Add("L1", star("up, CPU of the machine"), result.Ours, "CPU-s", t.upCPU)
		series.Add("L1", star("down"), result.Ours, "s", t.down)
		series.Add("L1", star("down and gone from the kernel"), result.Ours, "s", t.gone)
		series.Add("L1", star("left behind"), result.Ours, "objects", float64(t.leaks))
		if t, err = ours(ctx, peerHosts); err != nil {
			return err
		}
		series.Add("L1", both, result.Ours, "s", t.up+t.gone)
		if mn == "" {
			continue
		}
		took, err := theirs(ctx, mn, peerHosts)
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench/lab: Mininet left out:", err)
			mn = ""
			continue
		}
		series.Add("L1", both, "Mininet", "s", took.Seconds())
		series.Note("L1", both, "Mininet", "s", "`mn --switch lxbr --test none`")
	}
	series.Note("L1", star("up"), result.Ours, "s", "mark: 10 for 1,000 namespaces")
	series.Note("L1", star("down and gone from the kernel"), result.Ours, "s", "mark: 5")
	return result.Write(os.Stdout, series.Cells()...)
}

// times are those of one lab.
type times struct {
	up, down, gone, upCPU float64
	leaks                 int
}

// ours builds a star of our own and takes it away.
func ours(ctx context.Context, hosts int) (t times, err error) {
	var b strings.Builder
	b.WriteString("apiVersion: weft/v1\nkind: Topology\nmetadata: {name: bench}\nspec:\n  switches: [{name: lan}]\n  hosts:\n")
	for i := range hosts {
		fmt.Fprintf(&b, "  - {name: h%d, attach: lan}\n", i)
	}
	topo, err := lab.Parse("bench.yaml", []byte(b.String()))
	if err != nil {
		return t, err
	}
	machine := charge.Meter{Cgroup: "weft-lab"}
	from, err := machine.Now()
	if err != nil {
		return t, err
	}
	began := time.Now()
	l, err := lab.Up(ctx, topo, lab.Options{})
	if err != nil {
		return t, err
	}
	up := time.Since(began)
	cpu, _, err := machine.Since(from)
	if err != nil {
		return t, errors.Join(err, l.Down())
	}
	// It must be a network and not only a set of namespaces.
	if out, err := l.Host("h0").Command(ctx, "ping", "-c1", "-W5", fmt.Sprintf("h%d", hosts-1)).CombinedOutput(); err != nil {
		return t, errors.Join(fmt.Errorf("the last host does not answer the first: %w: %s", err, out), l.Down())
	}
	w, err := watch(l)
	if err != nil {
		return t, errors.Join(err, l.Down())
	}
	defer w.close()
	began = time.Now()
	if err := l.Down(); err != nil {
		return t, err
	}
	returned := time.Since(began)
	alive, err := w.wait(30 * time.Second)
	if err != nil {
		return t, err
	}
	gone := time.Since(began)
	return times{up: up.Seconds(), upCPU: cpu, down: returned.Seconds(), gone: gone.Seconds(), leaks: len(lab.Leftovers(l.ID)) + alive}, nil
}

// theirs runs Mininet once, shut off from the machine.
func theirs(ctx context.Context, mn string, hosts int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	// It would raise the machine's limits, so /proc/sys is read-only for it.
	script := "mount --make-rprivate / && mount -t proc proc /proc && mount --bind /proc/sys /proc/sys &&" +
		" mount -o remount,bind,ro /proc/sys && mount -t tmpfs none /run && ip link set lo up && exec " +
		mn + fmt.Sprintf(" --switch lxbr --controller none --topo single,%d --test none", hosts)
	cmd := exec.CommandContext(ctx, "sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("mininet: %w: %s", err, tail(out.String()))
	}
	return time.Since(began), nil
}

func tail(s string) string { return s[max(0, len(s)-300):] }
