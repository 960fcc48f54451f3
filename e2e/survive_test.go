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

const survivors = `apiVersion: weft/v1
kind: Topology
metadata: {name: survivors}
spec:
  switches:
  - {name: net, subnet: 10.51.0.0/24}
  hosts:
  - {name: controller, attach: net}
  - {name: left, attach: net, labels: {app: held, side: left}}
  - name: right
    attach: net
    labels: {app: held, side: right}
    containers:
    - {name: one, labels: {app: held, side: one}}
    - {name: two, labels: {app: held, side: two}}
`

// Everybody may speak to the ports 9000 and 9002 of everybody, and to no other.
const heldOpen = `apiVersion: weft/v1
kind: Policy
metadata: {name: held}
spec:
  stage: Active
  subject: {selector: "app=held"}
  ingress:
  - {name: in, action: Allow, from: [{selector: "app=held"}], ports: [{protocol: TCP, port: 9000}, {protocol: TCP, port: 9002}]}
  egress:
  - {name: out, action: Allow, to: [{selector: "app=held"}], ports: [{protocol: TCP, port: 9000}, {protocol: TCP, port: 9002}]}
---
apiVersion: weft/v1
kind: Group
metadata: {name: held}
spec: {selector: "app=held", mode: Enforce}
`

// What changes while agents are killed: about a port that nobody uses.
const heldMore = `apiVersion: weft/v1
kind: Policy
metadata: {name: more}
spec:
  stage: Active
  subject: {selector: "app=held"}
  ingress:
  - {name: more, action: Allow, ports: [{protocol: TCP, port: %d}]}
`

const heldCut = `apiVersion: weft/v1
kind: Policy
metadata: {name: cut}
spec:
  tier: Security
  stage: Active
  subject: {selector: "app=held"}
  ingress:
  - {name: cut, action: Deny, ports: [{protocol: TCP, port: 9002}]}
`

// Of 5,000 connections each way, so many are to the port that is cut at last.
const (
	heldKept  = 3500
	heldToCut = 1500
)

// Ten thousand connections, between two machines and between two containers of
// one, outlive a killed agent and one of a new build; what is denied is denied at
// every instant; and a change of policy cuts what it denies and nothing else.
func TestConnectionsSurvive(t *testing.T) {
	f := newFleet(t, survivors)
	began := time.Now()
	f.controller()
	f.agents("left", "right")
	next := make(chan string, 1)
	go func() { next <- newBuild(t) }()
	left, right := f.lab.Host("left"), f.lab.Host("right")
	one, two := right.Container("one"), right.Container("two")
	f.helper("right-echo", "echo", right, "9000", "9001", "9002")
	f.helper("two-echo", "echo", two, "9000", "9001", "9002")
	f.wait(10*time.Second, "without a policy every port is open", func() error {
		if !f.calls(left, "right", 9001) || !f.calls(one, "two", 9001) {
			return errors.New("port 9001 is closed")
		}
		return nil
	})
	f.applied(heldOpen)
	f.inForce("held")

	address := func(to interface{ String() string }, port int) string { return fmt.Sprintf("%s:%d", to, port) }
	rightAddr, twoAddr := right.Addresses()[0], two.Address()
	holders := []*process{
		f.helper("left-hold", "hold", left, address(rightAddr, 9000), fmt.Sprint(heldKept), address(rightAddr, 9002), fmt.Sprint(heldToCut)),
		f.helper("one-hold", "hold", one, address(twoAddr, 9000), fmt.Sprint(heldKept), address(twoAddr, 9002), fmt.Sprint(heldToCut)),
	}
	f.wait(30*time.Second, "10,000 connections are open", func() error {
		for _, h := range f.holdings(holders) {
			for address, x := range h {
				if x.Failed > 0 || x.Open != heldKept && x.Open != heldToCut {
					return fmt.Errorf("%s: %+v", address, x)
				}
			}
		}
		return nil
	})
	t.Logf("%s: all are open", time.Since(began).Round(time.Second))
	knockers := []*process{
		f.helper("left-knock", "knock", left, address(rightAddr, 9001)),
		f.helper("one-knock", "knock", one, address(twoAddr, 9001)),
	}

	f.unharmed("before", holders)
	for _, host := range []string{"left", "right"} {
		f.procs[host].kill()
	}
	time.Sleep(500 * time.Millisecond)
	f.unharmed("without agents", holders)
	for _, host := range []string{"left", "right"} {
		f.startAgent(host)
	}
	f.online("left", "right")
	f.inForce("held")
	f.unharmed("killed and started again", holders)
	for i := range 5 {
		// Killed somewhere in the middle of a change.
		f.applied(fmt.Sprintf(heldMore, 9100+i))
		time.Sleep(time.Duration(i) * 60 * time.Millisecond)
		for _, host := range []string{"left", "right"} {
			f.procs[host].kill()
			f.startAgent(host)
		}
	}
	f.online("left", "right")
	f.inForce("more")
	f.unharmed("killed while policies change", holders)

	build := <-next
	if build == "" {
		t.Fatal("no new build")
	}
	for _, host := range []string{"left", "right"} {
		f.start(host, f.lab.Host(host), build, f.agentArgs(host)...)
	}
	f.wait(20*time.Second, "agents of the new build are online", func() error {
		for _, name := range []string{"left", "right"} {
			h, err := f.host(name)
			if err != nil || h.Status.State != model.HostOnline || h.Status.AgentVersion != newVersion {
				return fmt.Errorf("%s: %v %+v", name, err, h)
			}
		}
		return nil
	})
	f.inForce("held")
	f.unharmed("with another build", holders)

	for _, driver := range []string{"nft", "bpf"} {
		for _, host := range []string{"left", "right"} {
			f.procs[host].kill()
			f.startAgent(host, "--datapath", driver)
		}
		f.wait(30*time.Second, "the driver is "+driver, func() error {
			for _, host := range []string{"left", "right"} {
				if text := f.procs[host].text(); !strings.Contains(text, "driver="+driver) {
					return fmt.Errorf("%s has said nothing of it", host)
				}
			}
			return nil
		})
		f.inForce("held")
		f.unharmed("judged by "+driver, holders)
	}

	f.applied(heldCut)
	f.inForce("cut")
	f.wait(15*time.Second, "exactly what is denied is cut", func() error {
		for _, h := range f.holdings(holders) {
			for address, x := range h {
				if cut := x.Open == heldToCut; cut && x.Late+x.Failed != heldToCut || !cut && x.Late+x.Failed > 0 {
					return fmt.Errorf("%s: %+v", address, x)
				}
			}
		}
		return nil
	})
	for i, p := range knockers {
		p.end()
		var k knocks
		if err := json.Unmarshal([]byte(p.text()), &k); err != nil {
			t.Fatalf("read what was counted: %v: %s", err, p.text())
		}
		if k.LetIn > 0 || k.Tried < 500 {
			t.Errorf("%s: let in %d times of %d, first at %s", p.name, k.LetIn, k.Tried, k.First)
		}
		t.Logf("%s: tried %d times, let in %d times; at most %s between two tries", knockers[i].name, k.Tried, k.LetIn, k.Longest.Round(time.Millisecond))
	}
	t.Logf("%s: done", time.Since(began).Round(time.Second))
}

