package bpf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"weft/agent/connection"
	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
)

// The flags of struct conn.
const (
	connAnswered    = 2
	connFinSent     = 4
	connFinReceived = 8
	connReset       = 16
	connEstablished = 32
	connClosed      = 64
)

// How long a line stays after its last packet. The kernel's own connection
// tracking has the same ones for UDP and the like; a TCP connection stays until
// its socket is gone, or for a day of silence.
const (
	keepEnded      = 10 * time.Second
	keepOpening    = 2 * time.Minute
	keepTCP        = 24 * time.Hour
	keepUnanswered = 30 * time.Second
	keepAnswered   = 3 * time.Minute
)

// ended says whether a line has had its time.
func ended(k *policyConnKey, c *policyConn, idle time.Duration) bool {
	if k.Protocol == unix.IPPROTO_TCP {
		both := uint32(connFinSent | connFinReceived)
		switch {
		case c.Flags&(connClosed|connReset) != 0 || c.Flags&both == both:
			return idle > keepEnded
		case c.Flags&connEstablished == 0:
			return idle > keepOpening
		}
		return idle > keepTCP
	}
	if c.Flags&connAnswered == 0 {
		return idle > keepUnanswered
	}
	return idle > keepAnswered
}

// clock turns the kernel's CLOCK_BOOTTIME into wall-clock time. It is read once,
// so that two readings of one line give one time, whoever sets the wall clock.
type clock struct {
	boot time.Duration
	wall time.Time
}

func readClock() (clock, error) {
	boot, err := bootTime()
	return clock{boot: boot, wall: time.Now()}, err
}

func bootTime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

func (c clock) at(boot uint64) time.Time { return c.wall.Add(time.Duration(boot) - c.boot) }

// Connections visits the table, then those turned down. A line that has ended is
// visited as such, and taken out at the beginning of the next visit: whoever
// keeps what it said can have done so by then.
func (d *Driver) Connections(visit func(*connection.Line) bool) error {
	d.visiting.Lock()
	defer d.visiting.Unlock()
	now, err := bootTime()
	if err != nil {
		return err
	}
	for i, m := range []*ebpf.Map{d.objects.Conns, d.objects.Denied} {
		if err := d.forget(m, d.ending[i], now); err != nil {
			return err
		}
		d.ending[i] = d.ending[i][:0]
		if done, err := d.visitMap(m, now, i == 1, &d.ending[i], visit); err != nil || done {
			return err
		}
	}
	return nil
}

// forget takes lines out that have ended, unless one has begun anew or goes on.
func (d *Driver) forget(m *ebpf.Map, keys []policyConnKey, now time.Duration) error {
	for i := range keys {
		k := &keys[i]
		var c policyConn
		if err := m.Lookup(k, &c); err != nil || !ended(k, &c, now-time.Duration(c.LastNs)) {
			continue
		}
		if err := m.LookupAndDelete(k, &c); err != nil {
			continue
		}
		if err := d.retire(&c); err != nil {
			return err
		}
	}
	return nil
}

func (d *Driver) visitMap(m *ebpf.Map, now time.Duration, refused bool, ending *[]policyConnKey, visit func(*connection.Line) bool) (done bool, err error) {
	var cursor ebpf.MapBatchCursor
	keys, values := make([]policyConnKey, 4096), make([]policyConn, 4096)
	var out connection.Line
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		end := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !end {
			return false, fmt.Errorf("read the connection table: %w", err)
		}
		for i := range n {
			k, c := &keys[i], &values[i]
			d.describe(k, c, &out)
			out.Refused = refused
			if out.Ended = ended(k, c, now-time.Duration(c.LastNs)); out.Ended {
				*ending = append(*ending, *k)
			}
			if !visit(&out) {
				return true, nil
			}
		}
		if end {
			return false, nil
		}
	}
}

