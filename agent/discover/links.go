package discover

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/wire/wirepb"
)

// links are the network devices of the agent's own namespace.
type links struct {
	all     []netlink.Link
	byIndex map[int]netlink.Link
	addrs   map[int][]string // CIDR, by device
	uplinks map[int]bool
	guests  map[int]bool // ports of guests
}

func readLinks() (*links, error) {
	l := &links{byIndex: map[int]netlink.Link{}, addrs: map[int][]string{}, uplinks: map[int]bool{}, guests: map[int]bool{}}
	var err error
	if l.all, err = netlink.LinkList(); err != nil {
		return l, fmt.Errorf("list interfaces: %w", err)
	}
	for _, link := range l.all {
		l.byIndex[link.Attrs().Index] = link
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return l, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		l.addrs[a.LinkIndex] = append(l.addrs[a.LinkIndex], a.IPNet.String())
	}
	return l, l.findUplinks()
}

// findUplinks marks the devices that default routes leave by. A machine
// without one (a data centre's inner net) has as uplinks the devices with a
// global address that hold nobody else's traffic.
func (l *links) findUplinks() error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if r.Dst != nil {
				if ones, _ := r.Dst.Mask.Size(); ones != 0 || !r.Dst.IP.IsUnspecified() {
					continue
				}
			}
			if r.LinkIndex > 0 {
				l.uplinks[r.LinkIndex] = true
			}
			for _, hop := range r.MultiPath {
				l.uplinks[hop.LinkIndex] = true
			}
		}
	}
	if len(l.uplinks) > 0 {
		return nil
	}
	for _, link := range l.all {
		a := link.Attrs()
		if a.Flags&net.FlagLoopback == 0 && a.MasterIndex == 0 && link.Type() != "bridge" && slices.ContainsFunc(l.addrs[a.Index], isGlobal) {
			l.uplinks[a.Index] = true
		}
	}
	return nil
}

func isGlobal(cidr string) bool {
	p, err := netip.ParsePrefix(cidr)
	return err == nil && p.Addr().IsGlobalUnicast()
}

// maxInterfaces bounds the report; a host has this many only by a fault.
const maxInterfaces = 512

// report describes the devices that are the host's own: not loopback, and not
// the host's ends of containers' pairs and the ports of guests, which belong to those.
func (l *links) report() []*wirepb.Interface {
	var out []*wirepb.Interface
	for _, link := range l.all {
		a := link.Attrs()
		uplink := l.uplinks[a.Index]
		if a.Flags&net.FlagLoopback != 0 || link.Type() == "veth" && !uplink && len(l.addrs[a.Index]) == 0 {
			continue
		}
		if link.Type() == "veth" && !uplink && a.MasterIndex != 0 || l.guests[a.Index] && !uplink {
			continue
		}
		addrs := slices.Clone(l.addrs[a.Index])
		slices.Sort(addrs)
		out = append(out, &wirepb.Interface{Name: a.Name, Mac: a.HardwareAddr.String(), Mtu: uint32(a.MTU), Addresses: addrs, Uplink: uplink})
	}
	slices.SortFunc(out, func(a, b *wirepb.Interface) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out[:min(len(out), maxInterfaces)]
}

func withoutBits(cidrs []string) []string {
	var out []string
	for _, c := range cidrs {
		if p, err := netip.ParsePrefix(c); err == nil && p.Addr().IsGlobalUnicast() {
			out = append(out, p.Addr().String())
		}
	}
	return out
}

// inside looks into a process's network namespace: its addresses, and which of
// our devices are the other ends of its veth pairs.
func (l *links) inside(proc string, pid int) (netDetail, error) {
	var detail netDetail
	ns, err := os.Open(proc + "/" + strconv.Itoa(pid) + "/ns/net")
	if err != nil {
		return detail, err
	}
	defer ns.Close()
	// The number by which our namespace knows that one. Without it two pairs
	// with the same device numbers could be taken for one another.
	nsid, err := netlink.GetNetNsIdByFd(int(ns.Fd()))
	if err != nil {
		nsid = -1
	}
	var theirs []netlink.Link
	var addrs []netlink.Addr
	err = inNamespace(int(ns.Fd()), func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		if theirs, err = h.LinkList(); err != nil {
			return err
		}
		addrs, err = h.AddrList(nil, netlink.FAMILY_ALL)
		return err
	})
	if err != nil {
		return detail, fmt.Errorf("look into namespace of process %d: %w", pid, err)
	}
	for _, a := range addrs {
		if a.IP.IsGlobalUnicast() {
			detail.addresses = append(detail.addresses, a.IP.String())
		}
	}
	for _, link := range theirs {
		if link.Type() != "veth" {
			continue
		}
		ours := l.byIndex[link.Attrs().ParentIndex]
		if ours != nil && ours.Type() == "veth" && ours.Attrs().ParentIndex == link.Attrs().Index && nsid >= 0 && ours.Attrs().NetNsID == nsid {
			detail.interfaces = append(detail.interfaces, ours.Attrs().Name)
		}
	}
	slices.Sort(detail.addresses)
	slices.Sort(detail.interfaces)
	return detail, nil
}

// inNamespace runs f in another network namespace, on a thread of its own: one
// that could not be brought back is given up instead of being used again.
func inNamespace(fd int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer own.Close()
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		err = f()
		if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// watchLinks hears of devices, addresses and routes that come and go.
func (d *Discover) watchLinks(ctx context.Context) {
	for ctx.Err() == nil {
		if err := d.subscribe(ctx); err != nil {
			d.log.Warn("listen to the kernel's network events", "error", err)
		}
		d.hear() // events may have been lost
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// subscribe listens until ctx ends or the socket overflows.
func (d *Discover) subscribe(ctx context.Context) error {
	done := make(chan struct{})
	defer close(done)
	failed := make(chan error, 3)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	linkEvents, addrEvents, routeEvents := make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64), make(chan netlink.RouteUpdate, 64)
	if err := netlink.LinkSubscribeWithOptions(linkEvents, done, netlink.LinkSubscribeOptions{ErrorCallback: fail}); err != nil {
		return err
	}
	if err := netlink.AddrSubscribeWithOptions(addrEvents, done, netlink.AddrSubscribeOptions{ErrorCallback: fail}); err != nil {
		return err
	}
	if err := netlink.RouteSubscribeWithOptions(routeEvents, done, netlink.RouteSubscribeOptions{ErrorCallback: fail}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case event, ok := <-linkEvents:
			if !ok {
				return fmt.Errorf("link events ended")
			}
			if event.IfInfomsg.Family == unix.AF_BRIDGE {
				continue // a port learns or forwards now; that it is one was told before
			}
		case _, ok := <-addrEvents:
			if !ok {
				return fmt.Errorf("address events ended")
			}
		case _, ok := <-routeEvents:
			if !ok {
				return fmt.Errorf("route events ended")
			}
		}
		d.hear()
	}
}
