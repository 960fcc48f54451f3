package lab

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/lab/netns"
	"weft/lab/topology"
)

// fabric is the namespace that holds the switches of a lab. Every interface of
// a host is one end of a veth pair whose other end, the port, is here.
type fabric struct {
	path     string
	ns       *os.File
	switches map[string]int // index of each switch's bridge

	mu   sync.Mutex
	next int
}

// newFabric makes the namespace and a bridge for each switch.
func newFabric(id string, plan *topology.Plan) (*fabric, error) {
	f := &fabric{path: fabricNS(id), switches: map[string]int{}}
	err := netns.Create(f.path, func() error {
		if err := quiet(false); err != nil {
			return err
		}
		// Frames between two ports are the switch's business alone.
		for _, name := range []string{"iptables", "ip6tables", "arptables"} {
			// Absent where br_netfilter is not loaded.
			_ = os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+name, []byte("0"), 0)
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		for i, s := range plan.Switches {
			index, err := addBridge(h, "sw"+strconv.Itoa(i), plan)
			if err != nil {
				return fmt.Errorf("make switch %q: %w", s.Name, err)
			}
			f.switches[s.Name] = index
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if f.ns, err = os.Open(f.path); err != nil {
		return nil, err
	}
	return f, nil
}

func addBridge(h *netlink.Handle, name string, plan *topology.Plan) (int, error) {
	mtu := 1500
	for _, n := range plan.Nodes {
		for _, p := range n.Ports {
			mtu = max(mtu, p.MTU)
		}
	}
	snooping := false
	link := &netlink.Bridge{
		LinkAttrs:         netlink.LinkAttrs{Name: name, MTU: mtu, Flags: net.FlagUp},
		MulticastSnooping: &snooping,
	}
	if err := h.LinkAdd(link); err != nil {
		return 0, err
	}
	return link.Index, nil
}

// do calls inside on a thread in the fabric, with a netlink handle there.
func (f *fabric) do(inside func(h *netlink.Handle) error) error {
	return netns.Do(f.path, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return inside(h)
	})
}

// portName draws a device name for a port; 15 bytes would hold a billion.
func (f *fabric) portName() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	return "p" + strconv.Itoa(f.next)
}

// plug makes a veth pair: one end a port of the switch, the other a device in
// the namespace ns. Neither end is ever seen outside of the two.
func (f *fabric) plug(h *netlink.Handle, port *topology.Port, ns *os.File) (device string, err error) {
	device = f.portName()
	err = h.LinkAdd(&netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: device, MTU: port.MTU, Flags: net.FlagUp, MasterIndex: f.switches[port.Switch]},
		PeerName:      port.Device,
		PeerMTU:       uint32(port.MTU),
		PeerNamespace: netlink.NsFd(ns.Fd()),
	})
	if err != nil {
		return "", fmt.Errorf("make link %s: %w", port.Link, err)
	}
	return device, nil
}

// quiet prepares a new namespace: no IPv6 chatter on new devices, forwarding
// and reverse path filter set on purpose rather than inherited.
func quiet(forward bool) error {
	value := map[bool]string{false: "0", true: "1"}[forward]
	for _, s := range [][2]string{
		{"ipv6/conf/default/disable_ipv6", "1"},
		{"ipv4/ip_forward", value},
		{"ipv4/conf/all/rp_filter", "0"},
		{"ipv4/conf/default/rp_filter", "0"},
	} {
		err := os.WriteFile("/proc/sys/net/"+s[0], []byte(s[1]), 0)
		if err != nil && !(os.IsNotExist(err) && s[0][:4] == "ipv6") {
			return fmt.Errorf("set sysctl: %w", err)
		}
	}
	return nil
}

func (f *fabric) close() {
	if f.ns != nil {
		f.ns.Close()
	}
}

// master puts a device on a switch, or takes it off.
func (f *fabric) master(device, sw string, on bool) error {
	return f.do(func(h *netlink.Handle) error {
		if !on {
			return setMaster(h, device, 0)
		}
		return setMaster(h, device, f.switches[sw])
	})
}

func setMaster(h *netlink.Handle, device string, master int) error {
	link, err := h.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s: %w", device, err)
	}
	return h.LinkSetMasterByIndex(link, master)
}

// addPair makes a veth pair within the fabric, its first end on a switch.
func addPair(h *netlink.Handle, port, end string, mtu, master int) error {
	err := h.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: port, MTU: mtu, Flags: net.FlagUp, MasterIndex: master},
		PeerName:  end,
		PeerMTU:   uint32(mtu),
	})
	if err != nil {
		return fmt.Errorf("make %s: %w", port, err)
	}
	return raise(h, end)
}

// settle waits until the kernel has noticed that the devices are up: it does so
// in the background, and until then a switch drops what a port receives. Here
// are the devices that count, by a list that is asked for again and again.
func settle(h *netlink.Handle, counts func(netlink.Link) bool) error {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		links, err := h.LinkList()
		if err != nil {
			return fmt.Errorf("list devices: %w", err)
		}
		waiting := slices.ContainsFunc(links, func(l netlink.Link) bool {
			return counts(l) && l.Attrs().OperState != netlink.OperUp
		})
		// A device that somebody has set down on purpose is waited for in vain.
		if !waiting || time.Now().After(deadline) {
			return nil
		}
	}
}

// settle waits for the named ports, or for all.
func (f *fabric) settle(devices ...string) error {
	return f.do(func(h *netlink.Handle) error {
		return settle(h, func(l netlink.Link) bool {
			return l.Type() == "veth" && (len(devices) == 0 || slices.Contains(devices, l.Attrs().Name))
		})
	})
}
