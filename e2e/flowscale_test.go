package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"weft/lab"
)

const crowdTopology = `apiVersion: weft/v1
kind: Topology
metadata: {name: crowd}
spec:
  switches:
  - {name: net, subnet: 10.53.0.0/24}
  - {name: home, subnet: 10.54.0.0/24}
  routers:
  - {name: nat, uplink: net, downlinks: home, nat: port-restricted}
  hosts:
  - {name: controller, attach: net}
  - {name: left, attach: home}
  - name: right
    attach: net
    containers:
    - {name: one}
    - {name: two}
`

// crowds is how many flows the largest crowd has: 100,000, or what WEFT_CROWD says.
func crowds(t *testing.T) int {
	t.Helper()
	text := os.Getenv("WEFT_CROWD")
	if text == "" {
		return 100_000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < sinkPorts || n > 1_000_000 {
		t.Fatalf("WEFT_CROWD is %q; want a number from %d to 1000000", text, sinkPorts)
	}
	return n
}

// What flows say is what the generator counted, also where there are very many:
// through a NAT, between containers and over loopback, while agents are killed and
// the controller is away.
func TestFlowsAddUpInCrowds(t *testing.T) {
	f := newFleetFor(t, crowdTopology, 8*time.Minute)
	f.controller()
	f.agents("left", "right")
	left, right := f.lab.Host("left"), f.lab.Host("right")
	one, two := right.Container("one"), right.Container("two")
	f.metered("left", "right")
	listen := func(name, address string, at lab.Runner) {
		f.helper(name, "sink", at, address, "7000")
		f.wait(20*time.Second, name+" listens", func() error {
			if n := strings.Count(f.run(at, "ss", "-Hlnu"), ":7"); n < sinkPorts {
				return fmt.Errorf("%d ports", n)
			}
			return nil
		})
	}
	listen("right-sink", "0.0.0.0", right)
	listen("two-sink", "0.0.0.0", two)
	listen("left-sink", "127.0.0.1", left)

	var natted, bridged, looped said
	port := 20_000
	crowd := func(flows int) {
		n, from := fmt.Sprint(flows), fmt.Sprint(port)
		port += flows/sinkPorts + 1
		inParallel(func() {
			// One conntrack table serves all namespaces of a machine.
			natted.add(f.generate(left, "scatter", fmt.Sprint(right.Addresses()[0], ":7000"), fmt.Sprint(20_000+port), fmt.Sprint(min(flows, 100_000)), "7000"))
		}, func() {
			bridged.add(f.generate(one, "scatter", fmt.Sprint(two.Address(), ":7000"), from, n, "20000"))
			looped.add(f.generate(left, "scatter", "127.0.0.1:7000", from, n, "20000"))
		})
	}
	restart := func() {
		for _, host := range []string{"left", "right"} {
			time.Sleep(700 * time.Millisecond)
			f.procs[host].kill()
			f.startAgent(host)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(f.weft("flows", "--group-by", "client,server,protocol,reporter,host"))
			t.Log(f.weft("get", "alerts", "-o", "json"))
		}
	})
	crowd(10_000)
	inParallel(restart, func() { crowd(100_000) })
	f.online("left", "right")
	f.procs[controllerHost].kill()
	inParallel(restart, func() { crowd(crowds(t)) })
	f.controller()
	f.online("left", "right")

	f.addUp(4*time.Minute, "the NAT", "client=left,server=right,protocol=udp,reporter=client", natted)
	f.addUp(4*time.Minute, "the bridge", "client=right:one,server=right:two,protocol=udp", bridged)
	f.addUp(4*time.Minute, "loopback", "client=left,server=left,protocol=udp", looped)
	for _, host := range []string{"left", "right"} {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.procs[host].cmd.Process.Pid))
		for _, line := range strings.Split(string(status), "\n") {
			if strings.HasPrefix(line, "VmHWM") || strings.HasPrefix(line, "VmRSS") {
				t.Log(host, line)
			}
		}
		if out := f.ok("describe", "host", host); strings.Contains(out, "in no flow") {
			t.Errorf("%s:\n%s", host, out)
		}
	}
}
