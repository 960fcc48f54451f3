package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	mdnetlink "github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"weft/agent/connection"
	"weft/agent/datapath"
	"weft/model"
	"weft/packet"
	"weft/policy"
)

// Connections reads the kernel's connection tracking and what was turned down in
// the last minute. The kernel counts a connection's packets only where
// net.netfilter.nf_conntrack_acct is set; round trip times, retransmissions and
// processes are not known to it.
func (d *Driver) Connections(visit func(*connection.Line) bool) error {
	d.mu.Lock()
	state, revision := d.state, d.revision
	var all []listing
	var errs []error
	for _, n := range d.sorted() {
		if n.loaded == nil {
			continue
		}
		l, err := n.list()
		if err != nil {
			errs = append(errs, fmt.Errorf("list connections of network namespace %s: %w", n.path, err))
			continue
		}
		l.machine = n == d.own
		all = append(all, l)
	}
	d.mu.Unlock()
	if len(all) == 0 {
		return errors.Join(errs...)
	}
	addresses, seen, now := newAddresses(state.Addresses), map[connection.Key]time.Time{}, time.Now()
	defer d.saw(seen)
	for i := range all {
		l, addresses := &all[i], addresses
		if l.base != nil {
			addresses = addresses.withLoopback(l.base.subject, l.machine)
		}
		for _, f := range l.flows {
			for _, role := range roles {
				c, ok := l.connection(f, role, addresses, revision)
				if !ok {
					continue
				}
				if c.First.IsZero() {
					c.First = d.firstSeen(c.Key, now)
					seen[c.Key] = c.First
				}
				if c.Last.IsZero() {
					c.Last = now
				}
				if !visit(c) {
					return nil
				}
			}
		}
	}
	return errors.Join(errs...)
}

// firstSeen is when a connection was first listed: the kernel notes when it began
// only where net.netfilter.nf_conntrack_timestamp is set.
func (d *Driver) firstSeen(k connection.Key, now time.Time) time.Time {
	d.seenMu.Lock()
	defer d.seenMu.Unlock()
	if t, ok := d.seen[k]; ok {
		return t
	}
	return now
}

// saw keeps what a listing has shown.
func (d *Driver) saw(now map[connection.Key]time.Time) {
	d.seenMu.Lock()
	defer d.seenMu.Unlock()
	d.seen = now
}

// listing is what was found in one namespace.
type listing struct {
	cookie  uint64
	members []member
	base    *member
	machine bool // its own namespace
	epoch   uint32
	local   map[netip.Addr]bool
	flows   []flow
}

// flow is a tracked connection, or one that was turned down.
type flow struct {
	protocol       uint8
	source, target netip.Addr // target as the receiver's socket knows it
	sport, dport   uint16     // dport: type<<8|code for ICMP, whose sport is its identifier
	translated     netip.AddrPort
	label          []byte
	sent, received connection.Count
	state          uint8
	first, last    time.Time
	denied         bool
	role           policy.Direction // of who turned it down
}

// list reads everything while the driver is held.
func (n *namespace) list() (listing, error) {
	l := listing{members: slices.Clone(n.members), base: n.base, epoch: n.epoch, local: map[netip.Addr]bool{}}
	h, err := netlink.NewHandleAt(netns.NsHandle(n.file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return l, err
	}
	defer h.Close()
	addrs, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return l, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			l.local[ip.Unmap()] = true
		}
	}
	if l.cookie, err = n.cookie(); err != nil {
		return l, err
	}
	ct, err := conntrack.Dial(&mdnetlink.Config{NetNS: int(n.file.Fd())})
	if err != nil {
		return l, err
	}
	defer ct.Close()
	flows, err := ct.Dump(nil)
	if err != nil {
		return l, err
	}
	for i := range flows {
		l.flows = append(l.flows, flowOf(&flows[i]))
	}
	denied, err := n.denied()
	l.flows = append(l.flows, denied...)
	return l, err
}

func flowOf(f *conntrack.Flow) flow {
	o, r := &f.TupleOrig, &f.TupleReply
	out := flow{protocol: o.Proto.Protocol, source: o.IP.SourceAddress.Unmap(), target: r.IP.SourceAddress.Unmap(), sport: o.Proto.SourcePort, dport: r.Proto.SourcePort,
		label: f.Labels, first: f.Timestamp.Start,
		sent:     connection.Count{Packets: f.CountersOrig.Packets, Bytes: f.CountersOrig.Bytes},
		received: connection.Count{Packets: f.CountersReply.Packets, Bytes: f.CountersReply.Bytes}}
	if model.IsICMP(out.protocol) {
		out.sport, out.dport = o.Proto.ICMPID, uint16(o.Proto.ICMPType)<<8|uint16(o.Proto.ICMPCode)
	} else if before := netip.AddrPortFrom(o.IP.DestinationAddress.Unmap(), o.Proto.DestinationPort); before != netip.AddrPortFrom(out.target, out.dport) {
		out.translated = before
	}
	if f.ProtoInfo.TCP != nil {
		out.state = f.ProtoInfo.TCP.State
	}
	return out
}

