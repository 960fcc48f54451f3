package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/model"
)

// homes are two hosts behind a NAT, and a server beyond it.
const homes = `apiVersion: weft/v1
kind: Topology
metadata: {name: homes}
spec:
  switches:
  - {name: net, subnet: 10.57.0.0/24}
  - {name: home, subnet: 10.58.0.0/24}
  routers:
  - {name: nat, uplink: net, downlinks: home, nat: port-restricted}
  hosts:
  - {name: controller, attach: net}
  - {name: server, attach: net, labels: {app: server}}
  - {name: left, attach: home, labels: {app: left}}
  - {name: right, attach: {switch: home, delay: 20ms}, labels: {app: right}}
`

// probeOf is what hosts say of a probe, by name.
type probeOf struct {
	Host    string
	Message string
	*model.ProbeResult
}

// probing runs weft probe beside the test.
func (f *fleet) probing(args ...string) (cmd *exec.Cmd, out, errs *strings.Builder) {
	f.t.Helper()
	out, errs = &strings.Builder{}, &strings.Builder{}
	cmd = exec.CommandContext(f.ctx, filepath.Join(f.bin, "weft"), append([]string{"probe"}, args...)...)
	cmd.Env = append(os.Environ(), "WEFT_SERVER=unix://"+f.socket, "HOME="+f.state(controllerHost))
	cmd.Stdout, cmd.Stderr = out, errs
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	return cmd, out, errs
}

// held is how many connections to a port a host has open, by its own kernel.
func (f *fleet) held(host string, port int) (n int) {
	f.t.Helper()
	want := fmt.Sprintf(":%04X", port)
	for line := range strings.Lines(f.run(f.lab.Host(host), "cat", "/proc/net/tcp")) {
		if x := strings.Fields(line); len(x) > 3 && strings.HasSuffix(x[2], want) && x[3] == "01" {
			n++
		}
	}
	return n
}

