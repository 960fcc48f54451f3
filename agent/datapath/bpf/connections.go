package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"weft/agent/connection"
	"weft/model"
	"weft/packet"
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

// Connections visits the table, then lines whose ports are another connection's by
// now, then those turned down. A line that has ended is visited as such until it is
// taken out by Forget.
func (d *Driver) Connections(visit func(*connection.Line) bool) error {
	d.visiting.Lock()
	defer d.visiting.Unlock()
	now, err := bootTime()
	if err != nil {
		return err
	}
	came, err := d.cameIn()
	if err != nil {
		return err
	}
	anew := now-d.through >= throughAfter
	if err := d.drops.read(came.Drops, anew); err != nil {
		return err
	}
	d.visited.NowNs, d.past, d.pastSum, d.tried = 0, d.past[:0], tally{}, d.tried[:0]
	// A line that makes way while the table is read is seen in either, or in both:
	// the second time nothing is new of it.
	d.live = tally{}
	done, err := d.visitLines(now, came.Conns, anew, visit)
	if err == nil && !done {
		done, err = d.visitPast(came.Past, anew, visit)
	}
	if err != nil || done {
		d.live = nil
		return err
	}
	if d.through == now { // else a line that has just begun may not have been met
		if err := d.drops.forget(); err != nil {
			return err
		}
	}
	return d.visitRefused(now, came.Denied, anew, visit)
}

// describe fills a connection from its line.
func (d *Driver) describe(k *policyConnKey, c *policyConn, out *connection.Line) {
	d.mu.Lock()
	workload := d.workloads[c.Slot]
	if own, ok := d.byCgroup[c.Cgroup]; ok {
		workload = own // which was not known yet when the line was made
	}
	exe, known := d.paths[c.Process.Exe]
	if !known && c.Process.Exe != 0 {
		d.readPaths() // one that programs have met since
		exe = d.paths[c.Process.Exe]
	}
	comm := d.comm(c.Process.Comm)
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
		Process: connection.Process{PID: c.Process.Pid, UID: c.Process.Uid, Exe: exe, Comm: comm},
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
		out.SentFlags, out.ReceivedFlags = packet.TCPFlags(c.TcpFlags), packet.TCPFlags(c.TcpFlags>>8)
	}
	d.drops.join(k, c, out)
	if c.TranslatedPort != 0 {
		// What the socket asked for is in the key; this is where it went.
		out.Translated = netip.AddrPortFrom(readAddress(k.Family, c.Translated), port(c.TranslatedPort))
	}
}

func tcpState(flags uint32) packet.TCPState {
	switch {
	case flags&(connClosed|connReset) != 0 || flags&connFinSent != 0 && flags&connFinReceived != 0:
		return packet.TCPClosed
	case flags&(connFinSent|connFinReceived) != 0:
		return packet.TCPClosing
	case flags&connEstablished != 0:
		return packet.TCPEstablished
	case flags&connAnswered != 0:
		return packet.TCPSynReceived
	}
	return packet.TCPSynSent
}

func action(n uint8) model.Action {
	if int(n) < len(actions) {
		return actions[n]
	}
	return model.ActionDeny
}

// maxComms bounds the names of threads that are kept.
const maxComms = 4096

// comm is a thread's name. The same ones come again and again: each is made once.
// The lock is held.
func (d *Driver) comm(raw [16]int8) string {
	name, known := d.comms[raw]
	if !known {
		out := make([]byte, 0, len(raw))
		for _, b := range raw {
			if b == 0 {
				break
			}
			out = append(out, byte(b))
		}
		name = string(out)
		if len(d.comms) >= maxComms {
			clear(d.comms)
		}
		d.comms[raw] = name
	}
	return name
}

// port reads one that is kept in network order.
func port(raw uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], raw)
	return binary.BigEndian.Uint16(b[:])
}
