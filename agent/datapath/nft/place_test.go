package nft_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"weft/internal/testreq"
	"weft/lab/netns"
)

// TestMain is also the process that runs in each place.
func TestMain(m *testing.M) {
	if os.Getenv("WEFT_NFT_PLACE") != "" {
		serve()
		return
	}
	os.Exit(m.Run())
}

// ask is what a process in a place is told to do, and answer what came of it.
type ask struct {
	ID       int
	Op       string // listen, probe, keep, send, close
	Protocol string // tcp, udp, icmp
	Addr     string
	Wait     time.Duration
}

type answer struct {
	ID     int
	Result string
}

// serve does what it is told until its input ends.
func serve() {
	var mu sync.Mutex
	kept := map[string]net.Conn{}
	out := json.NewEncoder(os.Stdout)
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	for {
		var a ask
		if in.Decode(&a) != nil {
			return
		}
		go func() {
			var result string
			switch a.Op {
			case "listen":
				result = listen(a.Protocol, a.Addr)
			case "probe":
				result = probe(a.Protocol, a.Addr, a.Wait)
			case "keep":
				c, err := net.DialTimeout(a.Protocol, a.Addr, a.Wait)
				result = outcomeOf(err)
				if err == nil {
					mu.Lock()
					kept[a.Addr] = c
					mu.Unlock()
				}
			case "big":
				result = big(a.Addr, a.Wait)
			case "rate":
				result = rate(a.Addr, a.Wait)
			case "flood":
				result = flood(a.Addr, a.Wait)
			case "send":
				mu.Lock()
				c := kept[a.Addr]
				mu.Unlock()
				result = echo(c, a.Wait)
			}
			mu.Lock()
			defer mu.Unlock()
			out.Encode(answer{a.ID, result})
		}()
	}
}

func listen(protocol, addr string) string {
	if protocol == "udp" {
		c, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err.Error()
		}
		go func() {
			b := make([]byte, 5000)
			for {
				n, from, err := c.ReadFrom(b)
				if err != nil && errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					c.WriteTo(b[:n], from)
				}
			}
		}()
		return "ok"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err.Error()
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	return "ok"
}

func outcomeOf(err error) string {
	var timeout net.Error
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.ECONNRESET):
		return "rejected"
	case errors.Is(err, syscall.EPERM), errors.As(err, &timeout) && timeout.Timeout():
		return "dropped" // a drop at output is told to the sender
	}
	return err.Error()
}

func probe(protocol, addr string, wait time.Duration) string {
	if protocol == "icmp" {
		return ping(netip.MustParseAddr(addr), wait)
	}
	c, err := net.DialTimeout(protocol, addr, wait)
	if err != nil {
		return outcomeOf(err)
	}
	defer c.Close()
	if protocol == "tcp" {
		c.(*net.TCPConn).SetLinger(0)
	}
	return echo(c, wait)
}

func echo(c net.Conn, wait time.Duration) string {
	c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write([]byte("hello")); err != nil {
		return outcomeOf(err)
	}
	_, err := io.ReadFull(c, make([]byte, 5))
	return outcomeOf(err)
}

// big sends a datagram in fragments and wants it back.
func big(addr string, wait time.Duration) string {
	c, err := net.DialTimeout("udp", addr, wait)
	if err != nil {
		return outcomeOf(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write(make([]byte, 4000)); err != nil {
		return outcomeOf(err)
	}
	b := make([]byte, 5000)
	n, err := c.Read(b)
	if err == nil && n != 4000 {
		return fmt.Sprintf("%d bytes came back", n)
	}
	return outcomeOf(err)
}

// rate counts the datagrams that can be sent in a time.
func rate(addr string, wait time.Duration) string {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	n := 0
	for end := time.Now().Add(wait); time.Now().Before(end); {
		for range 100 {
			if _, err := c.Write([]byte("x")); err == nil {
				n++
			}
		}
	}
	return fmt.Sprint(n)
}

// flood sends datagrams without a pause and counts how many come back.
func flood(addr string, wait time.Duration) string {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	end := time.Now().Add(wait)
	sent, got := 0, 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 100)
		c.SetReadDeadline(end.Add(200 * time.Millisecond))
		for {
			if _, err := c.Read(b); err == nil {
				got++
			} else if time.Now().After(end) {
				return
			}
		}
	}()
	for time.Now().Before(end) {
		if _, err := c.Write([]byte("x")); err == nil {
			sent++
		}
		time.Sleep(20 * time.Microsecond)
	}
	<-done
	return fmt.Sprintf("sent %d got %d", sent, got)
}

