// Package flowwire is how what connections have done travels from an agent to
// the controller: records in columns, with lists of what they have in common.
package flowwire

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weft/model"
	"weft/packet"
	"weft/policy"
	"weft/wire/wirepb"
)

// MaxRecords is how many a batch can hold.
const MaxRecords = 16_384

// Record is what one end of a connection has done since the record before.
type Record struct {
	// Workload is the id on its host, whose end it is; empty where whoever reports
	// has seen packets and is neither end.
	Workload string
	Process  Process
	// Name is one that the workload had looked the peer's address up by.
	Name          string
	Local, Remote netip.AddrPort // for ICMP the port is the echo identifier
	// Translated is where the host sends what is meant for Remote; the zero value
	// where it rewrites nothing.
	Translated netip.AddrPort
	Protocol   uint8
	NetNS      uint64 // cookie of the network namespace on its host
	// Began is when the connection did, by a clock of the host that nobody sets; 0
	// where it is not known.
	Began   uint64
	Refused bool // of those turned down, which the host counts apart
	// Observed is set where the host has seen packets of others, as in a mirror: what
	// is known of an end is its address, and they may report the connection too.
	Observed bool
	Egress   bool // the workload began the connection
	New      bool // the first record of it
	Ended    bool // the last
	Action   model.Action
	Rule     policy.RuleID   // that decided; 0: the default
	Peer     policy.Identity // 0: not known
	// First and Last are when its packets were, to the millisecond, by the host's
	// clock.
	First, Last    time.Time
	Sent, Received Count
	RTT            time.Duration // smoothed, to the microsecond; 0: not known
	Retransmits    uint32
	TCPState       packet.TCPState
	// SentFlags and ReceivedFlags are TCP's, of all packets so far.
	SentFlags, ReceivedFlags packet.TCPFlags
	// Drops are packets that the host's kernel has thrown away; DropReason is why the
	// last of them, by the kernel's name for it.
	Drops       uint32
	DropReason  string
	Application Application
	Latency     time.Duration // from its first request to the answer, to the microsecond; 0: not known
}

// Application is what the first bytes of a connection show of its use. What is
// empty is not known.
type Application struct {
	Protocol string // tls, http, postgresql, …
	Host     string // the name that the client calls the server by
	ALPN     string
	Method   string // of HTTP: the first request, and its answer
	Path     string // a template, without identifiers
	Status   uint16
	Software string // that the server calls itself
}

// Count is packets and their bytes, network header included.
type Count struct{ Packets, Bytes uint64 }

// Process is who is at the connection's end.
type Process struct {
	PID  uint32
	Exe  string // path as it sees it itself
	User string
	Comm string
}

const (
	flagEgress = 1 << iota
	flagNew
	flagEnded
	flagRefused
	flagObserved
)

var actions = []model.Action{model.ActionAllow, model.ActionDeny, model.ActionReject}

// Encode writes records as a batch without its number; when is the time that
// theirs are counted from.
func Encode(when time.Time, records []Record) (*wirepb.FlowBatch, error) {
	packed, err := pack(columns(when, records))
	if err != nil {
		return nil, err
	}
	return &wirepb.FlowBatch{UnixNanos: when.UnixNano(), Records: uint32(len(records)), Columns: packed}, nil
}

// Decode reads the records of a batch. An error names the column that is wrong.
func Decode(b *wirepb.FlowBatch) ([]Record, error) {
	c, err := unpack(b.GetColumns())
	if err != nil {
		return nil, err
	}
	if len(c.Workload) != int(b.GetRecords()) {
		return nil, fmt.Errorf("records: %d are announced, and %d are there", b.GetRecords(), len(c.Workload))
	}
	return read(time.Unix(0, b.GetUnixNanos()), c)
}

