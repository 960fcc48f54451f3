// Package connection is what a machine's connection table says, for all who read
// it: policy, flows, taps.
package connection

import (
	"net/netip"
	"time"

	"weft/model"
	"weft/packet"
	"weft/policy"
)

// Line is one line of the connection table, seen from the subject: the
// workload on this machine whose end it is. A connection between two workloads
// here has two lines.
type Line struct {
	Key
	Workload     string // id on this machine; empty where it is gone
	Identity     policy.Identity
	PeerIdentity policy.Identity
	PeerBy       PeerBy
	// PeerEntities are those of policy.Special.
	PeerEntities policy.EntitySet
	Names        []string         // that the subject has looked the peer's address up by
	Direction    policy.Direction // of its first packet
	Action       model.Action     // what the policy of Revision says
	Rule         policy.RuleID    // 0: the default
	Port         uint16           // what rules' ports are matched against: destination port, or ICMP type<<8|code
	Revision     uint32           // of the state it was last judged by
	Process      Process
	First, Last  time.Time // of its packets
	// Began is when the first packet was, by a clock that nobody sets: it is the same
	// in every reading, also by another process, and 0 where it is not known.
	Began uint64
	// Sent and Received are the subject's.
	Sent, Received Count
	TCPState       packet.TCPState
	// SentFlags and ReceivedFlags are all that were seen of TCP's.
	SentFlags, ReceivedFlags packet.TCPFlags
	RTT                      time.Duration // smoothed, 0 where not known
	Retransmits              uint32
	// Drops are packets that the kernel has thrown away, sent or received, and
	// DropReason is why it did the last of them.
	Drops      uint64
	DropReason string
	// Translated is where this machine sends what was meant for Remote; the zero
	// value where it rewrites nothing.
	Translated netip.AddrPort
	// Ended is set where nothing more is expected: the line leaves the table with
	// the next reading of it.
	Ended bool
	// Refused is set for a line of those turned down lately, which are a table of
	// their own: the connection table may have a line of the same key.
	Refused bool
}

// Key names a connection on this machine.
type Key struct {
	Local, Remote netip.AddrPort // for ICMP the port is the echo identifier
	Protocol      uint8
	NetNS         uint64 // cookie of the network namespace
}

// Count is packets and their bytes, network header included.
type Count struct{ Packets, Bytes uint64 }

// Process is what was known of the subject's process at the time of its socket.
type Process struct {
	PID  uint32
	UID  uint32
	Exe  string // path as the process sees it; empty where it is not known
	Comm string
}

// PeerBy says what told the peer's identity.
type PeerBy uint8

// The ways, the surest last.
const (
	ByAddress PeerBy = iota // the address is a workload's, or the world's
	BySocket                // the peer's own socket, on this machine
	ByOption                // the connection carried it, sealed by the peer's machine
	ByPort                  // it came in by the port of a guest of this machine
)

func (b PeerBy) String() string {
	return [...]string{"address", "socket", "option", "port"}[b]
}
