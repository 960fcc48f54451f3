package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/vishvananda/netlink"

	"weft/lab/netns"
)

// site is a sender and a receiver, joined by a veth pair; the receiver's end is
// where the firewall stands, and its sink is a process of its own in a cgroup.
//
//	sender 192.0.2.1 ── eth0 ═══ eth0 ── 192.0.2.2 receiver, firewall, sink
//	       10.0.0.0/8                    198.18.0.0/15
//
// Each has all of its range: rules tell 10.0.0.0/8 apart, and the other makes
// as many connections new as are needed.
type site struct {
	dir              string
	sender, receiver string // paths of the namespaces
	cgroup, pins     string
	sink             *sinkProcess
	counters         *counters
	wall             firewall // nil where there is none
	frames           *frames
}

var (
	senderMAC   = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	receiverMAC = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

func (g *ground) newSite() (*site, error) {
	name := fmt.Sprint("s", len(g.sites))
	s := &site{dir: filepath.Join(g.dir, name), cgroup: filepath.Join(g.cgroup, name), pins: filepath.Join(g.bpf(), name)}
	s.sender, s.receiver = filepath.Join(s.dir, "sender"), filepath.Join(s.dir, "receiver")
	g.sites = append(g.sites, s)
	if err := s.build(); err != nil {
		return nil, fmt.Errorf("build a site: %w", err)
	}
	return s, nil
}

func (s *site) build() error {
	for _, dir := range []string{s.dir, s.cgroup} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	for _, path := range []string{s.sender, s.receiver} {
		if err := netns.Create(path, nil); err != nil {
			return err
		}
	}
	far, err := os.Open(s.receiver)
	if err != nil {
		return err
	}
	defer far.Close()
	err = inside(s.sender, func(h *netlink.Handle) error {
		return h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", HardwareAddr: senderMAC}, PeerName: "eth0",
			PeerHardwareAddr: receiverMAC, PeerNamespace: netlink.NsFd(far.Fd())})
	})
	if err != nil {
		return err
	}
	if err := s.settle(s.sender, "192.0.2.1/24", "10.0.0.0/8", "192.0.2.2", receiverMAC); err != nil {
		return err
	}
	if err := s.settle(s.receiver, "192.0.2.2/24", "198.18.0.0/15", "192.0.2.1", senderMAC); err != nil {
		return err
	}
	if s.sink, err = startSink(s.receiver, s.cgroup); err != nil {
		return err
	}
	if s.counters, err = openCounters(s.receiver); err != nil {
		return err
	}
	s.frames, err = newFrames(s.sender)
	return err
}

// settle gives one end its addresses and tells it who is at the other.
func (s *site) settle(path, address, own, other string, mac net.HardwareAddr) error {
	return inside(path, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		_, mine, err := net.ParseCIDR(own)
		if err != nil {
			return err
		}
		gw := net.ParseIP(other)
		for _, step := range []func() error{
			func() error { return h.LinkSetUp(lo) },
			func() error { return h.LinkSetUp(eth0) },
			func() error { return h.AddrAdd(eth0, addr) },
			func() error {
				return h.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: mine, Type: syscall.RTN_LOCAL, Table: syscall.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST})
			},
			func() error {
				return h.NeighAdd(&netlink.Neigh{LinkIndex: eth0.Attrs().Index, IP: gw, HardwareAddr: mac, State: netlink.NUD_PERMANENT, Family: netlink.FAMILY_V4})
			},
			func() error { return h.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: gw}) },
		} {
			if err := step(); err != nil {
				return fmt.Errorf("set up %s: %w", address, err)
			}
		}
		return nil
	})
}

func inside(path string, f func(*netlink.Handle) error) error {
	return netns.Do(path, func() error {
		h, err := netlink.NewHandle(syscall.NETLINK_ROUTE, syscall.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer h.Close()
		return f(h)
	})
}

// forget empties the receiver's connection tracking.
func (s *site) forget() error {
	return inside(s.receiver, func(h *netlink.Handle) error { return h.ConntrackTableFlush(netlink.ConntrackTable) })
}

// remove takes away what was built, as far as it was.
func (s *site) remove() error {
	var errs []error
	if s.wall != nil {
		errs = append(errs, s.wall.close())
	}
	if s.frames != nil {
		errs = append(errs, s.frames.close())
	}
	if s.counters != nil {
		errs = append(errs, s.counters.close())
	}
	if s.sink != nil {
		s.sink.stop()
	}
	return errors.Join(append(errs, netns.Remove(s.sender), netns.Remove(s.receiver), removeCgroup(s.cgroup))...)
}
