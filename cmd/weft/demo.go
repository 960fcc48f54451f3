package main

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

	"github.com/spf13/cobra"

	"weft/examples"
	"weft/lab"
)

// demoSocket is where the command line looks when no context is set.
const demoSocket = "/run/weft/api.sock"

func newDemoCommand() *cobra.Command {
	var once bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Bring up the hybrid lab with a controller, a relay, agents and the first tap",
		Long: `Bring up a whole hybrid company in network namespaces of this machine: a data
centre behind two NATs, a cloud that blocks UDP, a second provider, an internet
in between; start a controller, a relay and an agent on every host; and draw a
tap line from the web servers in the cloud to the IDS at home.

Nothing outside the namespaces is touched. Ctrl-C removes all of it.`,
		Example: `  sudo weft demo           # stays up until Ctrl-C
  sudo weft demo --once    # checks every step, tears down, exits with the verdict`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Geteuid() != 0 {
				return errors.New("the demo makes network namespaces: run it as root (sudo weft demo)")
			}
			return runDemo(cmd.Context(), cmd.OutOrStdout(), once)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "check every step, tear down, and exit with the verdict")
	return cmd
}

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

func runDemo(ctx context.Context, out io.Writer, once bool) (err error) {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	d := &demo{out: out, bin: filepath.Dir(self), procs: map[string]*program{}}
	if _, err := os.Stat(d.agentPath()); err != nil {
		return fmt.Errorf("find weft-agent beside weft: %w; build both with make build", err)
	}
	checks := &checklist{out: out}
	defer func() {
		left := d.down()
		if once {
			checks.record("everything is gone again", strings.Join(left, ", "), left2err(left))
			err = errors.Join(err, checks.verdict())
		} else if len(left) > 0 {
			err = errors.Join(err, fmt.Errorf("left behind: %s", strings.Join(left, ", ")))
		}
	}()
	for _, s := range d.bringUp() {
		if !checks.run(ctx, s) {
			if once {
				return nil // the verdict says it
			}
			return checks.verdict()
		}
	}
	if !once {
		d.explain()
		<-ctx.Done()
		fmt.Fprintln(out, "\ntaking it down ...")
		return nil
	}
	for _, s := range d.checks() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !checks.run(ctx, s) && s.fatal {
			break
		}
	}
	return nil
}

func left2err(left []string) error {
	if len(left) > 0 {
		return errors.New("left behind")
	}
	return nil
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
