package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"weft/examples"
	"weft/lab"
	"weft/model"
)

const (
	demoTap        = "web-to-ids"
	controllerName = "controller"
	relayName      = "relay"
	// demoController is where agents call: a port that every cloud lets out.
	demoController = "https://controller:443"
)

func (d *demo) controllerUp(ctx context.Context) (string, error) {
	h := d.lab.Host(controllerName)
	d.socket = filepath.Join(h.StateDir(), "api.sock")
	if _, err := os.Lstat(demoSocket); os.IsNotExist(err) && os.MkdirAll(filepath.Dir(demoSocket), 0o755) == nil {
		d.socket, d.linked = demoSocket, true
	}
	if _, err := d.startController(ctx); err != nil {
		return "", err
	}
	return retry(ctx, 20*time.Second, func() (string, error) {
		if err := d.procs[controllerName].exited(); err != nil {
			return "", err
		}
		_, err := d.weft(ctx, "get", "hosts")
		return d.socket, err
	})
}

func (d *demo) startController(ctx context.Context) (*program, error) {
	h := d.lab.Host(controllerName)
	return d.start(controllerName, h.Command(context.WithoutCancel(ctx), d.weftPath(), "controller",
		"--data", filepath.Join(h.StateDir(), "controller"), "--listen", ":443", "--name", "controller",
		"--socket", d.socket, "--socket-owner", ownerUID()), h.StateDir())
}

// token makes a join token and leaves it in a file only root can read.
func (d *demo) token(ctx context.Context, dir string, args ...string) (string, error) {
	secret, err := d.weft(ctx, append([]string{"token", "create"}, args...)...)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "join.token")
	return path, os.WriteFile(path, []byte(secret), 0o600)
}

func (d *demo) relayUp(ctx context.Context) (string, error) {
	dir := d.lab.Host(relayName).StateDir()
	if _, err := d.token(ctx, dir, "--role", "relay"); err != nil {
		return "", err
	}
	if _, err := d.startRelay(ctx); err != nil {
		return "", err
	}
	return retry(ctx, 20*time.Second, func() (string, error) {
		if err := d.procs[relayName].exited(); err != nil {
			return "", err
		}
		var relays []model.Relay
		if err := d.get(ctx, &relays, "relays"); err != nil {
			return "", err
		}
		if len(relays) != 1 || relays[0].Status.State != model.HostOnline {
			return "", fmt.Errorf("the relay is not online")
		}
		return relays[0].Spec.Addresses[0], nil
	})
}

func (d *demo) startRelay(ctx context.Context) (*program, error) {
	h := d.lab.Host(relayName)
	address := h.Addresses()[0].String() + ":443"
	return d.start(relayName, h.Command(context.WithoutCancel(ctx), d.weftPath(), "relay",
		"--controller", demoController, "--token-file", filepath.Join(h.StateDir(), "join.token"),
		"--listen", ":443", "--advertise", address, "--data", filepath.Join(h.StateDir(), "relay")), h.StateDir())
}

// machines are the hosts that run an agent: not the routers, not the internet.
func (d *demo) machines() []*lab.Host {
	var out []*lab.Host
	for _, h := range d.lab.Hosts() {
		switch h.Name {
		case controllerName, relayName, "www":
		default:
			if !h.IsRouter() && h.Up() {
				out = append(out, h)
			}
		}
	}
	return out
}

func (d *demo) agentsUp(ctx context.Context) (string, error) {
	machines := d.machines()
	for _, h := range machines {
		if _, err := d.token(ctx, h.StateDir()); err != nil {
			return "", err
		}
		if _, err := d.startAgent(ctx, h); err != nil {
			return "", err
		}
	}
	return retry(ctx, 30*time.Second, func() (string, error) {
		online := map[string]bool{}
		var hosts []model.Host
		if err := d.get(ctx, &hosts, "hosts"); err != nil {
			return "", err
		}
		for _, h := range hosts {
			// An agent reports what it has found once all who name it have answered.
			online[h.Metadata.Name] = h.Status.State == model.HostOnline && h.Status.Workloads > 0
		}
		for _, h := range machines {
			if !online[h.Name] {
				return d.procs[h.Name].tail(), fmt.Errorf("%s is not online, or has not said what is there", h.Name)
			}
		}
		return fmt.Sprintf("%d hosts online", len(machines)), nil
	})
}

