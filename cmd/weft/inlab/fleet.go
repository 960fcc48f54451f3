// Package inlab runs a controller on one host of a lab and an agent on every
// other, with the real programs, as a person would set them up.
package inlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"weft/lab"
)

// ControllerHost is the host of a topology that the controller runs on.
const ControllerHost = "controller"

// port is where agents call; most firewalls let it out.
const port = "443"

// Config of a Fleet.
type Config struct {
	Bin string // directory of weft and weft-agent
	// AgentArgs are more arguments for every agent.
	AgentArgs []string
}

// Fleet is what runs in a lab.
type Fleet struct {
	cfg   Config
	lab   *lab.Lab
	procs []*proc
}

type proc struct {
	name, log string
	cmd       *lab.Cmd
	done      chan struct{}
}

// Socket is where the controller of a lab answers, and whether there is one.
func Socket(l *lab.Lab) (string, bool) {
	h := l.Host(ControllerHost)
	if h == nil {
		return "", false
	}
	path := filepath.Join(h.StateDir(), "api.sock")
	_, err := os.Stat(path)
	return path, err == nil
}

// Up starts the controller and the agents and waits until all have joined.
func Up(ctx context.Context, cfg Config, l *lab.Lab) (*Fleet, error) {
	f := &Fleet{cfg: cfg, lab: l}
	if l.Host(ControllerHost) == nil {
		return nil, fmt.Errorf("topology %s has no host named %s to run the controller; add one", l.Name, ControllerHost)
	}
	for _, program := range []string{"weft", "weft-agent"} {
		if _, err := os.Stat(filepath.Join(cfg.Bin, program)); err != nil {
			return nil, fmt.Errorf("find weft-agent beside weft: %w; build both with make build", err)
		}
	}
	if err := f.up(ctx); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *Fleet) up(ctx context.Context) error {
	if err := f.controller(ctx); err != nil {
		return err
	}
	for _, h := range f.machines() {
		if err := f.agent(ctx, h); err != nil {
			return err
		}
	}
	return f.wait(ctx, 30*time.Second, func() error {
		out, err := f.weft(ctx, "get", "hosts", "-o", "json")
		if err != nil {
			return err
		}
		return joined(out, f.machines())
	})
}

// machines are the hosts that run an agent.
func (f *Fleet) machines() []*lab.Host {
	return slices.DeleteFunc(slices.Clone(f.lab.Hosts()), func(h *lab.Host) bool { return h.IsRouter() || !h.Up() || h.Name == ControllerHost })
}

func (f *Fleet) controller(ctx context.Context) error {
	h := f.lab.Host(ControllerHost)
	socket := filepath.Join(h.StateDir(), "api.sock")
	err := f.start(h, "controller", filepath.Join(f.cfg.Bin, "weft"), "controller", "--data", filepath.Join(h.StateDir(), "controller"),
		"--listen", ":"+port, "--name", ControllerHost, "--socket", socket, "--socket-owner", owner())
	if err != nil {
		return err
	}
	return f.wait(ctx, 20*time.Second, func() error {
		_, err := f.weft(ctx, "get", "hosts")
		return err
	})
}

// owner is who asked for the lab, so that no sudo is needed for the rest.
func owner() string {
	if uid := os.Getenv("SUDO_UID"); uid != "" {
		return uid
	}
	return fmt.Sprint(os.Getuid())
}

func (f *Fleet) agent(ctx context.Context, h *lab.Host) error {
	token, err := f.weft(ctx, "token", "create")
	if err != nil {
		return fmt.Errorf("make a token for %s: %w", h.Name, err)
	}
	file := filepath.Join(h.StateDir(), "join.token")
	if err := os.WriteFile(file, token, 0o600); err != nil {
		return err
	}
	argv := []string{filepath.Join(f.cfg.Bin, "weft-agent"), "run", "--controller", "https://" + ControllerHost + ":" + port, "--token-file", file,
		"--state-dir", filepath.Join(h.StateDir(), "agent"), "--cgroup-root", h.CgroupDir(), "--bpf-dir", h.BPFDir(), "--labels-dir", "-"}
	if h.Cloud() == nil {
		argv = append(argv, "--metadata", "-")
	}
	for k, v := range h.Labels() {
		argv = append(argv, "--labels", k+"="+v)
	}
	return f.start(h, "agent", append(argv, f.cfg.AgentArgs...)...)
}

func (f *Fleet) start(h *lab.Host, name string, argv ...string) error {
	path := filepath.Join(h.StateDir(), name+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the program has it too
	cmd := h.Command(context.Background(), argv...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s on %s: %w", name, h.Name, err)
	}
	p := &proc{name + " on " + h.Name, path, cmd, make(chan struct{})}
	go func() {
		cmd.Wait() //nolint:errcheck // seen by wait
		close(p.done)
	}()
	f.procs = append(f.procs, p)
	return nil
}

// weft runs the command line against the lab's controller.
func (f *Fleet) weft(ctx context.Context, args ...string) ([]byte, error) {
	socket, _ := Socket(f.lab)
	cmd := exec.CommandContext(ctx, filepath.Join(f.cfg.Bin, "weft"), args...)
	cmd.Env = append(os.Environ(), "WEFT_SERVER=unix://"+socket)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("weft %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// wait asks until there is no error, or a program has ended.
func (f *Fleet) wait(ctx context.Context, limit time.Duration, ask func() error) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		err := ask()
		if err == nil {
			return nil
		}
		for _, p := range f.procs {
			select {
			case <-p.done:
				return fmt.Errorf("%s has ended:\n%s", p.name, tail(p.log))
			default:
			}
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return errors.Join(err, ctx.Err())
		}
	}
}

func tail(file string) string {
	data, _ := os.ReadFile(file)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// Close ends what was started, the last first: kindly, then by process id. What
// agents put into their kernels goes with the lab. A nil Fleet has nothing to end.
func (f *Fleet) Close() error {
	if f == nil {
		return nil
	}
	for _, p := range slices.Backward(f.procs) {
		p.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
	}
	for _, p := range f.procs {
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			p.cmd.Process.Kill() //nolint:errcheck // it may have ended now
			<-p.done
		}
	}
	return nil
}
