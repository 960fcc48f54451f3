package nft_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"weft/internal/testreq"
	"weft/lab/netns"
)

// site is a machine with two containers on a bridge, two units, and an outside.
type site struct {
	dir                                 string
	machine                             string // path of its namespace
	host, unit, inner, web, db, outside *place
}

func (s *site) all() []*place { return []*place{s.host, s.unit, s.inner, s.web, s.db, s.outside} }

func link(t testing.TB, h *netlink.Handle, name string, addrs ...string) {
	t.Helper()
	l, err := h.LinkByName(name)
	fail(t, err)
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		fail(t, err)
		addr.Flags = 2 // IFA_F_NODAD
		fail(t, h.AddrAdd(l, addr))
	}
	fail(t, h.LinkSetUp(l))
}

func inside(t testing.TB, path string, f func(h *netlink.Handle)) {
	t.Helper()
	fail(t, netns.Do(path, func() error {
		h, err := netlink.NewHandle(syscall.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		f(h)
		return nil
	}))
}

type netlinkHandle = netlink.Handle

func route(t testing.TB, h *netlink.Handle, to, via string) {
	t.Helper()
	_, dst, err := net.ParseCIDR(to)
	fail(t, err)
	fail(t, h.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP(via)}))
}

func newSite(t testing.TB) *site {
	t.Helper()
	testreq.Need(t, testreq.Root, testreq.NetNS, testreq.Cgroup2)
	s := &site{dir: t.TempDir()}
	s.machine = filepath.Join(s.dir, "m")
	make := func(path string) {
		fail(t, netns.Create(path, func() error {
			for _, f := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
				if err := os.WriteFile("/proc/sys/net/"+f, []byte("1"), 0); err != nil {
					return err
				}
			}
			return nil
		}))
		t.Cleanup(func() { netns.Remove(path) })
		inside(t, path, func(h *netlink.Handle) { link(t, h, "lo") })
	}
	make(s.machine)
	inside(t, s.machine, func(h *netlink.Handle) {
		off := false
		fail(t, h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}, MulticastSnooping: &off}))
		link(t, h, "br0", "10.77.0.1/24", "fd77::1/64")
	})
	cgroups := cgroupRoot(t)
	for i, name := range []string{"web", "db", "outside"} {
		path := filepath.Join(s.dir, name)
		make(path)
		ns, err := os.Open(path)
		fail(t, err)
		inside(t, s.machine, func(h *netlink.Handle) {
			attrs := netlink.LinkAttrs{Name: "v" + name}
			if name != "outside" {
				br, err := h.LinkByName("br0")
				fail(t, err)
				attrs.MasterIndex = br.Attrs().Index
			}
			fail(t, h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.Fd())}))
			link(t, h, attrs.Name)
			if name == "outside" {
				link(t, h, attrs.Name, "10.88.0.1/24", "fd88::1/64")
			}
		})
		ns.Close()
		p := &place{name: name, netns: path, addr4: netip.MustParseAddr(fmt.Sprintf("10.77.0.%d", 10+i)), addr6: netip.MustParseAddr(fmt.Sprintf("fd77::%d", 10+i)), cgroup: filepath.Join(cgroups, name)}
		gw4, gw6 := "10.77.0.1", "fd77::1"
		if name == "outside" {
			p.addr4, p.addr6, p.cgroup = netip.MustParseAddr("10.88.0.2"), netip.MustParseAddr("fd88::2"), ""
			gw4, gw6 = "10.88.0.1", "fd88::1"
		} else {
			fail(t, os.Mkdir(p.cgroup, 0o755))
			t.Cleanup(func() { os.Remove(p.cgroup) })
		}
		inside(t, path, func(h *netlink.Handle) {
			link(t, h, "eth0", p.addr4.String()+"/24", p.addr6.String()+"/64")
			fail(t, h.RouteAdd(&netlink.Route{Gw: net.ParseIP(gw4)}))
			fail(t, h.RouteAdd(&netlink.Route{Gw: net.ParseIP(gw6)}))
		})
		switch name {
		case "web":
			s.web = p
		case "db":
			s.db = p
		default:
			s.outside = p
		}
	}
	m4, m6 := netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd77::1")
	s.host = &place{name: "host", netns: s.machine, addr4: m4, addr6: m6}
	s.unit = &place{name: "unit", netns: s.machine, addr4: m4, addr6: m6, cgroup: filepath.Join(cgroups, "unit")}
	s.inner = &place{name: "inner", netns: s.machine, addr4: m4, addr6: m6, cgroup: filepath.Join(cgroups, "unit", "a", "inner")}
	for _, dir := range []string{"unit", "unit/a", "unit/a/inner"} {
		fail(t, os.Mkdir(filepath.Join(cgroups, dir), 0o755))
		t.Cleanup(func() { os.Remove(filepath.Join(cgroups, dir)) })
	}
	for i, p := range s.all() {
		p.start(t)
		offset := 0
		if p == s.unit || p == s.inner {
			offset = 10000 * i
		}
		p.listen(t, offset)
	}
	for _, from := range []*place{s.web, s.db, s.outside} {
		for _, to := range []*place{s.web, s.outside, s.host} {
			// Until each knows its neighbours.
			for end := time.Now().Add(10 * time.Second); from.do("probe", "udp", to.addr(true, 53), time.Second) != "ok"; {
				if time.Now().After(end) {
					t.Fatalf("%s does not reach %s", from.name, to.name)
				}
			}
		}
	}
	return s
}

func cgroupRoot(t testing.TB) string {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		var st syscall.Statfs_t
		if syscall.Statfs(dir, &st) == nil && st.Type == 0x63677270 {
			out, err := os.MkdirTemp(dir, "weft-nft-test-")
			fail(t, err)
			t.Cleanup(func() { os.Remove(out) })
			return out
		}
	}
	t.Fatal("no cgroup2 tree")
	return ""
}

// nftables runs the tool in a namespace, to look and to disturb.
func nftables(t testing.TB, path string, args ...string) string {
	t.Helper()
	testreq.Need(t, "nft")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nft", args...)
	var out []byte
	err := netns.Do(path, func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("nft %v: %v\n%s", args, err, out)
	}
	return string(out)
}