// startAgent starts the agent of a lab host, or starts it again.
func (d *demo) startAgent(ctx context.Context, h *lab.Host) (*program, error) {
	argv := []string{d.agentPath(), "run", "--controller", demoController,
		"--token-file", filepath.Join(h.StateDir(), "join.token"), "--state-dir", filepath.Join(h.StateDir(), "agent"),
		"--cgroup-root", h.CgroupDir(), "--bpf-dir", h.BPFDir()}
	var labels []string
	for k, v := range h.Labels() {
		labels = append(labels, k+"="+v)
	}
	if len(labels) > 0 {
		argv = append(argv, "--labels", strings.Join(labels, ","))
	}
	return d.start(h.Name, h.Command(context.WithoutCancel(ctx), argv...), h.StateDir())
}

// pageServer is a web server of the demo.
type pageServer struct {
	name  string
	where lab.Runner
	cmd   func(ctx context.Context, argv ...string) *lab.Cmd
	dir   string
}

func (d *demo) serversUp(ctx context.Context) (string, error) {
	web1, app1, www := d.lab.Host("web-1"), d.lab.Host("app-1"), d.lab.Host("www")
	servers := []pageServer{
		{"www", www, www.Command, www.StateDir()},
		{"orders", app1, func(ctx context.Context, argv ...string) *lab.Cmd { return app1.UnitCommand(ctx, "orders", argv...) }, app1.StateDir()},
	}
	for _, c := range web1.Containers() {
		servers = append(servers, pageServer{c.Name, c, c.Command, web1.StateDir()})
	}
	for _, s := range servers {
		if _, err := d.start(s.name+"-http", s.cmd(context.WithoutCancel(ctx), d.weftPath(), "lab", "serve", "--listen", ":80"), s.dir); err != nil {
			return "", err
		}
	}
	return retry(ctx, 10*time.Second, func() (string, error) {
		for _, s := range servers {
			if err := d.procs[s.name+"-http"].exited(); err != nil {
				return "", err
			}
			if _, err := output(ctx, s.where, "curl", "-sS", "--fail", "-o", "/dev/null", "--max-time", "5", "http://127.0.0.1/1"); err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("%d servers", len(servers)), nil
	})
}

func (d *demo) drawTap(ctx context.Context) (string, error) {
	if err := os.WriteFile(filepath.Join(d.work, "groups.yaml"), examples.Groups, 0o644); err != nil {
		return "", err
	}
	tap := filepath.Join(d.work, "tap-web-to-ids.yaml")
	if err := os.WriteFile(tap, examples.TapWebToIDs, 0o644); err != nil {
		return "", err
	}
	if _, err := d.weft(ctx, "apply", "-f", filepath.Join(d.work, "groups.yaml")); err != nil {
		return "", err
	}
	if _, err := retry(ctx, 10*time.Second, func() (string, error) {
		out, err := d.weft(ctx, "get", "group", "web", "--members", "-o", "name")
		if n := len(strings.Fields(out)); err == nil && n != 3 {
			return out, fmt.Errorf("group web has %d members, want 3", n)
		}
		return out, err
	}); err != nil {
		return "", err
	}
	out, err := d.weft(ctx, "apply", "-f", tap)
	out = strings.TrimSpace(out)
	if want := "tap/web-to-ids created: 3 workloads on 2 hosts -> 1 tool"; err == nil && out != want {
		err = fmt.Errorf("apply printed %q, want %q", out, want)
	}
	return out, err
}

func (d *demo) tapActive(ctx context.Context) (string, error) {
	return retry(ctx, 15*time.Second, func() (string, error) {
		tap, err := d.tap(ctx)
		if err != nil {
			return "", err
		}
		if tap.Status.State != model.TapActive {
			return "", fmt.Errorf("tap is %s: %s %+v %+v", tap.Status.State, tap.Status.Message, tap.Status.Sources, tap.Status.Paths)
		}
		var paths []string
		for _, p := range tap.Status.Paths {
			paths = append(paths, p.Host+" "+p.Path)
		}
		return strings.Join(paths, ", "), nil
	})
}

func (d *demo) tap(ctx context.Context) (*model.Tap, error) {
	var taps []model.Tap
	if err := d.get(ctx, &taps, "taps", demoTap); err != nil {
		return nil, err
	}
	if len(taps) != 1 {
		return nil, fmt.Errorf("%d taps of the name %s", len(taps), demoTap)
	}
	return &taps[0], nil
}

// get decodes a list of resources as the command line prints it.
func (d *demo) get(ctx context.Context, into any, what ...string) error {
	out, err := d.weft(ctx, append([]string{"get", "-o", "json"}, what...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("decode %s: %w", what[0], err)
	}
	return nil
}