func ping(to netip.Addr, wait time.Duration) string {
	network, typ, want := "ip4:icmp", icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply)
	protocol := 1
	if to.Is6() {
		network, typ, want, protocol = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58
	}
	c, err := icmp.ListenPacket(network, "")
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	id := int(time.Now().UnixNano()>>4) & 0xffff
	b, _ := (&icmp.Message{Type: typ, Body: &icmp.Echo{ID: id, Seq: 1, Data: []byte("x")}}).Marshal(nil)
	if _, err := c.WriteTo(b, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return outcomeOf(err)
	}
	c.SetReadDeadline(time.Now().Add(wait))
	in := make([]byte, 1500)
	for {
		n, _, err := c.ReadFrom(in)
		if err != nil {
			return outcomeOf(err)
		}
		m, err := icmp.ParseMessage(protocol, in[:n])
		if err != nil {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && m.Type == want && e.ID == id {
			return "ok"
		}
	}
}

// place is a process in a network namespace and perhaps a cgroup of its own.
type place struct {
	name          string
	netns, cgroup string
	addr4, addr6  netip.Addr
	in            *json.Encoder
	mu            sync.Mutex
	next          int
	waiting       map[int]chan string
	pid           int
}

func (p *place) do(op, protocol, addr string, wait time.Duration) string {
	ch := make(chan string, 1)
	p.mu.Lock()
	p.next++
	id := p.next
	p.waiting[id] = ch
	p.in.Encode(ask{id, op, protocol, addr, wait})
	p.mu.Unlock()
	select {
	case r := <-ch:
		return r
	case <-time.After(wait + 5*time.Second):
		return "no answer"
	}
}

// addr returns the place's address of a family, with a port unless it is 0.
func (p *place) addr(six bool, port int) string {
	a := p.addr4
	if six {
		a = p.addr6
	}
	if port == 0 {
		return a.String()
	}
	return netip.AddrPortFrom(a, uint16(port)).String()
}

var ports = []int{53, 80, 443, 700, 8080}

// start starts the process and lets it listen.
func (p *place) start(t testing.TB) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "WEFT_NFT_PLACE="+p.name)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	fail(t, err)
	stdout, err := cmd.StdoutPipe()
	fail(t, err)
	if p.cgroup != "" {
		dir, err := os.Open(p.cgroup)
		fail(t, err)
		defer dir.Close()
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	fail(t, netns.Do(p.netns, cmd.Start))
	p.pid = cmd.Process.Pid
	p.in, p.waiting = json.NewEncoder(stdin), map[int]chan string{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d := json.NewDecoder(stdout)
		for {
			var a answer
			if d.Decode(&a) != nil {
				return
			}
			p.mu.Lock()
			p.waiting[a.ID] <- a.Result
			delete(p.waiting, a.ID)
			p.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		stdin.Close()
		<-done
		cmd.Wait()
	})
}

func (p *place) listen(t testing.TB, offset int) {
	t.Helper()
	for _, protocol := range []string{"tcp", "udp"} {
		for _, port := range ports {
			for _, six := range []bool{false, true} {
				if r := p.do("listen", protocol, p.addr(six, port+offset), 0); r != "ok" {
					t.Fatalf("%s: listen %s %d: %s", p.name, protocol, port+offset, r)
				}
			}
		}
	}
}

func fail(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

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