// denied reads the sets of what was turned down.
func (n *namespace) denied() ([]flow, error) {
	c, err := n.dial()
	if err != nil {
		return nil, err
	}
	defer c.CloseLasting()
	var out []flow
	now := time.Now()
	for _, role := range roles {
		list, err := c.GetSetElements(setNamed(deniedSet(role)))
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			return out, err
		}
		for _, e := range list {
			if len(e.Key) != 64 {
				continue
			}
			f := flow{denied: true, role: role, protocol: e.Key[4], source: keyAddr(e.Key[0], e.Key[8:]), target: keyAddr(e.Key[0], e.Key[24:]),
				sport: binary.BigEndian.Uint16(e.Key[40:]), dport: binary.BigEndian.Uint16(e.Key[44:]), label: e.Key[48:64]}
			f.last = now
			if e.Expires > 0 && e.Expires < rememberFor {
				f.last = now.Add(e.Expires - rememberFor)
			}
			f.first = f.last
			out = append(out, f)
		}
	}
	return out, nil
}

func keyAddr(family uint8, b []byte) netip.Addr {
	if family == family4 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16([16]byte(b[:16]))
}

// subject returns whose end of the flow has the role, or nil.
func (l *listing) subject(f flow, role policy.Direction) *datapath.Subject {
	at, addr := 0, f.source
	if role == policy.Ingress {
		at, addr = 8, f.target
	}
	if !l.local[addr] && !addr.IsLoopback() && !addr.IsMulticast() {
		return nil
	}
	if len(f.label) >= at+8 && binary.BigEndian.Uint32(f.label[at+4:]) == l.epoch {
		id := binary.NativeEndian.Uint32(f.label[at:])
		for i := range l.members {
			if uint32(l.members[i].cgroup) == id {
				return l.members[i].subject
			}
		}
	}
	if l.base != nil {
		return l.base.subject
	}
	return nil
}

// connection tells a flow as the subject at the end of that role sees it.
func (l *listing) connection(f flow, role policy.Direction, addresses *addresses, revision uint32) (*connection.Line, bool) {
	if f.denied && f.role != role {
		return nil, false
	}
	s := l.subject(f, role)
	if s == nil {
		return nil, false
	}
	peer := policy.End{Addr: f.target}
	if role == policy.Ingress {
		peer.Addr = f.source
	}
	if x, ok := addresses.lpm.Lookup(peer.Addr); ok {
		peer.Identity, peer.Entities = x.Identity, x.Entities
	}
	if slices.Contains(s.Addresses, peer.Addr) {
		peer.Entities |= selfBit
	}
	v := s.Ruleset.Table(role).Judge(&policy.End{Identity: s.Identity}, &peer, f.protocol, f.dport)
	if f.denied && v.Action == model.ActionAllow {
		return nil, false // allowed since
	}
	o := outcomeOf(role, v)
	source, target := netip.AddrPortFrom(f.source, f.sport), netip.AddrPortFrom(f.target, f.dport)
	if model.IsICMP(f.protocol) {
		target = netip.AddrPortFrom(f.target, f.sport)
	}
	c := &connection.Line{Key: connection.Key{Local: source, Remote: target, Protocol: f.protocol, NetNS: l.cookie},
		Workload: s.Workload, Identity: s.Identity, PeerIdentity: peer.Identity, PeerBy: connection.ByAddress, PeerEntities: peer.Entities & policy.Special,
		Direction: role, Action: v.Action, Rule: o.Rule, Port: f.dport, Revision: revision, First: f.first, Last: f.last,
		Sent: f.sent, Received: f.received, TCPState: tcpState(f.state), Translated: f.translated}
	if role == policy.Ingress {
		c.Local, c.Remote = target, source
		c.Sent, c.Received = f.received, f.sent
	}
	return c, true
}

// tcpState turns the kernel's enum tcp_conntrack into ours.
func tcpState(s uint8) packet.TCPState {
	switch s {
	case 1, 9:
		return packet.TCPSynSent
	case 2:
		return packet.TCPSynReceived
	case 3:
		return packet.TCPEstablished
	case 4, 5, 6, 7:
		return packet.TCPClosing
	case 8:
		return packet.TCPClosed
	}
	return packet.TCPNone
}
