package datapathtest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/testreq"
	"weft/model"
)

// Site is a machine with two containers on a bridge and a unit, and another
// machine outside.
//
//	          cgroup root
//	┌───────────────────────────────┐
//	│ machine   unit                │      outside
//	│    └───┬────┘  10.77.0.1 ─────┼────── 10.77.0.2
//	│      br0  10.78.0.1           │
//	│     ┌──┴──┐                   │
//	│     c1    c2  10.78.0.11, .12 │
//	└───────────────────────────────┘
type Site struct {
	// more are label sets that nobody has: they move the numbers of the others.
	more      []map[string]string
	T         testing.TB
	Root      string // directory of the machine's cgroup
	Machine   string // path of its network namespace
	Dir       string // programs
	Endpoints []*Endpoint
	caller    Caller
	world     *World // the last made
}

// Caller makes attempts.
type Caller interface {
	// Dial makes one; an allowed one is held by a number of the sender's own.
	Dial(a Attempt) (Outcome, int, error)
	// Talk uses a connection that is held, and Close ends it.
	Talk(from *Endpoint, held int) (Outcome, error)
	Close(from *Endpoint, held int)
	// Lookup asks a resolver for OutsideName.
	Lookup(from, resolver *Endpoint) (Outcome, error)
	// Another starts another program, or the same one elsewhere, for an endpoint.
	Another(e *Endpoint)
}

var sites atomic.Uint32

// Ports that every endpoint listens on.
var (
	TCPPorts = []uint16{80, 443, 5432}
	UDPPorts = []uint16{53, 123}
)

// NewSite makes a site; all of it goes with the test.
func NewSite(t testing.TB) *Site {
	t.Helper()
	testreq.Need(t, testreq.Root, testreq.NetNS, testreq.Cgroup2, "nsenter", "ip")
	id := fmt.Sprintf("wd%d-%d", os.Getpid(), sites.Add(1))
	s := &Site{T: t, Dir: filepath.Join(t.TempDir(), "bin"), caller: sockets{t}}
	s.Root = filepath.Join(cgroupTree(t), id)
	netns := func(name string) string {
		full := id + name
		s.run("ip", "netns", "add", full)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", full).Run() })
		path := "/run/netns/" + full
		s.in(path, "ip link set lo up")
		return path
	}
	outsideGroup := filepath.Join(cgroupTree(t), id+"-outside")
	for _, dir := range []string{s.Root, filepath.Join(s.Root, "machine"), filepath.Join(s.Root, "unit"), filepath.Join(s.Root, "containers/c1"), filepath.Join(s.Root, "containers/c2"), outsideGroup} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { removeTree(t, s.Root); removeTree(t, outsideGroup) })
	s.Machine = netns("h")
	outside, c1, c2 := netns("o"), netns("a"), netns("b")
	s.wire(outside, c1, c2)
	s.populate(outside, c1, c2, outsideGroup)
	for _, e := range s.Endpoints {
		e.process = startProcess(t, e.Exe, e.NetNS, e.Cgroup)
		s.listenAll(e)
	}
	return s
}

// populate names the endpoints.
func (s *Site) populate(outside, c1, c2, outsideGroup string) {
	add := func(name string, kind model.WorkloadKind, netns, cgroup, v4, v6, labels string) {
		e := &Endpoint{Name: name, Kind: kind, NetNS: netns, Cgroup: cgroup, IPv4: netip.MustParseAddr(v4), IPv6: netip.MustParseAddr(v6),
			Labels: map[string]string{}, Exe: filepath.Join(s.Dir, name)}
		for _, l := range strings.Split(labels, ",") {
			if k, v, ok := strings.Cut(l, "="); ok {
				e.Labels[k] = v
			}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	add("machine", model.WorkloadHost, s.Machine, filepath.Join(s.Root, "machine"), "10.77.0.1", "fd77::1", "app=machine,workload.kind=host")
	add("unit", model.WorkloadUnit, s.Machine, filepath.Join(s.Root, "unit"), "10.77.0.1", "fd77::1", "app=unit,workload.kind=unit")
	add("c1", model.WorkloadContainer, c1, filepath.Join(s.Root, "containers/c1"), "10.78.0.11", "fd78::11", "app=web,workload.kind=container")
	add("c2", model.WorkloadContainer, c2, filepath.Join(s.Root, "containers/c2"), "10.78.0.12", "fd78::12", "app=db,workload.kind=container")
	add("outside", "", outside, outsideGroup, "10.77.0.2", "fd77::2", "")
}

// cgroupTree is where the cgroup2 tree is mounted.
func cgroupTree(t testing.TB) string {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir
		}
	}
	t.Fatal("no cgroup2 tree")
	return ""
}

