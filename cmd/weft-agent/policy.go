package main

import (
	"bufio"
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"weft/agent/connection"
	"weft/agent/datapath"
	"weft/agent/datapath/bpf"
	"weft/agent/datapath/nft"
	"weft/agent/discover"
	"weft/agent/flow"
	"weft/agent/recording"
	"weft/model"
	"weft/policy"
	"weft/wire/wirepb"
)

// segments wires the reconciler of "policy", "identity" and "flow", and the
// account of what connections do.
type segments struct {
	*datapath.Datapath
	flows     *flow.Flow
	places    *places
	callerKey *datapath.CallerKey
	traffic   *traffic
}

func newSegments(c config, found *discover.Discover, captures *recording.Recordings, part func(string) *slog.Logger) (*segments, error) {
	root := cgroupRoot(c)
	s := &segments{places: &places{controller: c.Controller}}
	var err error
	if s.callerKey, err = datapath.OpenCallerKey(filepath.Join(c.StateDir, "caller.key")); err != nil {
		part("datapath").Warn("draw a key that lasts until the next start", "error", err)
		if s.callerKey, err = datapath.NewCallerKey(); err != nil {
			return nil, err
		}
	}
	if s.flows, err = flow.Open(flow.Config{Dir: filepath.Join(c.StateDir, "flows"), PinDir: flowPins(c), Connections: bpf.Room()}, flow.Deps{Log: part("flow")}); err != nil {
		return nil, err
	}
	s.traffic = &traffic{Meter: s.flows, captures: captures}
	s.Datapath, err = datapath.New(datapath.Config{CgroupRoot: root, CallerKey: s.callerKey, Now: clock}, datapath.Deps{
		Drivers:   drivers(c, root, bpf.Deps{Hellos: s, Crowded: s.crowded, Log: part("datapath")}),
		Inventory: found.Snapshot, Known: s.places.known, Meter: s.traffic, Log: part("datapath"),
	})
	return s, err
}

// Hear takes what a connection begins with.
func (s *segments) Hear(x *connection.Hello) {
	s.flows.Hear(x)
	s.Wake()
}

// crowded has the connection table read.
func (s *segments) crowded() { s.Crowded() }

// drivers are those that this machine may use, the preferred first. The others
// are named too, so that what they have left is taken over and removed.
func drivers(c config, root string, deps bpf.Deps) []datapath.Choice {
	kernel := bpf.Config{CgroupRoot: root, PinDir: filepath.Join(c.BPFDir, "policy"), NamesFile: filepath.Join(c.StateDir, "names.json"), Clsact: c.Attach == "clsact"}
	choices := []datapath.Choice{
		{Name: "bpf", Meters: true, Open: func() (datapath.Driver, error) { return bpf.Open(kernel, deps) }, Left: func() bool { return bpf.Left(kernel) }},
		{Name: "nft", Open: func() (datapath.Driver, error) { return nft.New(nft.Config{}), nil }, Left: func() bool { return nft.Left(nft.Config{}) }},
	}
	for i := range choices {
		choices[i].Past = c.Datapath != "" && c.Datapath != "auto" && c.Datapath != choices[i].Name
	}
	return choices
}

func (s *segments) applyPolicy(ctx context.Context, m *wirepb.Section) ([]*wirepb.ItemStatus, error) {
	return s.ApplyPolicy(ctx, m.GetPolicy())
}

func (s *segments) applyIdentity(ctx context.Context, m *wirepb.Section) ([]*wirepb.ItemStatus, error) {
	return s.ApplyIdentity(ctx, m.GetIdentity())
}

func (s *segments) applyFlow(ctx context.Context, m *wirepb.Section) ([]*wirepb.ItemStatus, error) {
	return s.ApplyFlow(ctx, m.GetFlow())
}

// flowPins is where the account of flows is in the kernel.
func flowPins(c config) string { return filepath.Join(c.BPFDir, "flow") }

// cgroupRoot is where the agent finds workloads' cgroups.
func cgroupRoot(c config) string { return cmp.Or(c.CgroupRoot, cgroup2()) }

// cgroup2 is where the tree is mounted; empty where it is not.
func cgroup2() string {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir
		}
	}
	return ""
}

// places are the addresses that a policy can name by what they are: the
// controller, the relays, the resolvers, the metadata service.
type places struct {
	controller string

	mu       sync.Mutex
	relays   []string
	resolved map[string][]netip.Addr // by host name; kept where a look-up fails
	asked    time.Time
}

// lookEvery is how often names are looked up anew.
const lookEvery = time.Minute

// metadata are the addresses at which clouds serve metadata.
var metadata = []string{"169.254.169.254", "fd00:ec2::254", "fd20:ce::254"}

// setRelays takes the relays over from the section "transport".
func (p *places) setRelays(s *wirepb.TransportSection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.relays = nil
	for _, r := range s.GetRelays() {
		p.relays = append(p.relays, r.GetAddresses()...)
	}
	p.asked = time.Time{}
}

func (p *places) known() map[netip.Addr]policy.EntitySet {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[netip.Addr]policy.EntitySet{}
	fresh := time.Since(p.asked) < lookEvery
	if !fresh {
		p.asked = time.Now()
	}
	if u, err := url.Parse(p.controller); err == nil {
		p.add(out, u.Hostname(), model.EntityControlPlane, fresh)
	}
	for _, r := range p.relays {
		if host, _, err := net.SplitHostPort(r); err == nil {
			p.add(out, host, model.EntityRelay, fresh)
		}
	}
	for _, text := range resolvers("/etc/resolv.conf") {
		p.add(out, text, model.EntityDNS, fresh)
	}
	for _, text := range metadata {
		out[netip.MustParseAddr(text)] |= policy.EntityBit(model.EntityMetadata)
	}
	return out
}

// add puts the addresses of a host in.
func (p *places) add(out map[netip.Addr]policy.EntitySet, host string, e model.Entity, fresh bool) {
	if a, err := netip.ParseAddr(host); err == nil {
		out[a.WithZone("").Unmap()] |= policy.EntityBit(e)
		return
	}
	if p.resolved == nil {
		p.resolved = map[string][]netip.Addr{}
	}
	if _, known := p.resolved[host]; !fresh || !known {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		cancel()
		if err == nil {
			p.resolved[host] = found
		}
	}
	for _, a := range p.resolved[host] {
		out[a.Unmap()] |= policy.EntityBit(e)
	}
}

// resolvers reads the name servers of resolv.conf(5).
func resolvers(file string) []string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []string
	in := bufio.NewScanner(f)
	for in.Scan() && len(out) < 16 {
		if fields := strings.Fields(in.Text()); len(fields) > 1 && fields[0] == "nameserver" {
			if a, err := netip.ParseAddr(fields[1]); err == nil {
				out = append(out, a.WithZone("").String())
			}
		}
	}
	return out
}
