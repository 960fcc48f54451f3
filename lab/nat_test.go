package lab_test

import (
	"fmt"
	"net/netip"
	"testing"

	"weft/lab"
)

// natLab is a host behind a router of the given sort, and two outside.
func natLab(t *testing.T, router string) *lab.Lab {
	return up(t, `
  switches: [{name: net, subnet: 203.0.113.0/24}, {name: home, subnet: 10.1.0.0/24}]
  routers: [{name: nat, uplink: net, downlinks: home, `+router+`}]
  hosts:
  - {name: in, attach: home}
  - {name: in2, attach: home}
  - {name: x, attach: net}
  - {name: y, attach: net}
`)
}

func addrPort(h *lab.Host, port int) netip.AddrPort {
	return netip.AddrPortFrom(h.Addresses()[0], uint16(port))
}

// outer is the router's address on its uplink.
func outer(l *lab.Lab, name string) netip.Addr {
	a := l.Host(name).Addresses()
	return a[len(a)-1]
}

func TestPortRestrictedNAT(t *testing.T) {
	need(t, "nft")
	l := natLab(t, "nat: port-restricted")
	in, x, y, yOther := udp(t, l.Host("in"), 5000), udp(t, l.Host("x"), 6000), udp(t, l.Host("y"), 6000), udp(t, l.Host("y"), 6001)
	send(t, in, addrPort(l.Host("x"), 6000), "to x")
	_, mapped := receive(t, x, soon)
	if mapped.Addr() != outer(l, "nat") {
		t.Fatalf("x sees %s, want the router's address", mapped)
	}
	// Filter: nobody else comes in, not even by the mapped port.
	send(t, y, mapped, "from y")
	if got, from := receive(t, in, never); got != "" {
		t.Errorf("a stranger came in: %q from %s", got, from)
	}
	// Mapping: the same for another destination.
	send(t, in, addrPort(l.Host("y"), 6000), "to y")
	if _, second := receive(t, y, soon); second != mapped {
		t.Errorf("y sees %s, x saw %s: the mapping depends on the endpoint", second, mapped)
	}
	send(t, y, mapped, "from y")
	if got, _ := receive(t, in, soon); got != "from y" {
		t.Errorf("a reply does not come in: %q", got)
	}
	// Filter by port: another port of the same host stays outside.
	send(t, yOther, mapped, "other port")
	if got, _ := receive(t, in, never); got != "" {
		t.Errorf("another port of a known address came in: %q", got)
	}
	if open(l.Host("x"), "10.1.0.10:22") {
		t.Error("an inner address is reached from outside")
	}
}

func TestHardNAT(t *testing.T) {
	need(t, "nft")
	l := natLab(t, "nat: hard")
	in, x, y := udp(t, l.Host("in"), 5000), udp(t, l.Host("x"), 6000), udp(t, l.Host("y"), 6000)
	send(t, in, addrPort(l.Host("x"), 6000), "to x")
	_, first := receive(t, x, soon)
	send(t, in, addrPort(l.Host("y"), 6000), "to y")
	_, second := receive(t, y, soon)
	// Two draws of 60,000 ports agree once in a long while, three hardly ever.
	if first.Port() == second.Port() && first.Port() == 5000 || !first.IsValid() || !second.IsValid() {
		t.Errorf("x saw %s, y saw %s: the mapping does not depend on the endpoint", first, second)
	}
	if first == second {
		t.Errorf("x and y saw the same %s", first)
	}
	send(t, x, first, "reply")
	if got, _ := receive(t, in, soon); got != "reply" {
		t.Errorf("a reply does not come in: %q", got)
	}
	send(t, y, first, "punch")
	if got, _ := receive(t, in, never); got != "" {
		t.Errorf("a stranger came in: %q", got)
	}
}

