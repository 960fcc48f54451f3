package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/lab"
)

const mirrored = `apiVersion: weft/v1
kind: Topology
metadata: {name: mirrored}
spec:
  switches:
  - {name: net, subnet: 10.53.0.0/24}
  hosts:
  - {name: controller, attach: net}
  - {name: probe, attach: net}
  - {name: member, attach: net, labels: {app: member}}
  - {name: stranger, attach: net}
  - {name: other, attach: net}
`

// Machines without an agent are seen by one that hears their cloud's mirror, in
// VXLAN: what they said is in the flows to the byte. What a member of the fleet says
// too is in the list, and in sums once.
func TestMirrorIsMetered(t *testing.T) {
	f := newFleet(t, mirrored)
	probe, stranger, other, member := f.lab.Host("probe"), f.lab.Host("stranger"), f.lab.Host("other"), f.lab.Host("member")
	file := filepath.Join(f.state("probe"), "agent.yaml")
	f.write(file, "controller: https://controller:443\nmirrors: [{interface: eth0, unwrap: true}]\ncollectors: [{listen: \":2055\", from: [10.53.0.0/24]}]\n", 0o600)
	f.extra["probe"] = []string{"--config", file, "--name", "probe"}
	f.controller()
	f.agents("probe", "member")
	f.wait(20*time.Second, "the probe listens", func() error {
		if text := f.procs["probe"].text(); !strings.Contains(text, "listening to a mirror") {
			return errors.New("it does not say so")
		}
		return nil
	})
	for _, host := range []string{"probe", "member"} {
		f.wait(20*time.Second, host+" is metered", func() error {
			for _, pin := range f.pins(host) {
				if strings.HasSuffix(pin, "links/egress") {
					return nil
				}
			}
			return errors.New("no program is at work")
		})
	}
	// The stranger's cloud copies what it says and hears at port 7000 to the probe.
	f.run(stranger, "ip", "link", "add", "mirror", "type", "vxlan", "id", "7", "remote", probe.Addresses()[0].String(), "dstport", "4789", "dev", "eth0")
	f.run(stranger, "ip", "link", "set", "mirror", "up")
	f.run(stranger, "tc", "qdisc", "add", "dev", "eth0", "clsact")
	for _, way := range []string{"ingress", "egress"} {
		for _, port := range []string{"sport", "dport"} {
			f.run(stranger, "tc", "filter", "add", "dev", "eth0", way, "protocol", "ip", "u32", "match", "ip", "protocol", "17", "0xff", "match", "ip", port, "7000", "0xffff",
				"action", "mirred", "egress", "mirror", "dev", "mirror")
		}
	}
	for _, at := range []*lab.Host{other, member} {
		f.helper(at.Name+"-answer", "answer", at, ":7000")
		f.wait(10*time.Second, "a server on "+at.Name, func() error {
			if out := f.run(at, "ss", "-Hlnut"); !strings.Contains(out, ":7000") {
				return errors.New("nobody listens")
			}
			return nil
		})
	}
	apart := f.generate(stranger, "ask", fmt.Sprint(other.Addresses()[0], ":7000"), "20000", "200")
	joint := f.generate(stranger, "ask", fmt.Sprint(member.Addresses()[0], ":7000"), "30000", "200")
	f.addUp(40*time.Second, "what the probe alone hears", "port=7000,host=probe", apart)
	f.addUp(40*time.Second, "what the member says too", "port=7000,server=member", joint)
	// A router's NetFlow 5: 192.0.2.1 had ten packets with 1,000 bytes for 203.0.113.9.
	var report strings.Builder
	seconds := uint32(time.Now().Unix())
	for _, n := range []uint32{5<<16 | 1, 10_000, seconds, 0, 1, 0, 0xc0000201, 0xcb007109, 0, 1<<16 | 2, 10, 1000, 5000, 6000, 40000<<16 | 443, 0x1b<<16 | 6<<8, 0, 0} {
		fmt.Fprintf(&report, `\%03o\%03o\%03o\%03o`, n>>24, n>>16&255, n>>8&255, n&255)
	}
	f.run(other, "sh", "-c", fmt.Sprintf("printf '%s' | nc -u -w 1 %s 2055", report.String(), probe.Addresses()[0]))
	f.addUp(40*time.Second, "what a router reports", "host=probe,server-address=203.0.113.9,port=443", said{Flows: 1, SentPackets: 10, SentBytes: 1000})
	if out := f.ok("flows", "--where", "port=7000,host=probe,server=member", "--top", "1"); !strings.Contains(out, "member") {
		t.Errorf("the mirror's report of a member is not in the list:\n%s", out)
	}
}