// Hosts behind a NAT ask a server beyond it; what they say is what the server saw,
// and latencies are those of where they are.
func TestProbeFromHosts(t *testing.T) {
	f := newFleetFor(t, homes, 150*time.Second)
	server := f.controller()
	f.agents("left", "right")
	at := f.lab.Host("server")
	f.helper("server", "serve", at)
	url := fmt.Sprint("http://", at.Addresses()[0], "/100")
	f.wait(10*time.Second, "the server answers", func() error { return f.weft("probe", "http", url, "--from", "left", "-n", "1").err })

	var list []probeOf
	if err := json.Unmarshal([]byte(f.ok("probe", "http", url, "--from", "left,right", "-c", "4", "-n", "200", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].Host != "left" || list[1].Host != "right" {
		t.Fatalf("the result is %+v", list)
	}
	for _, r := range list {
		if r.Asked != 200 || r.OK != 200 || r.Bytes != 200*100 || r.Message != "" || r.Note != "" {
			t.Errorf("%s says %+v, %s", r.Host, r.ProbeResult, r.Message)
		}
	}
	// The link of right has 20 ms each way.
	if l, r := list[0].Latency, list[1].Latency; r.Min < 0.02 || l.Min >= r.Min {
		t.Errorf("latencies are %+v near, %+v far", l, r)
	}
	says(t, "a table", f.ok("probe", "http", url, "--from", "left,right", "-n", "10"), "from 2 hosts", "HOST", "P99", "left", "right")
	says(t, "one host", f.ok("probe", "icmp", "server", "--from", "right", "-n", "3"), "icmp server from right", "3 asked, 3 answered")
	out := f.weft("probe", "http", url, "--from", "left", "-n", "10", "--expect", "404")
	says(t, "another status", out.stdout+out.stderr, "error: status 200: 10", "nothing of "+url+" was answered to left")
	says(t, "a closed port", f.weft("probe", "tcp", fmt.Sprint(at.Addresses()[0], ":81"), "--from", "left", "-n", "5").stdout, "error: connection refused: 5")
	says(t, "no such host", f.weft("probe", "tcp", "x:1", "--from", "middle").stderr, "middle")
	says(t, "the audit log", f.ok("audit"), "probe", "probed", "400 ask")

	// Whoever asks is killed: the hosts stop.
	f.helper("silent", "hold-open", at, ":8080")
	silent := fmt.Sprint("http://", at.Addresses()[0], ":8080/")
	cmd, _, _ := f.probing("http", silent, "--from", "left", "-c", "20", "--timeout", "1m")
	f.wait(20*time.Second, "the questions are asked", func() error {
		if n := f.held("left", 8080); n != 20 {
			return fmt.Errorf("%d connections", n)
		}
		return nil
	})
	cmd.Process.Kill()
	cmd.Wait() //nolint:errcheck // it was killed
	quiet := func() error {
		if n := f.held("left", 8080); n != 0 {
			return fmt.Errorf("%d connections are open", n)
		}
		return nil
	}
	f.wait(20*time.Second, "the host stops", quiet)

	// The agent dies: nothing hangs, and the other host's part is whole.
	cmd, stdout, errs := f.probing("http", url, "--from", "left,right", "--rate", "20", "--time", "8s", "-o", "json")
	f.wait(10*time.Second, "it runs", func() error {
		if f.held("left", 80) == 0 {
			return errors.New("no connection yet")
		}
		return nil
	})
	f.procs["left"].kill()
	if err := cmd.Wait(); err == nil && !strings.Contains(stdout.String(), "session") {
		t.Errorf("it ends as if nothing had been: %s%s", stdout, errs)
	}
	if err := json.Unmarshal([]byte(stdout.String()), &list); err != nil || !strings.Contains(list[0].Message, "session") || list[1].ProbeResult == nil || list[1].OK < 100 || list[1].Message != "" {
		t.Errorf("%v: %s%s", err, stdout, errs)
	}
	says(t, "a host that is gone", f.weft("probe", "http", url, "--from", "left", "-n", "1").stdout, "has no session")

	// The controller dies: the hosts stop, and whoever asks is told.
	cmd, stdout, errs = f.probing("http", silent, "--from", "right", "-c", "20", "--timeout", "1m")
	f.wait(20*time.Second, "the questions are asked", func() error {
		if n := f.held("right", 8080); n != 20 {
			return fmt.Errorf("%d connections", n)
		}
		return nil
	})
	server.kill()
	cmd.Wait() //nolint:errcheck // it says that the controller is gone
	says(t, "without a controller", stdout.String()+errs.String(), "the controller is gone before the end")
	f.wait(30*time.Second, "the host stops", func() error {
		if n := f.held("right", 8080); n != 0 {
			return fmt.Errorf("%d connections are open", n)
		}
		return nil
	})
}

// A scheduled probe shows what came of it by host; a rule about it fires when the
// server stops and is over when it is back, and hosts go on by themselves without a
// controller.
func TestScheduledProbe(t *testing.T) {
	f := newFleetFor(t, homes, 150*time.Second)
	f.extra[controllerHost] = []string{"--metrics", "127.0.0.1:9463"}
	control := f.controller()
	f.agents("left", "right")
	at := f.lab.Host("server")
	serve := f.helper("server", "serve", at)
	url := fmt.Sprint("http://", at.Addresses()[0], "/100")
	f.applied(`apiVersion: weft/v1
kind: Probe
metadata: {name: shop}
spec: {from: "app in (left,right)", kind: http, target: "` + url + `", interval: 2s, count: 4, concurrency: 2, timeout: 1s}
---
apiVersion: weft/v1
kind: AlertRule
metadata: {name: shop-fails}
spec: {metric: probe.errors, match: shop, above: 50, for: 1s, severity: Critical}
---
apiVersion: weft/v1
kind: AlertRule
metadata: {name: shop-far}
spec: {metric: probe.p99, match: sh*, above: 20, for: 1s}
`)
	probe := func() (p model.Probe, err error) {
		var list []model.Probe
		if err := f.get(&list, "probes", "shop"); err != nil || len(list) != 1 {
			return p, fmt.Errorf("%d probes: %w", len(list), err)
		}
		return list[0], nil
	}
	f.wait(20*time.Second, "both hosts have had a turn", func() error {
		p, err := probe()
		if err != nil || len(p.Status.Hosts) != 2 {
			return fmt.Errorf("%w: %+v", err, p.Status)
		}
		for _, h := range p.Status.Hosts {
			if h.Message != "" || h.Result == nil || h.Result.OK != 4 || h.Time == nil {
				return fmt.Errorf("%s: %s %+v", h.Host, h.Message, h.Result)
			}
		}
		return nil
	})
	says(t, "the list", f.ok("get", "probes"), "shop", "http", "2/2", "0%")
	says(t, "it", f.ok("describe", "probe", "shop"), "left", "right", "4 questions, 2 at a time", "2s")
	f.wait(20*time.Second, "the far host is slow", func() error {
		if out := f.weft("get", "alerts"); !strings.Contains(out.stdout, "right:shop-far") || strings.Contains(out.stdout, "left:shop-far") {
			return errors.New(out.stdout + out.stderr)
		}
		return nil
	})
	figures := f.run(f.lab.Host(controllerHost), "curl", "-s", "http://127.0.0.1:9463/metrics")
	says(t, "Prometheus", figures, `weft_probe_latency_seconds{host="right",probe="shop",quantile="0.99"} 0.0`, `weft_probe_failing_ratio{host="left",probe="shop"} 0`, `weft_probe_questions_total{host="left",probe="shop"} `, `weft_host_probe_questions_total{host="left"} `)

	serve.end()
	f.wait(30*time.Second, "the alerts", func() error {
		if out := f.weft("get", "alerts"); !strings.Contains(out.stdout, "left:shop-fails") || !strings.Contains(out.stdout, "right:shop-fails") {
			return errors.New(out.stdout + out.stderr)
		}
		return nil
	})
	says(t, "the list", f.ok("get", "probes"), "100%")
	says(t, "it", f.ok("describe", "probe", "shop"), "connection refused: 4")

	// Without a controller it goes on.
	control.kill()
	f.helper("server", "serve", at)
	f.controller()
	f.wait(45*time.Second, "their end", func() error {
		if out := f.weft("get", "alerts"); out.err != nil || strings.Contains(out.stdout, "shop-fails") {
			return errors.New(out.stdout + out.stderr)
		}
		p, err := probe()
		if err != nil {
			return err
		}
		for _, h := range p.Status.Hosts {
			if h.Message != "" || h.Result == nil || h.Result.OK != 4 || h.Asked < 12 {
				return fmt.Errorf("%s: %s, %d asked, %+v", h.Host, h.Message, h.Asked, h.Result)
			}
		}
		return nil
	})
	f.ok("delete", "probe", "shop")
	f.wait(20*time.Second, "the other alert's end", func() error {
		if out := f.weft("get", "alerts"); strings.Contains(out.stdout, "shop") {
			return errors.New(out.stdout)
		}
		return nil
	})
}
