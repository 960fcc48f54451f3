package nft

import (
	"errors"
	"fmt"
	"net/netip"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"weft/agent/connection"
	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
)

// How long an adopted connection is kept without a packet, in seconds: the
// kernel's own times for established TCP and for UDP streams.
const (
	adoptTCP = 432_000
	adoptUDP = 120
)

// Established in enum tcp_conntrack, and IP_CT_TCP_FLAG_BE_LIBERAL: the kernel has
// not seen the window of a connection that it did not see begin.
const (
	tcpEstablished = 3
	tcpLiberal     = 0x08
)

// Adopt tells the kernel's connection tracking of connections that began before
// it looked, so that it knows which end called.
func (d *Driver) Adopt(s *datapath.State, list []connection.Line) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.open(); err != nil {
		return err
	}
	if _, err := d.group(s.Subjects); err != nil {
		return err
	}
	byCookie := map[uint64][]*connection.Line{}
	for i := range list {
		if c := &list[i]; c.Action == model.ActionAllow && c.Local.IsValid() && c.Remote.IsValid() {
			byCookie[c.NetNS] = append(byCookie[c.NetNS], c)
		}
	}
	var errs []error
	for _, n := range d.sorted() {
		if err := n.adopt(byCookie); err != nil {
			errs = append(errs, fmt.Errorf("take over connections of network namespace %s: %w", n.path, err))
		}
	}
	return errors.Join(errs...)
}

func (n *namespace) adopt(byCookie map[uint64][]*connection.Line) error {
	cookie, err := n.cookie()
	if err != nil || len(byCookie[cookie]) == 0 {
		return err
	}
	ct, err := conntrack.Dial(&mdnetlink.Config{NetNS: int(n.file.Fd())})
	if err != nil {
		return err
	}
	defer ct.Close()
	for _, c := range byCookie[cookie] {
		if err := ct.Create(adoptedFlow(c)); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

// adoptedFlow is a connection as connection tracking has it: from who called to
// who was called, and back.
func adoptedFlow(c *connection.Line) conntrack.Flow {
	from, to := c.Local, c.Remote
	if c.Direction == policy.Ingress {
		from, to = to, from
	}
	back := to
	if c.Direction == policy.Egress && c.Translated.IsValid() {
		back = c.Translated
	}
	tuple := func(a, b netip.AddrPort) conntrack.Tuple {
		return conntrack.Tuple{IP: conntrack.IPTuple{SourceAddress: a.Addr(), DestinationAddress: b.Addr()},
			Proto: conntrack.ProtoTuple{Protocol: c.Protocol, SourcePort: a.Port(), DestinationPort: b.Port()}}
	}
	f := conntrack.Flow{TupleOrig: tuple(from, to), TupleReply: tuple(back, from), Timeout: adoptUDP,
		Status: conntrack.Status{Value: conntrack.StatusConfirmed | conntrack.StatusSeenReply | conntrack.StatusAssured}}
	if c.Protocol == unix.IPPROTO_TCP {
		f.Timeout = adoptTCP
		f.ProtoInfo.TCP = &conntrack.ProtoInfoTCP{State: tcpEstablished, OriginalFlags: tcpLiberal<<8 | tcpLiberal, ReplyFlags: tcpLiberal<<8 | tcpLiberal}
	}
	return f
}

// cookie is the number of the namespace that other drivers know it by.
func (n *namespace) cookie() (uint64, error) {
	conn, err := mdnetlink.Dial(unix.NETLINK_NETFILTER, &mdnetlink.Config{NetNS: int(n.file.Fd())})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cookie uint64
	var inner error
	if err := raw.Control(func(fd uintptr) {
		cookie, inner = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	}); err != nil {
		return 0, err
	}
	return cookie, inner
}
