package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/lab/netns"
	"weft/lab/topology"
)

// bridge is the device that a host's containers hang on.
const bridge = "br0"

// Container has its own namespace and cgroup behind its host's bridge and NAT,
// as a container engine makes it, and one process that does nothing.
type Container struct {
	Name    string
	host    *Host
	spec    topology.Container
	address netip.Addr
	init    *Cmd
	pid     int
}

// NetNS is the path of the container's network namespace.
func (c *Container) NetNS() string { return c.host.NetNS() + "." + c.Name }

// CgroupDir is the container's cgroup.
func (c *Container) CgroupDir() string {
	return filepath.Join(c.host.CgroupDir(), "containers", c.Name)
}

// Address is the container's address behind its host.
func (c *Container) Address() netip.Addr { return c.address }

// Labels are the labels that the topology gives the container.
func (c *Container) Labels() map[string]string { return c.spec.Labels }

// PID is the process that holds the container.
func (c *Container) PID() int { return c.pid }

// HostDevice is the name of the container's veth end on its host.
func (c *Container) HostDevice() string {
	sum := sha256.Sum256([]byte(c.Name))
	return "veth" + hex.EncodeToString(sum[:4])
}

// Command prepares a command that runs in the container.
func (c *Container) Command(ctx context.Context, argv ...string) *Cmd {
	return c.place().command(ctx, argv...)
}

func (c *Container) place() place {
	p := c.host.place()
	p.netns, p.cgroup, p.hostname = c.NetNS(), c.CgroupDir(), c.Name
	p.binds = p.binds[:2] // names; the BPF file system is the host's alone
	return p
}

// Container returns the container of that name, or nil.
func (h *Host) Container(name string) *Container {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.containers {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Containers lists the containers in the order they were added.
func (h *Host) Containers() []*Container {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.containers)
}

// AddContainer starts a container on a running host.
func (h *Host) AddContainer(spec topology.Container) (*Container, error) {
	if err := topology.CheckContainer(spec); err != nil {
		return nil, fmt.Errorf("container %q: %w", spec.Name, err)
	}
	if h.lab.remote() {
		if err := h.lab.call("POST", "/hosts/"+h.Name+"/containers", spec); err != nil {
			return nil, err
		}
		if err := h.lab.refresh(); err != nil {
			return nil, err
		}
		return h.Container(spec.Name), nil
	}
	if err := h.addOne(spec); err != nil {
		return nil, err
	}
	return h.Container(spec.Name), h.lab.save()
}

func (h *Host) addOne(spec topology.Container) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.up || h.node.Host == nil {
		return fmt.Errorf("%q is no running host; start it first", h.Name)
	}
	if err := h.addContainer(spec); err != nil {
		return fmt.Errorf("container %q: %w", spec.Name, err)
	}
	return applyRules(h.NetNS(), containerRules(h.containers))
}

// RemoveContainer ends a container and removes what was made for it.
func (h *Host) RemoveContainer(name string) error {
	if h.lab.remote() {
		return errors.Join(h.lab.call("DELETE", "/hosts/"+h.Name+"/containers/"+name, nil), h.lab.refresh())
	}
	return errors.Join(h.removeOne(name), h.lab.save())
}

func (h *Host) removeOne(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.containers, func(c *Container) bool { return c.Name == name })
	if i < 0 {
		return fmt.Errorf("host %q has no container %q", h.Name, name)
	}
	c := h.containers[i]
	h.containers = slices.Delete(h.containers, i, i+1)
	err := removeCgroup(c.CgroupDir())
	err = errors.Join(err, netns.Do(h.NetNS(), func() error {
		// With the device goes its other end, at once and not when the kernel
		// gets round to the namespace.
		link, err := netlink.LinkByName(c.HostDevice())
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	}))
	return errors.Join(err, netns.Remove(c.NetNS()), applyRules(h.NetNS(), containerRules(h.containers)), h.writeNames())
}

