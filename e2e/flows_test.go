package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"weft/lab"
	"weft/model"
)

const talkers = `apiVersion: weft/v1
kind: Topology
metadata: {name: talkers}
spec:
  switches:
  - {name: net, subnet: 10.52.0.0/24}
  hosts:
  - {name: controller, attach: net}
  - {name: left, attach: net, labels: {app: left}}
  - name: right
    attach: net
    labels: {app: right}
    containers:
    - {name: one, labels: {app: one}}
    - {name: two, labels: {app: two}}
`

// flowSum is a line of weft flows --group-by … -o json.
type flowSum struct {
	Key         map[string]string
	Connections uint64
	Sent        model.Count
	Received    model.Count
}

func (f *fleet) flows(by, where string) ([]flowSum, error) {
	out := f.weft("flows", "--group-by", by, "--where", where, "--top", "1000", "-o", "json")
	if out.err != nil {
		return nil, fmt.Errorf("%w: %s", out.err, out.stderr)
	}
	var list []flowSum
	return list, json.Unmarshal([]byte(out.stdout), &list)
}

// generate runs a helper to its end and returns what it says it has done.
func (f *fleet) generate(where lab.Runner, name string, args ...string) said {
	f.t.Helper()
	self, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := where.Command(f.ctx, append([]string{self}, args...)...)
	cmd.Env = append(os.Environ(), helperVariable+"="+name)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		f.t.Fatalf("%s: %v: %s", name, err, errs.String())
	}
	var s said
	if err := json.Unmarshal([]byte(out.String()), &s); err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (s *said) add(o said) {
	s.Flows += o.Flows
	s.SentPackets, s.SentBytes = s.SentPackets+o.SentPackets, s.SentBytes+o.SentBytes
	s.ReceivedPackets, s.ReceivedBytes = s.ReceivedPackets+o.ReceivedPackets, s.ReceivedBytes+o.ReceivedBytes
}

// What flows say is what the generators of traffic counted, to the byte: between
// machines, over a container bridge and over loopback; while agents are killed and
// the controller is away. Short connections name their process and container.
func TestFlowsAddUp(t *testing.T) {
	f := newFleet(t, talkers)
	f.controller()
	f.agents("left", "right")
	left, right := f.lab.Host("left"), f.lab.Host("right")
	one, two := right.Container("one"), right.Container("two")
	f.helper("right-answer", "answer", right, ":7000")
	f.helper("two-echo", "echo", two, "7001")
	f.helper("left-answer", "answer", left, "127.0.0.1:7002")
	metered := func(host string) {
		f.wait(20*time.Second, host+" is metered", func() error {
			for _, pin := range f.pins(host) {
				if strings.HasSuffix(pin, "links/egress") { // the last that is attached
					return nil
				}
			}
			return errors.New("no program is at work")
		})
	}
	metered("left")
	metered("right")

	var across, loop, bridge said
	rightAddr, twoAddr := right.Addresses()[0], two.Address()
	rounds := 0
	round := func() {
		port := fmt.Sprint(20_000 + 1000*rounds)
		rounds++
		across.add(f.generate(left, "ask", fmt.Sprint(rightAddr, ":7000"), port, "1000"))
		loop.add(f.generate(left, "ask", "127.0.0.1:7002", port, "300"))
		bridge.add(f.generate(one, "call", fmt.Sprint(twoAddr, ":7001"), "1000"))
	}
	round()
	for range 3 { // killed while there is traffic, and at other moments of a reading
		done := make(chan struct{})
		go func() {
			defer close(done)
			for _, host := range []string{"left", "right"} {
				time.Sleep(150 * time.Millisecond)
				f.procs[host].kill()
				f.startAgent(host)
			}
		}()
		round()
		<-done
	}
	f.online("left", "right")
	f.procs[controllerHost].kill()
	round()
	f.controller()
	f.online("left", "right")
	round()

	t.Cleanup(func() {
		if t.Failed() {
			t.Log(f.weft("flows", "--group-by", "client,server,port,protocol,host").stdout)
		}
	})
	same := func(what, where string, want said) {
		f.wait(40*time.Second, what+" adds up", func() error {
			list, err := f.flows("client,server", where)
			if err != nil {
				return err
			}
			var got said
			for _, x := range list {
				got.add(said{x.Connections, x.Sent.Packets, x.Sent.Bytes, x.Received.Packets, x.Received.Bytes})
			}
			if want.SentPackets == 0 { // TCP: acknowledgements are the kernel's affair
				got = said{Flows: got.Flows}
			}
			if got != want {
				return fmt.Errorf("flows say %+v, the generator %+v: %+v", got, want, list)
			}
			return nil
		})
	}
	same("what crossed the net", "client=left,server=right,port=7000", across)
	same("loopback", "client=left,server=left,port=7002", loop)
	same("the bridge", "client=right:one,server=right:two,port=7001", bridge)

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	list, err := f.flows("client,process", "server=right:two,port=7001")
	if err != nil {
		t.Fatal(err)
	}
	var named, all uint64
	for _, x := range list {
		all += x.Connections
		if x.Key["client"] == "right:one" && x.Key["process"] == self {
			named += x.Connections
		}
	}
	if all == 0 || float64(named) < 0.995*float64(all) {
		t.Errorf("%d of %d short connections name their container and process: %+v", named, all, list)
	}
	t.Logf("%d of %d short connections name their container and process", named, all)
}
