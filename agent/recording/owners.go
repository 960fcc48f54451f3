package recording

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"weft/agent/connection"
	"weft/packet"
	"weft/wire/tapstream"
	"weft/wire/wirepb"
)

// maxTuples is of how many connections it is asked whose they are.
const maxTuples = 1 << 16

// askedFor is in how many readings of the connection table one is looked for. What is
// not there by then has no socket here, as what is forwarded.
const askedFor = 5

// tuple is a connection, seen from here.
type tuple struct {
	local, remote netip.AddrPort
	protocol      uint8
}

// owners asks whose the connections are that there are packets of.
type owners struct {
	waiting atomic.Int32  // how many are asked for and not told yet,
	all     *atomic.Int32 // and how many of all owners

	mu        sync.Mutex
	asked     map[tuple]int8 // readings of the table that are left; 0: told, or given up
	processes []*wirepb.CaptureProcess
}

func (o *owners) wait(n int32) {
	o.waiting.Add(n)
	o.all.Add(n)
}

// reset forgets what was asked, so that it is told again.
func (o *owners) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked, o.processes = map[tuple]int8{}, nil
	o.wait(-o.waiting.Load())
}

// ask notes a packet's connection.
func (o *owners) ask(r *tapstream.Record) {
	link := packet.Ethernet
	if r.Flags&tapstream.FlagRaw != 0 {
		link = packet.RawIP
	}
	source, destination, protocol, ok := packet.Ends(r.Data, link)
	if !ok {
		return
	}
	t := tuple{source, destination, protocol}
	if r.Flags&tapstream.FlagEgress == 0 {
		t.local, t.remote = destination, source
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, known := o.asked[t]; !known && len(o.asked) < maxTuples {
		o.asked[t] = askedFor
		o.wait(1)
	}
}

// see takes a line of the connection table.
func (o *owners) see(l *connection.Line, users *connection.Users) {
	if o.waiting.Load() == 0 {
		return
	}
	t := tuple{l.Local, l.Remote, l.Protocol}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.asked[t] == 0 {
		return
	}
	o.asked[t] = 0
	o.wait(-1)
	address := func(a netip.AddrPort) *wirepb.FlowAddress {
		return &wirepb.FlowAddress{Address: a.Addr().AsSlice(), Port: uint32(a.Port())}
	}
	o.processes = append(o.processes, &wirepb.CaptureProcess{Local: address(t.local), Remote: address(t.remote), Protocol: uint32(t.protocol),
		Process: &wirepb.FlowProcess{Pid: l.Process.PID, Exe: l.Process.Exe, User: users.Name(l.Process), Comm: l.Process.Comm}})
}

// read is told that the table was read.
func (o *owners) read() {
	if o.waiting.Load() == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for t, left := range o.asked {
		if left > 0 {
			o.asked[t] = left - 1
			if left == 1 {
				o.wait(-1)
			}
		}
	}
}

// told are those that were told since.
func (o *owners) told() []*wirepb.CaptureProcess {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.processes
	o.processes = nil
	return p
}