// describe fills a connection from its line.
func (d *Driver) describe(k *policyConnKey, c *policyConn, out *connection.Line) {
	d.mu.Lock()
	workload := d.workloads[c.Slot]
	exe, known := d.paths[c.Process.Exe]
	if !known && c.Process.Exe != 0 {
		d.readPaths() // one that programs have met since
		exe = d.paths[c.Process.Exe]
	}
	d.mu.Unlock()
	*out = connection.Line{
		Key: connection.Key{
			Local:    netip.AddrPortFrom(readAddress(k.Family, k.Local), port(k.LocalPort)),
			Remote:   netip.AddrPortFrom(readAddress(k.Family, k.Remote), port(k.RemotePort)),
			Protocol: k.Protocol, NetNS: k.Netns,
		},
		Workload: workload, Identity: policy.Identity(c.Identity), PeerIdentity: policy.Identity(c.PeerIdentity), PeerBy: connection.PeerBy(c.PeerBy),
		PeerEntities: policy.EntitySet(c.PeerEntities << entityShift), Direction: policy.Direction(c.Direction), Action: action(c.Action),
		Rule: policy.RuleID(c.Rule), Revision: c.Revision, Port: port(c.PolicyPort),
		Process: connection.Process{PID: c.Process.Pid, UID: c.Process.Uid, Exe: exe, Comm: text(c.Process.Comm[:])},
		First:   d.clock.at(c.FirstNs), Last: d.clock.at(c.LastNs), Began: c.FirstNs,
		Sent:     connection.Count{Packets: c.SentPackets, Bytes: c.SentBytes},
		Received: connection.Count{Packets: c.ReceivedPackets, Bytes: c.ReceivedBytes},
		RTT:      time.Duration(c.RttUs) * time.Microsecond, Retransmits: c.Retransmits,
	}
	if out.Direction == policy.Egress {
		out.Names = d.namesOf(workload, out.Remote.Addr())
	}
	if k.Protocol == unix.IPPROTO_TCP {
		out.TCPState = tcpState(c.Flags)
	}
	if c.TranslatedPort != 0 {
		// What the socket asked for is in the key; this is where it went.
		out.Translated = netip.AddrPortFrom(readAddress(k.Family, c.Translated), port(c.TranslatedPort))
	}
}

func tcpState(flags uint32) connection.TCPState {
	switch {
	case flags&(connClosed|connReset) != 0 || flags&connFinSent != 0 && flags&connFinReceived != 0:
		return connection.TCPClosed
	case flags&(connFinSent|connFinReceived) != 0:
		return connection.TCPClosing
	case flags&connEstablished != 0:
		return connection.TCPEstablished
	case flags&connAnswered != 0:
		return connection.TCPSynReceived
	}
	return connection.TCPSynSent
}

func action(n uint8) model.Action {
	if int(n) < len(actions) {
		return actions[n]
	}
	return model.ActionDeny
}

func text(raw []int8) string {
	var out []byte
	for _, b := range raw {
		if b == 0 {
			break
		}
		out = append(out, byte(b))
	}
	return string(out)
}

// retire keeps the figures of an allowed connection that leaves the table; those
// of one turned down were counted packet by packet.
func (d *Driver) retire(c *policyConn) error {
	if action(c.Action) != model.ActionAllow {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var sum policyCounts
	if err := d.objects.Retired.Lookup(c.Rule, &sum); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("read the counts of a rule: %w", err)
	}
	sum.Packets += c.SentPackets + c.ReceivedPackets
	sum.Bytes += c.SentBytes + c.ReceivedBytes
	if err := d.objects.Retired.Put(c.Rule, sum); err != nil {
		return fmt.Errorf("keep the counts of a rule: %w", err)
	}
	return nil
}

// Counts returns what each rule has done: what programs have counted, what has
// left the table and what is in it.
func (d *Driver) Counts() ([]datapath.RuleCount, error) {
	sums := map[uint64]*datapath.RuleCount{}
	of := func(rule uint64) *datapath.RuleCount {
		if sums[rule] == nil {
			sums[rule] = &datapath.RuleCount{Rule: policy.RuleID(rule)}
		}
		return sums[rule]
	}
	var rule uint64
	var perCPU []policyCounts
	it := d.objects.Counts.Iterate()
	for it.Next(&rule, &perCPU) {
		c := of(rule)
		for _, x := range perCPU {
			c.Connections += x.Connections
			c.Packets += x.Packets
			c.Bytes += x.Bytes
		}
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read the counts of rules: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock() // no line is retired meanwhile, and so counted twice
	var sum policyCounts
	it = d.objects.Retired.Iterate()
	for it.Next(&rule, &sum) {
		c := of(rule)
		c.Packets += sum.Packets
		c.Bytes += sum.Bytes
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read the counts of rules: %w", err)
	}
	if err := d.countLive(of); err != nil {
		return nil, err
	}
	out := make([]datapath.RuleCount, 0, len(sums))
	for _, c := range sums {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b datapath.RuleCount) int { return cmp.Compare(a.Rule, b.Rule) })
	return out, nil
}

func (d *Driver) countLive(of func(uint64) *datapath.RuleCount) error {
	var cursor ebpf.MapBatchCursor
	keys, values := make([]policyConnKey, 4096), make([]policyConn, 4096)
	for {
		n, err := d.objects.Conns.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read the connection table: %w", err)
		}
		for i := range n {
			if v := &values[i]; action(v.Action) == model.ActionAllow {
				c := of(v.Rule)
				c.Packets += v.SentPackets + v.ReceivedPackets
				c.Bytes += v.SentBytes + v.ReceivedBytes
			}
		}
		if err != nil {
			return nil
		}
	}
}

// port reads one that is kept in network order.
func port(raw uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], raw)
	return binary.BigEndian.Uint16(b[:])
}
