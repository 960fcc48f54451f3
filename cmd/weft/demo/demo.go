// Package demo brings up a whole hybrid company in a lab: controller, relay,
// agents, the first tap. It runs the real programs and uses the command line as
// a person would; with Once it checks every step.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"weft/examples"
	"weft/lab"
)

// demoSocket is where the command line looks when no context is set.
const demoSocket = "/run/weft/api.sock"

// demo is one run: a lab, and the programs started in it.
type demo struct {
	out    io.Writer
	lab    *lab.Lab
	bin    string // directory of weft and weft-agent
	socket string
	linked bool // demoSocket is ours
	procs  map[string]*program
	work   string // captures and manifests of this run
}

// Options of a run.
type Options struct {
	Bin  string // directory of the programs weft and weft-agent
	Once bool   // check every step, tear down, and return the verdict
}

// ErrFailed says that a step failed; the list that was printed says which.
var ErrFailed = errors.New("a step failed")

// Run brings the demo up, stays until ctx ends unless told otherwise, and takes
// all of it down. It prints a line "ok  STEP" or "FAIL STEP" each and needs root.
func Run(ctx context.Context, out io.Writer, o Options) (err error) {
	d := &demo{out: out, bin: o.Bin, procs: map[string]*program{}}
	if _, err := os.Stat(d.agentPath()); err != nil {
		return fmt.Errorf("find weft-agent beside weft: %w; build both with make build", err)
	}
	checks := &checklist{out: out}
	defer func() {
		left := d.down()
		if o.Once {
			checks.record("everything is gone again", "", leftBehind(left))
			err = errors.Join(err, checks.verdict())
		} else {
			err = errors.Join(err, leftBehind(left))
		}
	}()
	for _, s := range d.bringUp() {
		if !checks.run(ctx, s) {
			if o.Once {
				return nil // the verdict says it
			}
			return checks.verdict()
		}
	}
	if !o.Once {
		d.explain()
		<-ctx.Done()
		fmt.Fprintln(out, "\ntaking it down ...")
		return nil
	}
	for _, s := range d.checks() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		checks.run(ctx, s)
	}
	return nil
}

func leftBehind(left []string) error {
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("left behind: %s", strings.Join(left, ", "))
}

func (d *demo) agentPath() string { return filepath.Join(d.bin, "weft-agent") }
func (d *demo) weftPath() string  { return filepath.Join(d.bin, "weft") }

// bringUp are the steps that every demo takes, in order; each needs the last.
func (d *demo) bringUp() []step {
	return []step{
		{name: "lab is up", run: d.labUp},
		{name: "controller answers", run: d.controllerUp},
		{name: "relay has joined", run: d.relayUp},
		{name: "agents have joined", run: d.agentsUp},
		{name: "web servers serve", run: d.serversUp},
		{name: "tap web-to-ids is drawn", run: d.drawTap},
		{name: "tap is active", run: d.tapActive},
	}
}

func (d *demo) labUp(ctx context.Context) (string, error) {
	if _, err := lab.Sweep(); err != nil {
		return "", fmt.Errorf("sweep what a crashed lab left: %w", err)
	}
	topology, err := lab.Parse("examples/hybrid.yaml", examples.Hybrid)
	if err != nil {
		return "", err
	}
	d.lab, err = lab.Up(ctx, topology, lab.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return "", err
	}
	d.work = filepath.Join(d.lab.Dir(), "demo")
	if err := os.MkdirAll(d.work, 0o700); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %d hosts", d.lab.ID, len(d.lab.Hosts())), nil
}

// down stops the programs, removes the lab and returns what is left of it.
func (d *demo) down() []string {
	if d.linked {
		os.Remove(demoSocket)
	}
	// Agents first: they end their streams in order while there is a relay.
	d.stop(func(name string) bool { return name != controllerName && name != relayName })
	d.stop(func(string) bool { return true })
	if d.lab == nil {
		return nil
	}
	id := d.lab.ID
	if err := d.lab.Down(); err != nil {
		return append(lab.Leftovers(id), err.Error())
	}
	return lab.Leftovers(id)
}

// stop ends the programs of some names, at the same time.
func (d *demo) stop(which func(name string) bool) {
	var all sync.WaitGroup
	for name, p := range d.procs {
		if which(name) {
			all.Go(p.stop)
		}
	}
	all.Wait()
}

func (d *demo) explain() {
	fmt.Fprintf(d.out, `
The lab is up. Look at it from another terminal:

  %[1]s get hosts
  %[1]s get workloads -l app=web -o wide
  %[1]s get group web --members
  %[1]s get taps -o wide -w
  %[1]s flows -f
  %[1]s flows --group-by client,server,port,process
  sudo %[1]s lab exec web-1:web-1a -- curl -s http://web-1b/
  sudo %[1]s lab exec ids -- tcpdump -ni weft0 -c 5

Logs are below %[2]s. Ctrl-C removes everything.
`, d.relative(d.weftPath()), filepath.Join(d.lab.Dir(), "hosts"))
}

// relative shortens a path for people.
func (d *demo) relative(path string) string {
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, path); err == nil && !strings.HasPrefix(rel, "..") {
			return "./" + rel
		}
	}
	return path
}

// weft runs the command line as a user would.
func (d *demo) weft(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.weftPath(), args...)
	cmd.Env = append(os.Environ(), "WEFT_SERVER=unix://"+d.socket)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("weft %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// ownerUID is the person who called sudo, or root.
func ownerUID() string {
	if uid := os.Getenv("SUDO_UID"); uid != "" {
		if _, err := strconv.Atoi(uid); err == nil {
			return uid
		}
	}
	return "0"
}

// retry asks until the answer is good, and returns the last error.
func retry(ctx context.Context, limit time.Duration, ask func() (string, error)) (string, error) {
	deadline := time.Now().Add(limit)
	for {
		detail, err := ask()
		if err == nil || time.Now().After(deadline) {
			return detail, err
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
