package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/internal/testreq"
	"weft/lab"
	"weft/model"
)

// The names of the hosts that run no agent.
const (
	controllerHost = "controller"
	relayHost      = "relay"
)

// flat is everybody on one switch: source and tool can reach one another.
const flat = `apiVersion: weft/v1
kind: Topology
metadata: {name: flat}
spec:
  switches:
  - {name: net, subnet: 10.50.0.0/24}
  hosts:
  - {name: controller, attach: net}
  - {name: relay, attach: net}
  - {name: tool, attach: net, labels: {role: ids}}
  - {name: web, attach: net, labels: {app: web}, containers: [{name: box, labels: {app: box}}]}
  - {name: spare, attach: net}
`

// apart is a tool and a source behind a NAT each, with a relay between them.
const apart = `apiVersion: weft/v1
kind: Topology
metadata: {name: apart}
spec:
  switches:
  - {name: internet, subnet: 203.0.113.0/24}
  - {name: dc, subnet: 10.1.0.0/24}
  - {name: cloud, subnet: 10.2.0.0/24}
  routers:
  - {name: dc-nat, uplink: internet, downlinks: dc, nat: port-restricted}
  - {name: cloud-nat, uplink: internet, downlinks: cloud, nat: port-restricted}
  hosts:
  - {name: controller, attach: internet}
  - {name: relay, attach: internet}
  - {name: tool, attach: dc, labels: {role: ids}}
  - {name: web, attach: cloud, labels: {app: web}}
  - {name: peer, attach: cloud}
`

// tapWeb is the tap that most tests draw.
const tapWeb = `apiVersion: weft/v1
kind: Tap
metadata: {name: web}
spec:
  from: {selector: "app=web,workload.kind=host"}
  to: {selector: "role=ids,workload.kind=host"}
`

// fleet is a lab, and the programs that run in it.
type fleet struct {
	t      *testing.T
	ctx    context.Context
	lab    *lab.Lab
	bin    string
	socket string
	procs  map[string]*process
	// extra are more arguments for a program, by the name of its host.
	extra map[string][]string
}

// newFleet brings a lab up, and takes it down again when the test ends.
func newFleet(t *testing.T, topology string) *fleet {
	t.Helper()
	return newFleetFor(t, topology, 90*time.Second)
}

// newFleetFor is newFleet for a test that may take longer.
func newFleetFor(t *testing.T, topology string, limit time.Duration) *fleet {
	t.Helper()
	testreq.Need(t, testreq.Root, testreq.NetNS, testreq.BPF, testreq.Cgroup2, "tcpdump", "curl")
	parsed, err := lab.Parse("topology", []byte(topology))
	if err != nil {
		t.Fatal(err)
	}
	bin := binaries(t)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	f := &fleet{t: t, ctx: ctx, bin: bin, procs: map[string]*process{}, extra: map[string][]string{}}
	t.Cleanup(cancel)
	if f.lab, err = lab.Up(ctx, parsed, lab.Options{}); err != nil {
		t.Fatal(err)
	}
	f.socket = filepath.Join(f.state(controllerHost), "api.sock")
	t.Cleanup(f.down)
	return f
}

func (f *fleet) down() {
	if f.t.Failed() {
		for _, p := range f.procs {
			f.t.Logf("log of %s:\n%s", p.name, p.tail(25))
		}
	}
	began := time.Now()
	for _, p := range f.procs {
		p.signal(syscall.SIGTERM)
	}
	for _, p := range f.procs {
		p.end()
	}
	// Whatever is told to stop has five seconds of its own, and needs none.
	if took := time.Since(began); took > 5*time.Second {
		f.t.Errorf("the programs took %s to stop", took)
	}
	if err := f.lab.Down(); err != nil {
		f.t.Error(err)
	}
	if left := lab.Leftovers(f.lab.ID); len(left) > 0 {
		f.t.Errorf("left behind: %s", strings.Join(left, ", "))
	}
}

func (f *fleet) state(host string) string { return f.lab.Host(host).StateDir() }