// removeTree removes cgroups, waiting for the last process to be gone.
func removeTree(t testing.TB, root string) {
	var err error
	for range 200 {
		err = nil
		filepath.WalkDir(root, func(path string, d os.DirEntry, walk error) error {
			if walk == nil && d.IsDir() && path != root {
				os.Remove(path)
			}
			return nil
		})
		if err = os.Remove(root); err == nil || errors.Is(err, os.ErrNotExist) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("remove cgroup %s: %v", root, err)
}

// wire connects the namespaces.
func (s *Site) wire(outside, c1, c2 string) {
	s.in(s.Machine, `
ip link add br0 type bridge; ip link set br0 up
ip addr add 10.78.0.1/24 dev br0; ip -6 addr add fd78::1/64 dev br0 nodad
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1`)
	pair := func(name, ns, v4, v6, gw4, gw6 string) {
		s.in(s.Machine, fmt.Sprintf("ip link add %s type veth peer name eth0 netns %s; ip link set %s up", name, filepath.Base(ns), name))
		s.in(ns, fmt.Sprintf("ip link set eth0 up; ip addr add %s dev eth0; ip -6 addr add %s dev eth0 nodad; ip route add default via %s; ip -6 route add default via %s", v4, v6, gw4, gw6))
	}
	pair("up0", outside, "10.77.0.2/24", "fd77::2/64", "10.77.0.1", "fd77::1")
	s.in(s.Machine, "ip addr add 10.77.0.1/24 dev up0; ip -6 addr add fd77::1/64 dev up0 nodad")
	pair("vc1", c1, "10.78.0.11/24", "fd78::11/64", "10.78.0.1", "fd78::1")
	pair("vc2", c2, "10.78.0.12/24", "fd78::12/64", "10.78.0.1", "fd78::1")
	s.in(s.Machine, "ip link set vc1 master br0; ip link set vc2 master br0")
}

func (s *Site) run(name string, args ...string) {
	s.T.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		s.T.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func (s *Site) in(netns, script string) {
	s.T.Helper()
	if out, err := exec.Command("nsenter", "--net="+netns, "sh", "-ec", script).CombinedOutput(); err != nil {
		s.T.Fatalf("in %s: %s: %v\n%s", netns, script, err, out)
	}
}

// Endpoint returns one by name.
func (s *Site) Endpoint(name string) *Endpoint {
	for _, e := range s.Endpoints {
		if e.Name == name {
			return e
		}
	}
	s.T.Fatalf("no endpoint %q", name)
	return nil
}

// listenAll opens the ports of an endpoint. The unit shares its machine's
// addresses, so its ports are a thousand higher.
func (s *Site) listenAll(e *Endpoint) {
	s.T.Helper()
	for _, network := range []string{"tcp", "udp"} {
		ports := TCPPorts
		if network == "udp" {
			ports = UDPPorts
		}
		for _, p := range ports {
			r, err := e.process.tell(order{Do: "listen", Network: network, Address: fmt.Sprintf("[::]:%d", s.portOf(e, p))})
			if err != nil || r.Error != "" {
				s.T.Fatalf("%s listens on %s %d: %v %s", e.Name, network, p, err, r.Error)
			}
		}
	}
}

func (s *Site) portOf(e *Endpoint, port uint16) uint16 {
	if e.Kind == model.WorkloadUnit {
		return port + 1000
	}
	return port
}
