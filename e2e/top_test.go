package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"weft/model"
)

const watched = `apiVersion: weft/v1
kind: Topology
metadata: {name: watched}
spec:
  switches:
  - {name: net, subnet: 10.53.0.0/24}
  hosts:
  - {name: controller, attach: net}
  - {name: left, attach: net, labels: {app: left}}
  - name: right
    attach: net
    labels: {app: right}
    containers: [{name: one}]
`

func (f *fleet) sample(host string) (s model.Sample, err error) {
	out := f.weft("top", host, "--once", "-o", "json", "--interval", "1s")
	if out.err != nil {
		return s, fmt.Errorf("%w: %s", out.err, out.stderr)
	}
	return s, json.Unmarshal([]byte(out.stdout), &s)
}

// What runs on a host is seen from the controller, by whoever asks there; a host
// that has gone is shown with its age, and nothing waits for it.
func TestTopShowsALoad(t *testing.T) {
	f := newFleet(t, watched)
	f.controller()
	f.agents("left", "right")
	one := f.lab.Host("right").Container("one")
	f.helper("burner", "burn", one)
	f.wait(30*time.Second, "the load is seen", func() error {
		s, err := f.sample("right")
		if err != nil {
			return err
		}
		if s.Host != "right" || s.CPU.Busy() == 0 || s.Memory.Total == 0 || s.Seconds == 0 {
			return fmt.Errorf("the sample is %+v", s)
		}
		for _, p := range s.Processes {
			if p.Name == "weft-burn" && p.CPU > 1 {
				if !strings.HasSuffix(p.Workload, "one") {
					return fmt.Errorf("the process is in %q", p.Workload)
				}
				return nil
			}
		}
		return fmt.Errorf("no process of %d burns", len(s.Processes))
	})
	table := f.ok("top", "right", "--once", "--interval", "1s")
	says(t, "the table", table, "right", "CPU", "MEM", "COMMAND")
	f.wait(20*time.Second, "all hosts are seen", func() error {
		var list []model.Glance
		if err := json.Unmarshal([]byte(f.ok("top", "--all", "--once", "-o", "json", "--interval", "1s")), &list); err != nil {
			return err
		}
		for _, h := range list {
			if h.State != model.HostOnline || h.Age < 0 || h.MemoryTotal == 0 {
				return fmt.Errorf("a host is %+v", h)
			}
		}
		if len(list) != 2 {
			return fmt.Errorf("there are %d hosts", len(list))
		}
		return nil
	})
	f.procs["left"].kill()
	f.wait(40*time.Second, "the host that has gone is told", func() error {
		if out := f.weft("top", "left", "--once"); out.err == nil || !strings.Contains(out.stderr, "Offline") {
			return errors.New(out.stdout + out.stderr)
		}
		return nil
	})
	says(t, "all hosts", f.ok("top", "--all", "--once"), "left", "Offline", "right", "Online")
	says(t, "a host that is none", f.weft("top", "middle", "--once").stderr, "middle")
	says(t, "no terminal", f.weft("top", "right").stderr, "--once")
}

// A rule that the owner applies becomes an alert where a process goes too far, is
// shown worst first among hosts, and is over when the process is.
func TestAlertRuleFires(t *testing.T) {
	f := newFleet(t, watched)
	f.controller()
	f.agents("left", "right")
	f.applied(`apiVersion: weft/v1
kind: AlertRule
metadata: {name: burning}
spec: {hosts: app=right, metric: process.cpu, match: weft-b*, above: 1, for: 1s, severity: Critical}
`)
	burner := f.helper("burner", "burn", f.lab.Host("right").Container("one"))
	f.wait(40*time.Second, "the alert", func() error {
		if out := f.weft("get", "alerts"); !strings.Contains(out.stdout, "right:burning") || strings.Contains(out.stdout, "left:burning") {
			return errors.New(out.stdout + out.stderr)
		}
		return nil
	})
	says(t, "the rule", f.ok("get", "alertrules"), "burning", "Critical", "process.cpu of weft-b* above 1 for 1s", "right")
	if lines := strings.Split(f.ok("top", "--all", "--once"), "\n"); !strings.Contains(lines[1], "right") || !strings.Contains(lines[1], "Critical burn") {
		t.Errorf("the worst host is not first: %q", lines)
	}
	burner.kill()
	f.wait(40*time.Second, "its end", func() error {
		if out := f.weft("alert", "history"); !strings.Contains(out.stdout, "Cleared") {
			return errors.New(out.stdout + out.stderr)
		}
		return nil
	})
	says(t, "the history", f.ok("alert", "history", "--host", "right"), "right:burning", "Raised", "Cleared", "process.cpu is above 1")
}