func columns(when time.Time, records []Record) *wirepb.FlowColumns {
	b := &wirepb.FlowColumns{Local: make([]byte, 0, 16*len(records)), Remote: make([]byte, 0, 16*len(records))}
	workloads, names, reasons := list[string]{}, list[string]{}, list[string]{}
	flagged, dropped := false, false
	processes, translations, applications := list[Process]{}, list[netip.AddrPort]{}, list[Application]{}
	for i := range records {
		r := &records[i]
		local, remote := r.Local.Addr().As16(), r.Remote.Addr().As16()
		b.Local, b.Remote = append(b.Local, local[:]...), append(b.Remote, remote[:]...)
		b.LocalPort, b.RemotePort = append(b.LocalPort, uint32(r.Local.Port())), append(b.RemotePort, uint32(r.Remote.Port()))
		b.Protocol = append(b.Protocol, uint32(r.Protocol))
		b.Workload, b.Process = append(b.Workload, workloads.place(r.Workload)), append(b.Process, processes.place(r.Process))
		b.Name, b.Translation = append(b.Name, names.place(r.Name)), append(b.Translation, translations.place(r.Translated))
		b.Flags = append(b.Flags, flags(r))
		b.Action = append(b.Action, uint32(slices.Index(actions, r.Action)+1))
		b.Rule, b.Peer = append(b.Rule, uint64(r.Rule)), append(b.Peer, uint32(r.Peer))
		b.First, b.Last = append(b.First, when.Sub(r.First).Milliseconds()), append(b.Last, when.Sub(r.Last).Milliseconds())
		b.SentPackets, b.SentBytes = append(b.SentPackets, r.Sent.Packets), append(b.SentBytes, r.Sent.Bytes)
		b.ReceivedPackets, b.ReceivedBytes = append(b.ReceivedPackets, r.Received.Packets), append(b.ReceivedBytes, r.Received.Bytes)
		b.RttMicros = append(b.RttMicros, micros(r.RTT))
		b.Retransmits, b.Netns = append(b.Retransmits, r.Retransmits), append(b.Netns, r.NetNS)
		b.Began, b.Application = append(b.Began, r.Began), append(b.Application, applications.place(r.Application))
		b.LatencyMicros = append(b.LatencyMicros, micros(r.Latency))
		b.Tcp, b.Drops, b.DropReason = append(b.Tcp, tcp(r)), append(b.Drops, r.Drops), append(b.DropReason, reasons.place(r.DropReason))
		flagged, dropped = flagged || b.Tcp[i] != 0, dropped || r.Drops != 0 || r.DropReason != ""
	}
	if !flagged {
		b.Tcp = nil
	}
	if !dropped {
		b.Drops, b.DropReason = nil, nil
	}
	b.Workloads, b.Names, b.DropReasons = valid(workloads.items), valid(names.items), valid(reasons.items)
	for _, p := range processes.items {
		// What is no UTF-8 does not travel, and whoever runs a program names it.
		b.Processes = append(b.Processes, &wirepb.FlowProcess{Pid: p.PID, Exe: utf8(p.Exe), User: utf8(p.User), Comm: utf8(p.Comm)})
	}
	for _, a := range applications.items {
		b.Applications = append(b.Applications, &wirepb.FlowApplication{Protocol: utf8(a.Protocol), Host: utf8(a.Host), Alpn: utf8(a.ALPN), Method: utf8(a.Method), Path: utf8(a.Path), Status: uint32(a.Status), Software: utf8(a.Software)})
	}
	for _, a := range translations.items {
		b.Translations = append(b.Translations, &wirepb.FlowAddress{Address: a.Addr().AsSlice(), Port: uint32(a.Port())})
	}
	return b
}

func micros(d time.Duration) uint32 { return uint32(min(max(d.Microseconds(), 0), math.MaxUint32)) }

func utf8(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

func valid(list []string) []string {
	for i, s := range list {
		list[i] = utf8(s)
	}
	return list
}

func flags(r *Record) (out uint32) {
	for i, set := range []bool{r.Egress, r.New, r.Ended, r.Refused, r.Observed} {
		if set {
			out |= 1 << i
		}
	}
	return out
}

func tcp(r *Record) uint32 {
	return uint32(r.SentFlags) | uint32(r.ReceivedFlags)<<8 | uint32(r.TCPState)<<16
}

// list gives equal things one place.
type list[T comparable] struct {
	items  []T
	places map[T]uint32
}

// place is the thing's place plus one, 0 for the zero value.
func (l *list[T]) place(x T) uint32 {
	var zero T
	if x == zero {
		return 0
	}
	if n, ok := l.places[x]; ok {
		return n
	}
	if l.places == nil {
		l.places = map[T]uint32{}
	}
	l.items = append(l.items, x)
	n := uint32(len(l.items))
	l.places[x] = n
	return n
}

func read(when time.Time, b *wirepb.FlowColumns) ([]Record, error) {
	n := len(b.GetWorkload())
	if err := check(b, n); err != nil {
		return nil, err
	}
	processes := make([]Process, len(b.Processes))
	for i, p := range b.Processes {
		processes[i] = Process{PID: p.GetPid(), Exe: p.GetExe(), User: p.GetUser(), Comm: p.GetComm()}
	}
	applications := make([]Application, len(b.Applications))
	for i, a := range b.Applications {
		if a.GetStatus() > math.MaxUint16 {
			return nil, fmt.Errorf("application %d: status %d", i, a.GetStatus())
		}
		applications[i] = Application{Protocol: a.GetProtocol(), Host: a.GetHost(), ALPN: a.GetAlpn(), Method: a.GetMethod(), Path: a.GetPath(), Status: uint16(a.GetStatus()), Software: a.GetSoftware()}
	}
	translations := make([]netip.AddrPort, len(b.Translations))
	for i, t := range b.Translations {
		a, ok := netip.AddrFromSlice(t.GetAddress())
		if !ok || t.GetPort() > math.MaxUint16 {
			return nil, fmt.Errorf("translation %d: %d bytes of address, port %d", i, len(t.GetAddress()), t.GetPort())
		}
		translations[i] = netip.AddrPortFrom(a.Unmap(), uint16(t.GetPort()))
	}
	out := make([]Record, n)
	for i := range out {
		r := Record{
			Workload: at(b.Workloads, b.Workload[i]), Process: at(processes, b.Process[i]), Name: at(b.Names, b.Name[i]), Translated: at(translations, b.Translation[i]),
			Local: endpoint(b.Local, b.LocalPort, i), Remote: endpoint(b.Remote, b.RemotePort, i), Protocol: uint8(b.Protocol[i]),
			Egress: b.Flags[i]&flagEgress != 0, New: b.Flags[i]&flagNew != 0, Ended: b.Flags[i]&flagEnded != 0, Refused: b.Flags[i]&flagRefused != 0, Observed: b.Flags[i]&flagObserved != 0, NetNS: b.Netns[i], Began: b.Began[i],
			Action: at(actions, b.Action[i]), Rule: policy.RuleID(b.Rule[i]), Peer: policy.Identity(b.Peer[i]),
			Sent: Count{b.SentPackets[i], b.SentBytes[i]}, Received: Count{b.ReceivedPackets[i], b.ReceivedBytes[i]},
			RTT: time.Duration(b.RttMicros[i]) * time.Microsecond, Retransmits: b.Retransmits[i],
			Application: at(applications, b.Application[i]), Latency: time.Duration(b.LatencyMicros[i]) * time.Microsecond,
		}
		if len(b.Tcp) > 0 {
			x := b.Tcp[i]
			r.SentFlags, r.ReceivedFlags, r.TCPState = packet.TCPFlags(x), packet.TCPFlags(x>>8), packet.TCPState(x>>16)
		}
		if len(b.Drops) > 0 {
			r.Drops = b.Drops[i]
		}
		if len(b.DropReason) > 0 {
			r.DropReason = at(b.DropReasons, b.DropReason[i])
		}
		var ok bool
		if r.First, ok = before(when, b.First[i]); !ok {
			return nil, fmt.Errorf("first: record %d began %d ms before the batch", i, b.First[i])
		}
		if r.Last, ok = before(when, b.Last[i]); !ok {
			return nil, fmt.Errorf("last: record %d ended %d ms before the batch", i, b.Last[i])
		}
		out[i] = r
	}
	return out, nil
}

// longest is how old a connection can be: captures have been kept for about as
// long.
const longest = 60 * 365 * 24 * time.Hour

func before(when time.Time, ms int64) (time.Time, bool) {
	if ms < -longest.Milliseconds() || ms > longest.Milliseconds() {
		return when, false
	}
	return when.Add(-time.Duration(ms) * time.Millisecond), true
}

func endpoint(addresses []byte, ports []uint32, i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(addresses[16*i:])).Unmap(), uint16(ports[i]))
}

