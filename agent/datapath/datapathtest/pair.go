package datapathtest

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"weft/internal/testreq"
	"weft/model"
)

// Pair is two machines whose containers hide behind their addresses.
//
//	┌─ alpha ──────────────────────────┐        ┌─ beta ───────────────────┐
//	│ job   10.87.0.1, fd87::1 ────────┼────────┼─ 10.87.0.2, fd87::2      │
//	│ br0   10.88.0.1   masquerade     │        │ br0  10.89.0.1           │
//	│   web .11   db .12   tool .13    │        │   store .11              │
//	└──────────────────────────────────┘        └──────────────────────────┘
//
// Port 8080 of alpha is db's port 80, and that of beta is store's.
type Pair struct {
	*Site // of all endpoints; Root and Machine are alpha's
	Sides [2]Side
}

// Side is one machine of a Pair.
type Side struct {
	Name      string
	Number    uint32
	Root      string // directory of its cgroup
	Machine   string // path of its network namespace
	Addresses []netip.Addr
	bridge    [2]netip.Addr
	Endpoints []*Endpoint
}

// NewPair makes one; all of it goes with the test.
func NewPair(t testing.TB) *Pair {
	t.Helper()
	testreq.Need(t, testreq.Root, testreq.NetNS, testreq.Cgroup2, "nsenter", "ip", "nft")
	id := fmt.Sprintf("wp%d-%d", os.Getpid(), sites.Add(1))
	p := &Pair{Site: &Site{T: t, Dir: filepath.Join(t.TempDir(), "bin"), caller: sockets{t}}}
	for i, name := range []string{"alpha", "beta"} {
		p.Sides[i] = Side{Name: name, Number: uint32(i + 1), Root: filepath.Join(cgroupTree(t), id+name)}
		p.Sides[i].Machine = p.namespace(id + name)
		for k, v := range []string{"10.87.0.%d", "fd87::%d"} {
			p.Sides[i].Addresses = append(p.Sides[i].Addresses, netip.MustParseAddr(fmt.Sprintf(v, i+1)))
			p.Sides[i].bridge[k] = netip.MustParseAddr(fmt.Sprintf([]string{"10.%d.0.1", "fd%d::1"}[k], 88+i))
		}
	}
	a, b := &p.Sides[0], &p.Sides[1]
	p.Root, p.Machine = a.Root, a.Machine
	p.in(a.Machine, "ip link add up0 type veth peer name up0 netns "+filepath.Base(b.Machine))
	p.place(a, id, "alpha", model.WorkloadHost, 0)
	p.place(a, id, "job", model.WorkloadUnit, 0)
	p.place(b, id, "beta", model.WorkloadHost, 0)
	for i := range p.Sides {
		p.wireSide(&p.Sides[i])
	}
	for i, name := range []string{"web", "db", "tool"} {
		p.place(a, id, name, model.WorkloadContainer, 11+i)
	}
	p.place(b, id, "store", model.WorkloadContainer, 11)
	p.publish(a, 12)
	p.publish(b, 11)
	for i := range p.Sides {
		root := p.Sides[i].Root
		t.Cleanup(func() { removeTree(t, root) })
		for _, e := range p.Sides[i].Endpoints {
			e.process = startProcess(t, e.Exe, e.NetNS, e.Cgroup)
			p.listenAll(e)
		}
	}
	return p
}

func (p *Pair) namespace(name string) string {
	p.run("ip", "netns", "add", name)
	p.T.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() })
	p.in("/run/netns/"+name, "ip link set lo up")
	return "/run/netns/" + name
}

func (p *Pair) wireSide(s *Side) {
	p.in(s.Machine, fmt.Sprintf(`
ip link set up0 up; ip addr add %s/24 dev up0; ip -6 addr add %s/64 dev up0 nodad
ip link add br0 type bridge; ip link set br0 up; ip addr add %s/24 dev br0; ip -6 addr add %s/64 dev br0 nodad
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1`, s.Addresses[0], s.Addresses[1], s.bridge[0], s.bridge[1]))
}