// controller starts the controller and waits until it answers.
func (f *fleet) controller(args ...string) *process {
	f.t.Helper()
	h := f.lab.Host(controllerHost)
	argv := append([]string{"controller", "--data", filepath.Join(h.StateDir(), "controller"), "--listen", ":443", "--name", "controller",
		"--socket", f.socket, "--debug"}, append(f.extra[controllerHost], args...)...)
	p := f.start(controllerHost, h, filepath.Join(f.bin, "weft"), argv...)
	f.answers(p)
	return p
}

func (f *fleet) answers(p *process) {
	f.t.Helper()
	f.wait(20*time.Second, "the controller answers", func() error {
		if err := p.alive(); err != nil {
			f.t.Fatal(err)
		}
		return f.weft("get", "hosts").err
	})
}

// token makes a join token in a file of the host and returns the file's path.
func (f *fleet) token(host string, args ...string) string {
	f.t.Helper()
	path := filepath.Join(f.state(host), "join.token")
	secret := f.ok(append([]string{"token", "create"}, args...)...)
	f.write(path, secret, 0o600)
	return path
}

// relay starts the relay and waits until it is online.
func (f *fleet) relay() *process {
	f.t.Helper()
	if _, err := os.Stat(filepath.Join(f.state(relayHost), "relay")); err != nil {
		f.token(relayHost, "--role", "relay")
	}
	h := f.lab.Host(relayHost)
	p := f.start(relayHost, h, filepath.Join(f.bin, "weft"), "relay", "--controller", "https://controller:443",
		"--token-file", filepath.Join(h.StateDir(), "join.token"), "--listen", ":443", "--advertise", h.Addresses()[0].String()+":443",
		"--data", filepath.Join(h.StateDir(), "relay"), "--debug")
	f.wait(10*time.Second, "the relay is online", func() error {
		var relays []model.Relay
		if err := f.get(&relays, "relays"); err != nil {
			return err
		}
		if len(relays) != 1 || relays[0].Status.State != model.HostOnline {
			return fmt.Errorf("relays: %+v", relays)
		}
		return p.alive()
	})
	return p
}

// agents starts agents, each with a token of its own, and waits until they are
// online with their workloads.
func (f *fleet) agents(hosts ...string) {
	f.t.Helper()
	for _, host := range hosts {
		f.token(host)
		f.startAgent(host)
	}
	f.online(hosts...)
}

func (f *fleet) online(hosts ...string) {
	f.t.Helper()
	for _, host := range hosts {
		f.wait(45*time.Second, host+" is online", func() error {
			if err := f.procs[host].alive(); err != nil {
				return err
			}
			h, err := f.host(host)
			if err == nil && (h.Status.State != model.HostOnline || h.Status.Workloads == 0) {
				err = fmt.Errorf("host %s is %s with %d workloads", host, h.Status.State, h.Status.Workloads)
			}
			return err
		})
	}
}

// startAgent starts a host's agent, or starts it again.
func (f *fleet) startAgent(host string, args ...string) *process {
	f.t.Helper()
	return f.start(host, f.lab.Host(host), filepath.Join(f.bin, "weft-agent"), f.agentArgs(host, args...)...)
}

func (f *fleet) agentArgs(host string, args ...string) []string {
	h := f.lab.Host(host)
	argv := []string{"run", "--controller", "https://controller:443", "--token-file", filepath.Join(h.StateDir(), "join.token"),
		"--state-dir", f.agentDir(host), "--cgroup-root", h.CgroupDir(), "--bpf-dir", h.BPFDir(), "--metadata", "-", "--labels-dir", "-"}
	for k, v := range h.Labels() {
		argv = append(argv, "--labels", k+"="+v)
	}
	return append(append(argv, f.extra[host]...), args...)
}

func (f *fleet) agentDir(host string) string { return filepath.Join(f.state(host), "agent") }

// result is what a command printed and how it ended.
type result struct {
	stdout, stderr string
	err            error
}

// weft runs the command line as a user does.
func (f *fleet) weft(args ...string) result { return f.weftIn("", args...) }

// weftIn gives the command something to read.
func (f *fleet) weftIn(stdin string, args ...string) result {
	cmd := exec.CommandContext(f.ctx, filepath.Join(f.bin, "weft"), args...)
	cmd.Env = append(os.Environ(), "WEFT_SERVER=unix://"+f.socket, "HOME="+f.state(controllerHost))
	var stdout, stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	return result{stdout.String(), stderr.String(), err}
}