func at[T any](list []T, place uint32) (out T) {
	if place == 0 {
		return out
	}
	return list[place-1]
}

// check says whether every column has n values that Decode can take.
func check(b *wirepb.FlowColumns, n int) error {
	if n > MaxRecords {
		return fmt.Errorf("%d records, %d at most", n, MaxRecords)
	}
	for _, c := range []struct {
		name string
		have int
	}{
		{"local", len(b.Local) / 16}, {"remote", len(b.Remote) / 16}, {"rule", len(b.Rule)}, {"first", len(b.First)}, {"last", len(b.Last)},
		{"sent_packets", len(b.SentPackets)}, {"sent_bytes", len(b.SentBytes)}, {"received_packets", len(b.ReceivedPackets)}, {"received_bytes", len(b.ReceivedBytes)}, {"netns", len(b.Netns)}, {"began", len(b.Began)},
	} {
		if c.have != n {
			return fmt.Errorf("%s: %d values for %d records", c.name, c.have, n)
		}
	}
	for _, c := range []struct {
		name   string
		values []uint32
		most   int
		absent bool // allowed
	}{
		{"workload", b.Workload, len(b.Workloads), false}, {"process", b.Process, len(b.Processes), false}, {"name", b.Name, len(b.Names), false}, {"translation", b.Translation, len(b.Translations), false},
		{"local_port", b.LocalPort, math.MaxUint16, false}, {"remote_port", b.RemotePort, math.MaxUint16, false}, {"protocol", b.Protocol, math.MaxUint8, false},
		{"flags", b.Flags, math.MaxUint32, false}, {"action", b.Action, len(actions), false}, {"peer", b.Peer, math.MaxUint32, false}, {"rtt_micros", b.RttMicros, math.MaxUint32, false}, {"retransmits", b.Retransmits, math.MaxUint32, false},
		{"application", b.Application, len(b.Applications), false}, {"latency_micros", b.LatencyMicros, math.MaxUint32, false},
		{"tcp", b.Tcp, int(packet.TCPClosed)<<16 | math.MaxUint16, true}, {"drops", b.Drops, math.MaxUint32, true}, {"drop_reason", b.DropReason, len(b.DropReasons), true},
	} {
		if c.absent && len(c.values) == 0 {
			continue
		}
		if len(c.values) != n {
			return fmt.Errorf("%s: %d values for %d records", c.name, len(c.values), n)
		}
		for i, v := range c.values {
			if int(v) > c.most {
				return fmt.Errorf("%s: record %d has %d, %d at most", c.name, i, v, c.most)
			}
		}
	}
	return nil
}
