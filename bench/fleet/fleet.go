// Package fleet brings up a lab with a controller, and relays and agents as a
// benchmark wants them.
package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"weft/lab"
	"weft/model"
)

// controllerHost is the host of every topology that the controller runs on.
const controllerHost = "controller"

const controllerURL = "https://controller:7443"

// Fleet is a lab and the programs in it.
type Fleet struct {
	*lab.Lab
	Bin    string // directory of weft and weft-agent
	socket string
	procs  []*lab.Cmd
}

// Bin is where the programs to measure are: WEFT_BIN, or ./bin.
func Bin() (string, error) {
	bin := os.Getenv("WEFT_BIN")
	if bin == "" {
		bin = "bin"
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		return "", err
	}
	for _, program := range []string{"weft", "weft-agent"} {
		if _, err := os.Stat(filepath.Join(bin, program)); err != nil {
			return "", fmt.Errorf("find the programs to measure: %w; build them with make build", err)
		}
	}
	return bin, nil
}

// Up builds the topology, which has a host "controller", and starts the
// controller there. Down ends all.
func Up(ctx context.Context, topology string) (*Fleet, error) {
	bin, err := Bin()
	if err != nil {
		return nil, err
	}
	t, err := lab.Parse("bench", []byte(topology))
	if err != nil {
		return nil, err
	}
	l, err := lab.Up(ctx, t, lab.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	h := l.Host(controllerHost)
	f := &Fleet{Lab: l, Bin: bin, socket: filepath.Join(h.StateDir(), "api.sock")}
	if _, err = f.Start(ctx, h, filepath.Join(bin, "weft"), "controller", "--data", filepath.Join(h.StateDir(), "data"), "--name", controllerHost, "--socket", f.socket); err == nil {
		err = Await(20*time.Second, func() error { _, err := f.Weft(ctx, "", "get", "hosts"); return err })
	}
	if err != nil {
		return nil, errors.Join(err, f.Down())
	}
	return f, nil
}

// Down stops the programs, the last first, and takes the lab away.
func (f *Fleet) Down() error {
	for i := len(f.procs) - 1; i >= 0; i-- {
		Stop(f.procs[i])
	}
	return f.Lab.Down()
}

// Start starts a program on a host; its output goes to a log in the host's
// state directory.
func (f *Fleet) Start(ctx context.Context, h *lab.Host, argv ...string) (*lab.Cmd, error) {
	cmd := h.Command(ctx, argv...)
	cmd.Env = append(os.Environ(), "HOME="+h.StateDir())
	log, err := os.Create(filepath.Join(h.StateDir(), filepath.Base(argv[0])+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", argv[0], h.Name, err)
	}
	f.procs = append(f.procs, cmd)
	return cmd, nil
}

// Stop ends a program and waits for it. A second call does nothing.
func Stop(cmd *lab.Cmd) {
	if cmd.ProcessState == nil {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	}
}

// token writes a join token where only root can read it.
func (f *Fleet) token(ctx context.Context, h *lab.Host, args ...string) (string, error) {
	secret, err := f.Weft(ctx, "", append([]string{"token", "create"}, args...)...)
	if err != nil {
		return "", err
	}
	path := filepath.Join(h.StateDir(), "join.token")
	return path, os.WriteFile(path, []byte(secret), 0o600)
}

// Agent starts an agent and waits until the controller sees it. An agent
// started again keeps its identity.
func (f *Fleet) Agent(ctx context.Context, h *lab.Host, args ...string) (*lab.Cmd, error) {
	path := filepath.Join(h.StateDir(), "join.token")
	if _, err := os.Stat(path); err != nil {
		if path, err = f.token(ctx, h); err != nil {
			return nil, err
		}
	}
	cmd, err := f.Start(ctx, h, append([]string{filepath.Join(f.Bin, "weft-agent"), "run", "--controller", controllerURL, "--token-file", path,
		"--state-dir", filepath.Join(h.StateDir(), "agent"), "--cgroup-root", h.CgroupDir(), "--bpf-dir", h.BPFDir()}, args...)...)
	if err != nil {
		return nil, err
	}
	return cmd, Await(20*time.Second, func() error {
		var hosts []model.Host
		if err := f.Get(ctx, &hosts, "hosts"); err != nil {
			return err
		}
		for _, host := range hosts {
			if host.Metadata.Name == h.Name && host.Status.State == model.HostOnline {
				return nil
			}
		}
		return fmt.Errorf("the agent of %s is not online", h.Name)
	})
}

// Relay starts a relay and waits until the controller sees one.
func (f *Fleet) Relay(ctx context.Context, h *lab.Host) (*lab.Cmd, error) {
	path, err := f.token(ctx, h, "--role", "relay")
	if err != nil {
		return nil, err
	}
	cmd, err := f.Start(ctx, h, filepath.Join(f.Bin, "weft"), "relay", "--controller", controllerURL, "--token-file", path,
		"--listen", ":443", "--advertise", h.Addresses()[0].String()+":443", "--data", filepath.Join(h.StateDir(), "relay"))
	if err != nil {
		return nil, err
	}
	return cmd, Await(20*time.Second, func() error {
		var relays []model.Relay
		if err := f.Get(ctx, &relays, "relays"); err != nil {
			return err
		}
		if len(relays) == 0 || relays[0].Status.State != model.HostOnline {
			return errors.New("the relay is not online")
		}
		return nil
	})
}

// Tap draws a line from one label to another and waits until packets cross it.
func (f *Fleet) Tap(ctx context.Context, name, from, to string) (*model.Tap, error) {
	manifest := fmt.Sprintf("apiVersion: weft/v1\nkind: Tap\nmetadata: {name: %s}\nspec: {from: {selector: %q}, to: {selector: %q}}\n", name, from, to)
	if _, err := f.Weft(ctx, manifest, "apply", "-f", "-"); err != nil {
		return nil, err
	}
	var tap *model.Tap
	return tap, Await(15*time.Second, func() (err error) {
		if tap, err = f.ReadTap(ctx, name); err == nil && tap.Status.State != model.TapActive {
			err = fmt.Errorf("tap %s is %s: %s %+v", name, tap.Status.State, tap.Status.Message, tap.Status.Paths)
		}
		return err
	})
}

// ReadTap asks for a tap as it is now.
func (f *Fleet) ReadTap(ctx context.Context, name string) (*model.Tap, error) {
	var taps []model.Tap
	if err := f.Get(ctx, &taps, "taps", name); err != nil {
		return nil, err
	}
	if len(taps) != 1 {
		return nil, fmt.Errorf("there are %d taps of the name %s", len(taps), name)
	}
	return &taps[0], nil
}

// Untap takes a line away.
func (f *Fleet) Untap(ctx context.Context, name string) error {
	_, err := f.Weft(ctx, "", "delete", "tap", name)
	return err
}

// Get decodes a list of resources as the command line prints it.
func (f *Fleet) Get(ctx context.Context, into any, what ...string) error {
	out, err := f.Weft(ctx, "", append([]string{"get", "-o", "json"}, what...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("decode %s: %w", what[0], err)
	}
	return nil
}

// Weft runs the command line as a user would.
func (f *Fleet) Weft(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(f.Bin, "weft"), args...)
	cmd.Env = append(os.Environ(), "WEFT_SERVER=unix://"+f.socket)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(f.Host(controllerHost).StateDir(), "weft.log"))
		return string(out), fmt.Errorf("weft %s: %w: %s\nthe controller's last words: %s", strings.Join(args, " "), err,
			strings.TrimSpace(stderr.String()), log[max(0, len(log)-500):])
	}
	return string(out), nil
}

// Await asks until the answer is good, and returns the last error.
func Await(limit time.Duration, ask func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := ask()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
