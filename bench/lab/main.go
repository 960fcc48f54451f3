// Command lab measures how long a lab of many hosts takes to come up and to go
// down again, and what it leaves behind (mark L1: 1,000 namespaces up in 10 s,
// down in 5 s, 0 leaks). It needs root.
//
// One JSON line for each cell goes to standard output; -markdown FILE replaces
// the L1 section of a results page as well. Down returns when everything has
// been told to go; it is gone when the kernel has no namespace left that
// anything refers to.
//
// Mininet, where it is installed, builds the same star beside us, in PID, mount
// and network namespaces of its own, because its clean-up kills by name.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"weft/lab"
)

func main() {
	hosts := flag.Int("hosts", 999, "hosts on one switch; the switch has a namespace too")
	runs := flag.Int("runs", 5, "runs")
	peerHosts := flag.Int("peer-hosts", 100, "hosts of the peer's runs; its time grows with the number")
	markdown := flag.String("markdown", "", "results page to write the L1 section of")
	flag.Parse()
	if err := measure(*hosts, *runs, *peerHosts, *markdown); err != nil {
		fmt.Fprintln(os.Stderr, "bench/lab:", err)
		os.Exit(1)
	}
}

// cell is one number, in the form that all scripts here print.
type cell struct {
	Name   string  `json:"name"`
	Peer   string  `json:"peer"`
	Unit   string  `json:"unit"`
	Median float64 `json:"median"`
	IQR    float64 `json:"iqr"`
	Runs   int     `json:"runs"`
	Kernel string  `json:"kernel"`
	Commit string  `json:"commit"`
}

func measure(hosts, runs, peerHosts int, markdown string) error {
	if hosts < 1 || hosts > 1000 || runs < 1 {
		return errors.New("want 1 to 1000 hosts and at least 1 run")
	}
	if os.Geteuid() != 0 {
		return errors.New("making namespaces needs root; run it with sudo")
	}
	samples := map[string][]float64{}
	note := func(peer, what string, v float64) { samples[what+"\x00"+peer] = append(samples[what+"\x00"+peer], v) }
	peer, why := mininet()
	if peer == "" {
		fmt.Fprintln(os.Stderr, "peer skipped:", why)
	}
	// Interleaved: ours large, ours small, the peer small.
	for range runs {
		if err := ours(hosts, note, ""); err != nil {
			return err
		}
		if peer == "" {
			continue
		}
		if err := ours(peerHosts, note, fmt.Sprintf("_%d", peerHosts)); err != nil {
			return err
		}
		took, err := theirs(peer, peerHosts)
		if err != nil {
			fmt.Fprintln(os.Stderr, "peer skipped:", err)
			peer = ""
			continue
		}
		note("mininet", fmt.Sprintf("L1_up_down_%d s", peerHosts), took.Seconds())
	}
	cells := summarise(samples)
	enc := json.NewEncoder(os.Stdout)
	for _, c := range cells {
		if err := enc.Encode(c); err != nil {
			return err
		}
	}
	if markdown == "" {
		return nil
	}
	return writeMarkdown(markdown, hosts, cells, why)
}

func ours(hosts int, note func(peer, what string, v float64), suffix string) error {
	var b strings.Builder
	b.WriteString("apiVersion: weft/v1\nkind: Topology\nmetadata: {name: bench}\nspec:\n  switches: [{name: lan}]\n  hosts:\n")
	for i := range hosts {
		fmt.Fprintf(&b, "  - {name: h%d, attach: lan}\n", i)
	}
	topo, err := lab.Parse("bench.yaml", []byte(b.String()))
	if err != nil {
		return err
	}
	idle := idleTime()
	began := time.Now()
	l, err := lab.Up(context.Background(), topo, lab.Options{})
	if err != nil {
		return err
	}
	up := time.Since(began)
	upCPU := up.Seconds()*float64(cpus()) - (idleTime() - idle)
	// It must be a network and not only a set of namespaces.
	if out, err := l.Host("h0").Command(context.Background(), "ping", "-c1", "-W5", fmt.Sprintf("h%d", hosts-1)).CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("the last host does not answer the first: %w: %s", err, out), l.Down())
	}
	w, err := watch(l)
	if err != nil {
		return errors.Join(err, l.Down())
	}
	defer w.close()
	began = time.Now()
	if err := l.Down(); err != nil {
		return err
	}
	returned := time.Since(began)
	alive, err := w.wait(30 * time.Second)
	if err != nil {
		return err
	}
	gone := time.Since(began)
	leaks := len(lab.Leftovers(l.ID)) + alive
	if suffix != "" {
		note("weft", "L1_up_down"+suffix+" s", (up + gone).Seconds())
		return nil
	}
	note("weft", "L1_up s", up.Seconds())
	note("weft", "L1_up_cpu cpu-s", upCPU)
	note("weft", "L1_down s", returned.Seconds())
	note("weft", "L1_down_gone s", gone.Seconds())
	note("weft", "L1_leaks objects", float64(leaks))
	return nil
}