func TestOneToOneNAT(t *testing.T) {
	need(t, "nft")
	l := natLab(t, "nat: one-to-one")
	in, in2, x := udp(t, l.Host("in"), 5000), udp(t, l.Host("in2"), 5000), udp(t, l.Host("x"), 6000)
	send(t, in, addrPort(l.Host("x"), 6000), "one")
	_, one := receive(t, x, soon)
	send(t, in2, addrPort(l.Host("x"), 6000), "two")
	_, two := receive(t, x, soon)
	if one.Addr() == two.Addr() || one.Addr() == outer(l, "nat") || one.Port() != 5000 {
		t.Errorf("x sees %s and %s, want an address of its own each", one, two)
	}
	// Anybody comes in, at any port, by name.
	y := udp(t, l.Host("y"), 0)
	send(t, y, one, "unasked")
	if got, from := receive(t, in, soon); got != "unasked" || from.Addr() != l.Host("y").Addresses()[0] {
		t.Errorf("a stranger does not come in as itself: %q from %s", got, from)
	}
	sh(t, l.Host("y"), fmt.Sprintf("test $(getent hosts in | cut -d' ' -f1) = %s", one.Addr()))
	// Neighbours reach one another by their outer addresses as well.
	from := listen(t, l.Host("in2"), 80)
	if err := dial(l.Host("in"), two.Addr().String()+":80"); err != nil {
		t.Errorf("hairpin: %v", err)
	} else {
		<-from
	}
}

func TestForwardedPort(t *testing.T) {
	need(t, "nft")
	l := natLab(t, `nat: port-restricted, forward: ["8443:in:443"]`)
	from := listen(t, l.Host("in"), 443)
	if err := dial(l.Host("x"), outer(l, "nat").String()+":8443"); err != nil {
		t.Fatal(err)
	}
	if got := <-from; got != l.Host("x").Addresses()[0].String() {
		t.Errorf("in sees %s, want x itself", got)
	}
}

func TestDoubleNAT(t *testing.T) {
	need(t, "nft")
	l := up(t, `
  switches: [{name: net, subnet: 203.0.113.0/24}, {name: isp, subnet: 100.64.0.0/16}, {name: home, subnet: 10.1.0.0/24}]
  routers:
  - {name: carrier, uplink: net, downlinks: isp, nat: hard}
  - {name: box, uplink: isp, downlinks: home, nat: port-restricted}
  hosts: [{name: in, attach: home}, {name: x, attach: net}]
`)
	from := listen(t, l.Host("x"), 443)
	if err := dial(l.Host("in"), addrPort(l.Host("x"), 443).String()); err != nil {
		t.Fatal(err)
	}
	if got := <-from; got != outer(l, "carrier").String() {
		t.Errorf("x sees %s, want the outer router's %s", got, outer(l, "carrier"))
	}
	if got := sh(t, l.Host("x"), "getent hosts in || echo unknown"); got != "unknown" {
		t.Errorf("x resolves a host it cannot reach: %s", got)
	}
}

func TestFirewall(t *testing.T) {
	need(t, "nft")
	l := natLab(t, "nat: port-restricted, firewall: {udp: blocked, onlyTCP: [443, 80]}")
	in, x := udp(t, l.Host("in"), 0), udp(t, l.Host("x"), 53)
	send(t, in, addrPort(l.Host("x"), 53), "dns")
	if got, _ := receive(t, x, never); got != "" {
		t.Errorf("UDP crosses: %q", got)
	}
	from := listen(t, l.Host("x"), 443)
	if err := dial(l.Host("in"), addrPort(l.Host("x"), 443).String()); err != nil {
		t.Errorf("443: %v", err)
	} else {
		<-from
	}
	listen(t, l.Host("x"), 22)
	if open(l.Host("in"), addrPort(l.Host("x"), 22).String()) {
		t.Error("22 is open")
	}
	// Neighbours are not behind the firewall.
	in2 := udp(t, l.Host("in2"), 53)
	send(t, in, addrPort(l.Host("in2"), 53), "local")
	if got, _ := receive(t, in2, soon); got != "local" {
		t.Errorf("UDP between neighbours: %q", got)
	}
}

func TestRoutersWithoutNAT(t *testing.T) {
	need(t)
	l := up(t, `
  switches: [{name: core}, {name: left}, {name: right}]
  routers:
  - {name: r1, uplink: core, downlinks: left}
  - {name: r2, uplink: core, downlinks: right}
  hosts: [{name: a, attach: left}, {name: b, attach: right}, {name: c, attach: core}]
`)
	for _, pair := range [][2]string{{"a", "b"}, {"b", "a"}, {"c", "a"}, {"c", "b"}, {"a", "c"}} {
		sh(t, l.Host(pair[0]), "ping -c1 -W2 "+pair[1])
	}
}