// holdings are what each holder said last; it must be alive.
func (f *fleet) holdings(holders []*process) []map[string]held {
	f.t.Helper()
	var out []map[string]held
	for _, p := range holders {
		if err := p.alive(); err != nil {
			f.t.Fatal(err)
		}
		h := p.holding()
		if len(h) == 0 {
			h[p.name] = held{Open: -1}
		}
		out = append(out, h)
	}
	return out
}

// unharmed waits until something has been said and answered anew on every
// connection: none may be lost.
func (f *fleet) unharmed(when string, holders []*process) {
	f.t.Helper()
	before := f.holdings(holders)
	f.wait(20*time.Second, when+" all is answered", func() error {
		for i, h := range f.holdings(holders) {
			for address, x := range h {
				if x.Failed > 0 {
					f.t.Fatalf("%s: %s: %d connections are lost, the first at %s", when, address, x.Failed, x.FirstError)
				}
				// Two rounds have said something on each at least once.
				if x.Said < before[i][address].Said+2*int64(x.Open) || x.Late > 0 {
					return fmt.Errorf("%s: %+v", address, x)
				}
			}
		}
		return nil
	})
}

// inForce waits until a policy is enforced on all its hosts.
func (f *fleet) inForce(name string) {
	f.t.Helper()
	f.wait(20*time.Second, "policy "+name+" is in force", func() error {
		var list []model.Policy
		if err := f.get(&list, "policies", name); err != nil {
			return err
		}
		if s := list[0].Status; s.State != model.PolicyActive || s.Applied != s.Targeted || s.Applied == 0 {
			return fmt.Errorf("it is %s on %d of %d hosts: %s", s.State, s.Applied, s.Targeted, s.Message)
		}
		return nil
	})
}

const newVersion = "v999.0.0-test"

// newBuild builds the agent once more, as another version; empty where that fails.
func newBuild(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "weft-agent")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-X weft/internal/version.Version="+newVersion, "-o", path, "./cmd/weft-agent")
	cmd.Dir, cmd.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("build a new agent: %v: %s", err, out)
		return ""
	}
	return path
}