// place adds an endpoint to a side; a container gets a namespace on its bridge.
func (p *Pair) place(s *Side, id, name string, kind model.WorkloadKind, number int) {
	p.T.Helper()
	e := &Endpoint{Name: name, Kind: kind, NetNS: s.Machine, Cgroup: filepath.Join(s.Root, name), IPv4: s.Addresses[0], IPv6: s.Addresses[1],
		Labels: map[string]string{"app": name, "workload.kind": string(kind)}, Exe: filepath.Join(p.Dir, name)}
	if err := os.MkdirAll(e.Cgroup, 0o755); err != nil {
		p.T.Fatal(err)
	}
	if kind == model.WorkloadContainer {
		e.NetNS = p.namespace(id + name)
		v4, v6 := s.bridge[0].As4(), s.bridge[1].As16()
		v4[3], v6[15] = byte(number), byte(number)
		e.IPv4, e.IPv6 = netip.AddrFrom4(v4), netip.AddrFrom16(v6)
		p.in(s.Machine, fmt.Sprintf("ip link add v%s type veth peer name eth0 netns %s; ip link set v%s up master br0", name, filepath.Base(e.NetNS), name))
		p.in(e.NetNS, fmt.Sprintf("ip link set eth0 up; ip addr add %s/24 dev eth0; ip -6 addr add %s/64 dev eth0 nodad; ip route add default via %s; ip -6 route add default via %s",
			e.IPv4, e.IPv6, s.bridge[0], s.bridge[1]))
	}
	s.Endpoints, p.Endpoints = append(s.Endpoints, e), append(p.Endpoints, e)
}

// publish hides containers behind the machine, and gives one of them a port.
func (p *Pair) publish(s *Side, number int) {
	v4, v6 := netip.PrefixFrom(s.bridge[0], 24).Masked(), netip.PrefixFrom(s.bridge[1], 64).Masked()
	to4, to6 := s.bridge[0].As4(), s.bridge[1].As16()
	to4[3], to6[15] = byte(number), byte(number)
	p.in(s.Machine, fmt.Sprintf(`nft -f - <<'END'
table inet published {
 chain before {
  type nat hook prerouting priority -100
  ip daddr %s tcp dport 8080 dnat ip to %s:80
  ip6 daddr %s tcp dport 8080 dnat ip6 to [%s]:80
 }
 chain after {
  type nat hook postrouting priority 100
  ip saddr %s masquerade
  ip6 saddr %s masquerade
 }
}
END`, s.Addresses[0], netip.AddrFrom4(to4), s.Addresses[1], netip.AddrFrom16(to6), v4, v6))
}

// Dial makes an endpoint call an address, and closes what was allowed. network
// is tcp, udp, or mptcp.
func (p *Pair) Dial(from, network string, to netip.AddrPort) (Outcome, error) {
	return p.DialFor(from, network, to, patience)
}

// DialFor is Dial with another patience.
func (p *Pair) DialFor(from, network string, to netip.AddrPort, timeout time.Duration) (Outcome, error) {
	e := p.Endpoint(from)
	r, err := e.process.tell(order{Do: "dial", Network: network, Address: to.String(), Timeout: timeout})
	if err == nil && r.Outcome == Allowed {
		_, err = e.process.tell(order{Do: "close", Handle: r.Handle})
	}
	return r.Outcome, err
}

// Hold is Dial for a call that must be allowed, and stays: talk uses it.
func (p *Pair) Hold(from string, to netip.AddrPort) (talk func() Outcome) {
	p.T.Helper()
	e := p.Endpoint(from)
	r, err := e.process.tell(order{Do: "dial", Network: "tcp", Address: to.String(), Timeout: patience})
	if err != nil || r.Outcome != Allowed {
		p.T.Fatalf("%s -> %s: %s %s %v", from, to, r.Outcome, r.Error, err)
	}
	return func() Outcome {
		r, err := e.process.tell(order{Do: "talk", Handle: r.Handle, Timeout: patience})
		if err != nil {
			p.T.Fatal(err)
		}
		return r.Outcome
	}
}