// addContainer makes a container. The caller holds the lock and loads the rules.
func (h *Host) addContainer(spec topology.Container) error {
	if slices.ContainsFunc(h.containers, func(c *Container) bool { return c.Name == spec.Name }) {
		return errors.New("the host already has one of that name")
	}
	c := &Container{Name: spec.Name, host: h, spec: spec}
	var err error
	if c.address, err = h.containerAddress(spec); err != nil {
		return err
	}
	if err := h.makeBridge(); err != nil {
		return err
	}
	if err := makeCgroup(c.CgroupDir(), c.Name, spec.Labels); err != nil {
		return err
	}
	if err := netns.Create(c.NetNS(), func() error { return quiet(false) }); err != nil {
		return err
	}
	if err := c.connect(); err != nil {
		return err
	}
	h.containers = append(h.containers, c)
	if err := h.writeNames(); err != nil {
		return err
	}
	return c.startInit()
}

func (h *Host) containerAddress(spec topology.Container) (netip.Addr, error) {
	taken := func(a netip.Addr) bool {
		return slices.ContainsFunc(h.containers, func(c *Container) bool { return c.address == a }) ||
			slices.ContainsFunc(h.node.Host.Containers, func(o topology.Container) bool { return o.Name != spec.Name && o.Address.Addr == a })
	}
	if spec.Address.IsValid() {
		if taken(spec.Address.Addr) {
			return netip.Addr{}, fmt.Errorf("address %s is taken; choose another", spec.Address)
		}
		return spec.Address.Addr, nil
	}
	for a := gatewayAddr().Next(); topology.ContainerNet.Contains(a); a = a.Next() {
		if !taken(a) {
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("no address is left in %s", topology.ContainerNet)
}

func gatewayAddr() netip.Addr { return topology.ContainerNet.Addr().Next() }

// makeBridge makes br0 and lets the host forward.
func (h *Host) makeBridge() error {
	if h.bridged {
		return nil
	}
	err := netns.Do(h.NetNS(), func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
			return fmt.Errorf("allow forwarding: %w", err)
		}
		snooping := false
		link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge, MTU: h.node.Ports[0].MTU, Flags: net.FlagUp}, MulticastSnooping: &snooping}
		if err := netlink.LinkAdd(link); err != nil {
			return fmt.Errorf("make %s: %w", bridge, err)
		}
		addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(gatewayAddr(), topology.ContainerNet.Bits()))}
		return netlink.AddrAdd(link, addr)
	})
	h.bridged = err == nil
	return err
}

func (c *Container) connect() error {
	ns, err := os.Open(c.NetNS())
	if err != nil {
		return err
	}
	defer ns.Close()
	mtu := c.host.node.Ports[0].MTU
	err = netns.Do(c.host.NetNS(), func() error {
		br, err := netlink.LinkByName(bridge)
		if err != nil {
			return fmt.Errorf("find %s: %w", bridge, err)
		}
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: c.HostDevice(), MTU: mtu, Flags: net.FlagUp, MasterIndex: br.Attrs().Index},
			PeerName:      "eth0",
			PeerMTU:       uint32(mtu),
			PeerNamespace: netlink.NsFd(ns.Fd()),
		})
	})
	if err != nil {
		return err
	}
	if err := c.configure(); err != nil {
		return err
	}
	return netns.Do(c.host.NetNS(), func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return settle(h, func(l netlink.Link) bool { return l.Attrs().Name == c.HostDevice() })
	})
}

func (c *Container) configure() error {
	return netns.Do(c.NetNS(), func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		if err := raise(h, "lo"); err != nil {
			return err
		}
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := h.AddrAdd(eth0, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(c.address, topology.ContainerNet.Bits()))}); err != nil {
			return err
		}
		if err := h.LinkSetUp(eth0); err != nil {
			return err
		}
		return h.RouteAdd(&netlink.Route{Gw: gatewayAddr().AsSlice()})
	})
}

// startInit starts the process that holds the container. It outlives a lab
// whose owner is killed, until that lab is swept.
func (c *Container) startInit() error {
	c.init = c.Command(context.Background(), "sleep", "infinity")
	c.init.Dir = "/"
	if err := c.init.Start(); err != nil {
		return fmt.Errorf("start init: %w", err)
	}
	c.pid = c.init.Process.Pid
	go c.init.Wait()
	return nil
}