// ok runs a command that must work and returns what it printed.
func (f *fleet) ok(args ...string) string {
	f.t.Helper()
	r := f.weft(args...)
	if r.err != nil {
		f.t.Fatalf("weft %s: %v\n%s", strings.Join(args, " "), r.err, r.stderr)
	}
	return r.stdout
}

// apply applies a manifest.
func (f *fleet) apply(manifest string) result { return f.weftIn(manifest, "apply", "-f", "-") }

// applied applies a manifest that must work.
func (f *fleet) applied(manifest string) string {
	f.t.Helper()
	r := f.apply(manifest)
	if r.err != nil {
		f.t.Fatalf("apply: %v\n%s\n%s", r.err, r.stderr, manifest)
	}
	return r.stdout
}

// get decodes resources as the command line prints them.
func (f *fleet) get(into any, what ...string) error {
	r := f.weft(append([]string{"get", "-o", "json"}, what...)...)
	if r.err != nil {
		return fmt.Errorf("get %s: %w: %s", strings.Join(what, " "), r.err, r.stderr)
	}
	return json.Unmarshal([]byte(r.stdout), into)
}

func (f *fleet) host(name string) (*model.Host, error) {
	var hosts []model.Host
	if err := f.get(&hosts, "hosts", name); err != nil {
		return nil, err
	}
	if len(hosts) != 1 {
		return nil, fmt.Errorf("%d hosts named %s", len(hosts), name)
	}
	return &hosts[0], nil
}

func (f *fleet) tap(name string) (*model.Tap, error) {
	var taps []model.Tap
	if err := f.get(&taps, "taps", name); err != nil {
		return nil, err
	}
	if len(taps) != 1 {
		return nil, fmt.Errorf("%d taps named %s", len(taps), name)
	}
	return &taps[0], nil
}

// wait asks again and again until there is no error.
func (f *fleet) wait(limit time.Duration, what string, ask func() error) time.Duration {
	f.t.Helper()
	began := time.Now()
	for {
		err := ask()
		took := time.Since(began)
		if err == nil {
			return took
		}
		if took > limit || f.ctx.Err() != nil {
			f.t.Fatalf("%s: not within %s: %v", what, limit, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// reaches waits for a tap to be in a state.
func (f *fleet) reaches(tap string, state model.TapState, limit time.Duration) *model.Tap {
	f.t.Helper()
	var last *model.Tap
	f.wait(limit, fmt.Sprintf("tap %s is %s", tap, state), func() (err error) {
		if last, err = f.tap(tap); err == nil && last.Status.State != state {
			err = fmt.Errorf("it is %s: %s", last.Status.State, last.Status.Message)
		}
		return err
	})
	return last
}

// balanced returns a tap's account once it adds up on every path in two
// reports in a row, with nothing in flight; agents report once a second. The tap
// need not be silent for it.
func (f *fleet) balanced(tap string) model.Ledger {
	f.t.Helper()
	var last model.Ledger
	f.wait(25*time.Second, "the ledger of "+tap+" balances", func() error {
		for range 2 {
			time.Sleep(1200 * time.Millisecond)
			now, err := f.tap(tap)
			if err != nil {
				return err
			}
			last = now.Status.Ledger
			for _, p := range now.Status.Paths {
				if err := p.Ledger.Check(); err != nil {
					return fmt.Errorf("%s to %s: %w", p.Host, p.Tool, err)
				}
			}
			if last.InFlight.Packets != 0 {
				return fmt.Errorf("packets are in flight: %+v", last)
			}
		}
		return nil
	})
	return last
}

func (f *fleet) write(path, text string, mode os.FileMode) {
	f.t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		f.t.Fatal(err)
	}
}

// run runs a command inside and returns what it printed; it must work.
func (f *fleet) run(at lab.Runner, argv ...string) string {
	f.t.Helper()
	out, err := at.Command(f.ctx, argv...).CombinedOutput()
	if err != nil {
		f.t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// says fails the test unless a text holds every one of the parts.
func says(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s does not say %q; it says:\n%s", what, part, text)
		}
	}
}