// idleTime is the idle time of all processors together, in seconds.
func idleTime() float64 {
	data, _ := os.ReadFile("/proc/stat")
	fields := strings.Fields(strings.SplitN(string(data), "\n", 2)[0])
	var idle, wait float64
	if len(fields) > 5 {
		fmt.Sscan(fields[4], &idle)
		fmt.Sscan(fields[5], &wait)
	}
	return (idle + wait) / 100
}

func cpus() int {
	data, _ := os.ReadFile("/proc/stat")
	n := 0
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "cpu") && !strings.HasPrefix(line, "cpu ") {
			n++
		}
	}
	return n
}

// mininet returns the path of Mininet, or why there is none.
func mininet() (path, why string) {
	path, err := exec.LookPath("mn")
	if err != nil {
		return "", "mininet is not installed"
	}
	return path, ""
}

// theirs runs Mininet once, shut off from the machine.
func theirs(mn string, hosts int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
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

func summarise(samples map[string][]float64) []cell {
	var u unix.Utsname
	unix.Uname(&u)
	kernel, commit := unix.ByteSliceToString(u.Release[:]), revision()
	var cells []cell
	for key, values := range samples {
		what, peer, _ := strings.Cut(key, "\x00")
		name, unit, _ := strings.Cut(what, " ")
		slices.Sort(values)
		cells = append(cells, cell{name, peer, unit, round(quantile(values, 0.5)), round(quantile(values, 0.75) - quantile(values, 0.25)), len(values), kernel, commit})
	}
	slices.SortFunc(cells, func(a, b cell) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(b.Peer, a.Peer)) })
	return cells
}

func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

func round(v float64) float64 { return math.Round(v*1000) / 1000 }

func revision() string {
	if out, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output(); err == nil {
		return strings.TrimSpace(string(out))
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}

// Marks around our section of the results page.
const (
	begin = "<!-- bench/lab: begin -->\n"
	end   = "<!-- bench/lab: end -->\n"
)

func writeMarkdown(path string, hosts int, cells []cell, why string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s## L1: a lab of %d hosts on one switch\n\n", begin, hosts)
	fmt.Fprintf(&b, "Written by `bench/lab`. Kernel %s, commit %s.\n", cells[0].Kernel, cells[0].Commit)
	b.WriteString("`L1_down_gone` ends when the kernel has no namespace of the lab left that anything refers to. Mark to beat: up 10 s, down 5 s, 0 leaks.\n\n")
	b.WriteString("| cell | program | median | IQR | unit | runs |\n|---|---|---:|---:|---|---:|\n")
	median := map[string]float64{}
	for _, c := range cells {
		fmt.Fprintf(&b, "| %s | %s | %g | %g | %s | %d |\n", c.Name, c.Peer, c.Median, c.IQR, c.Unit, c.Runs)
		median[c.Name+c.Peer] = c.Median
	}
	for _, c := range cells {
		if m := median[c.Name+"weft"]; c.Peer != "weft" && c.Median > 0 {
			fmt.Fprintf(&b, "\n%s: weft takes %.3f of %s's time.\n", c.Name, m/c.Median, c.Peer)
		}
	}
	if why != "" {
		fmt.Fprintf(&b, "\nNo peer in this run: %s.\n", why)
	}
	b.WriteString(end)
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	text := string(old)
	if text == "" {
		text = "# Benchmarks\n\n"
	}
	before, rest, found := strings.Cut(text, begin)
	after := ""
	if found {
		_, after, _ = strings.Cut(rest, end)
	} else if !strings.HasSuffix(before, "\n\n") {
		before += "\n"
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.WriteString(f, before+b.String()+after)
	return err
}
