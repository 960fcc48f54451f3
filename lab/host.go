package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/lab/netns"
	"weft/lab/topology"
)

// Host is a host or router of a lab.
type Host struct {
	Name string
	lab  *Lab
	node *topology.Node

	mu         sync.Mutex
	up         bool
	bridged    bool // br0 is there
	containers []*Container
	macs       []string
}

func (h *Host) dir() string { return filepath.Join(labDir(h.lab.ID), "hosts", h.Name) }

// NetNS is the path of the host's network namespace.
func (h *Host) NetNS() string { return hostNS(h.lab.ID, h.Name) }

// CgroupDir is the host's cgroup, the root of all that runs on it.
func (h *Host) CgroupDir() string { return filepath.Join(h.lab.cgroup, h.Name) }

// StateDir is a directory for whatever runs on the host; it lasts as long as
// the lab.
func (h *Host) StateDir() string { return filepath.Join(h.dir(), "state") }

// BPFDir is the host's own BPF file system. Programs run with Command see it
// at /sys/fs/bpf as well; pins outlive them.
func (h *Host) BPFDir() string { return filepath.Join(h.dir(), "bpf") }

// Labels are the labels that the topology gives the host.
func (h *Host) Labels() map[string]string {
	if h.node.Host == nil {
		return nil
	}
	return h.node.Host.Labels
}

// IsRouter says whether the node is a router.
func (h *Host) IsRouter() bool { return h.node.Router != nil }

// Later says whether the topology leaves the host out until it is started.
func (h *Host) Later() bool { return h.node.Host != nil && h.node.Host.Later }

// Up says whether the host has been started.
func (h *Host) Up() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.up
}

// Cloud is what the host's metadata service answers with, or nil.
func (h *Host) Cloud() *topology.Cloud { return h.node.Cloud }

// Addresses are the host's addresses, that of its first interface first.
func (h *Host) Addresses() []netip.Addr {
	out := make([]netip.Addr, len(h.node.Ports))
	for i, p := range h.node.Ports {
		out[i] = p.Address.Addr()
	}
	return out
}

// Links names the host's links, that of its first interface first.
func (h *Host) Links() []string {
	out := make([]string, len(h.node.Ports))
	for i, p := range h.node.Ports {
		out[i] = p.Link
	}
	return out
}

// Command prepares a command that runs on the host.
func (h *Host) Command(ctx context.Context, argv ...string) *Cmd {
	return h.place().command(ctx, argv...)
}

// UnitCommand prepares a command that runs on the host in the cgroup of a unit.
func (h *Host) UnitCommand(ctx context.Context, unit string, argv ...string) *Cmd {
	p := h.place()
	p.cgroup = h.UnitDir(unit)
	return p.command(ctx, argv...)
}

// UnitDir is the cgroup of a unit.
func (h *Host) UnitDir(unit string) string { return filepath.Join(h.CgroupDir(), "units", unit) }

func (h *Host) place() place {
	return place{
		netns: h.NetNS(), cgroup: h.CgroupDir(), hostname: h.Name,
		binds: []bind{
			{h.namesFile(), "/etc/hosts"},
			{h.resolvFile(), "/etc/resolv.conf"},
			{filepath.Join(h.dir(), "hostname"), "/etc/hostname"},
			{h.BPFDir(), "/sys/fs/bpf"},
		},
	}
}

// start makes the namespace, the links, the directories, and what runs there.
func (h *Host) start() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.up {
		return nil
	}
	if err := h.makeDirs(); err != nil {
		return err
	}
	if err := netns.Create(h.NetNS(), func() error { return quiet(h.node.Router != nil) }); err != nil {
		return err
	}
	if err := h.connect(); err != nil {
		return err
	}
	if err := h.makeBehaviour(); err != nil {
		return err
	}
	h.up = true
	return nil
}

func (h *Host) makeDirs() error {
	for _, dir := range []string{h.StateDir(), h.BPFDir(), h.CgroupDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("bpf", h.BPFDir(), "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount BPF file system: %w", err)
	}
	if err := os.WriteFile(filepath.Join(h.dir(), "hostname"), []byte(h.Name+"\n"), 0o644); err != nil {
		return err
	}
	return h.writeResolv()
}

// connect plugs the host into its switches and sets addresses and routes.
func (h *Host) connect() error {
	ns, err := os.Open(h.NetNS())
	if err != nil {
		return err
	}
	defer ns.Close()
	fabric := h.lab.fabric
	var impaired []*link
	err = fabric.do(func(handle *netlink.Handle) error {
		for _, port := range h.node.Ports {
			device, err := fabric.plug(handle, port, ns)
			if err != nil {
				return err
			}
			if k := h.lab.addLink(h, port, device); port.Impairment.Active() {
				impaired = append(impaired, k)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = netns.Do(h.NetNS(), func() error {
		handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer handle.Close()
		return h.configure(handle)
	})
	if err != nil {
		return err
	}
	for _, k := range impaired {
		if err := h.lab.impair(k, k.port.Impairment); err != nil {
			return fmt.Errorf("impair link %s: %w", k.port.Link, err)
		}
	}
	return nil
}

func (h *Host) configure(handle *netlink.Handle) error {
	if err := raise(handle, "lo"); err != nil {
		return err
	}
	h.macs = nil
	for _, port := range h.node.Ports {
		link, err := handle.LinkByName(port.Device)
		if err != nil {
			return fmt.Errorf("find %s: %w", port.Device, err)
		}
		h.macs = append(h.macs, link.Attrs().HardwareAddr.String())
		if err := handle.AddrAdd(link, &netlink.Addr{IPNet: ipNet(port.Address)}); err != nil {
			return fmt.Errorf("set address of %s: %w", port.Device, err)
		}
		if err := handle.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s up: %w", port.Device, err)
		}
		if !port.Uplink {
			continue
		}
		for _, m := range h.node.Public {
			if err := handle.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(m.Outer, 32))}); err != nil {
				return fmt.Errorf("set public address %s: %w", m.Outer, err)
			}
		}
	}
	for _, r := range h.node.Routes {
		route := &netlink.Route{Gw: r.Via.AsSlice()}
		if r.Dst.IsValid() {
			route.Dst = ipNet(r.Dst)
		}
		if err := handle.RouteAdd(route); err != nil {
			return fmt.Errorf("add route to %s via %s: %w", r.Dst, r.Via, err)
		}
	}
	return nil
}

func raise(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// makeBehaviour adds what makes a node a router, a cloud machine or a host of
// containers.
func (h *Host) makeBehaviour() error {
	if h.node.Router != nil {
		if rules := routerRules(h.node); rules != "" {
			return applyRules(h.NetNS(), rules)
		}
		return nil
	}
	for _, u := range h.node.Host.Units {
		if err := makeCgroup(h.UnitDir(u.Name), u.Name, u.Labels); err != nil {
			return err
		}
	}
	for _, c := range h.node.Host.Containers {
		if err := h.addContainer(c); err != nil {
			return fmt.Errorf("container %q: %w", c.Name, err)
		}
	}
	if len(h.containers) > 0 {
		if err := applyRules(h.NetNS(), containerRules(h.containers)); err != nil {
			return err
		}
	}
	if h.node.Cloud != nil {
		return h.startMetadata()
	}
	return nil
}

func (h *Host) String() string {
	var addrs []string
	for _, a := range h.Addresses() {
		addrs = append(addrs, a.String())
	}
	return h.Name + " " + strings.Join(addrs, ",")
}
