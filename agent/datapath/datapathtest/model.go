package datapathtest

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"weft/agent/connection"
	"weft/agent/datapath/fake"
	"weft/model"
	"weft/policy"
)

// RunFake tries the fake driver: the same cases, with packets that are only
// thought of.
func RunFake(t *testing.T, k *fake.Kernel, open Factory) {
	s := &Site{T: t, Root: "/machine", Machine: "machine", Dir: "/bin"}
	s.populate("outside", "c1", "c2", "/outside")
	s.caller = &thought{site: s, kernel: k, held: map[int]*thoughtConn{}}
	run(t, s, Options{SeesSockets: true, Processes: true, Rejects: true, Accounts: true}, open)
}

// thought makes attempts by offering packets to a fake kernel.
type thought struct {
	site   *Site
	kernel *fake.Kernel
	ports  atomic.Uint32

	mu   sync.Mutex
	held map[int]*thoughtConn
	last int
}

type thoughtConn struct {
	a      Attempt
	source uint16
}

func (c *thought) Dial(a Attempt) (Outcome, int, error) {
	conn := &thoughtConn{a: a, source: uint16(10_000 + c.ports.Add(1)%50_000)}
	if got := c.talk(conn, true); got != Allowed {
		return got, 0, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	c.held[c.last] = conn
	return Allowed, c.last, nil
}

func (c *thought) Talk(_ *Endpoint, held int) (Outcome, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.talk(c.held[held], false), nil
}

func (c *thought) Close(*Endpoint, int) {}

func (c *thought) Lookup(from, resolver *Endpoint) (Outcome, error) {
	return "", errors.New("there is no resolver to think of")
}

func (c *thought) Another(*Endpoint) {}

// talk sends a packet there and one back.
func (c *thought) talk(conn *thoughtConn, begins bool) Outcome {
	a := conn.a
	from, to := netip.AddrPortFrom(seenBy(a.From, a.To, a.IPv6), conn.source), a.target()
	if a.Loopback {
		from = netip.AddrPortFrom(to.Addr(), conn.source)
	}
	protocol := uint8(6)
	if a.Network == "udp" {
		protocol = 17
	}
	for _, back := range []bool{false, true} {
		sender, receiver := c.offer(a.From, a.To, a, from, to), c.offer(a.To, a.From, a, to, from)
		sender.Direction, receiver.Direction = policy.Egress, policy.Ingress
		if back {
			sender, receiver = receiver, sender
			sender.Direction, receiver.Direction = policy.Egress, policy.Ingress
		}
		for _, o := range []fake.Offer{sender, receiver} {
			o.Protocol, o.Port, o.Bytes = protocol, a.Port, 60
			o.Begins = begins && !back || protocol == 17
			if back && o.Begins {
				o.Port = conn.source // judged by itself, where nothing is tracked
			}
			if o.Workload == "" {
				continue
			}
			switch c.kernel.Send(o) {
			case model.ActionDeny:
				return Denied
			case model.ActionReject:
				return Rejected
			}
		}
	}
	return Allowed
}

// offer is what one end makes of the other.
func (c *thought) offer(e, peer *Endpoint, a Attempt, local, remote netip.AddrPort) fake.Offer {
	o := fake.Offer{Key: connection.Key{Local: local, Remote: remote}, Process: connection.Process{Exe: e.Exe}}
	if e.Kind != "" {
		o.Workload = e.Name
	}
	w := c.site.world
	here := e.NetNS == peer.NetNS
	o.Peer = w.end(peer, remote.Addr(), here)
	if here {
		o.By = connection.BySocket
		if e.Name == peer.Name {
			o.Peer.Entities |= policy.EntityBit(model.EntitySelf)
		}
		if a.Loopback && e.Kind != model.WorkloadContainer {
			o.Peer.Entities |= policy.EntityBit(model.EntityHost)
		}
	}
	return o
}
