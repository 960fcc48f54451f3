package captures

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"weft/internal/version"
	"weft/model"
	"weft/packet"
	"weft/wire"
	"weft/wire/tapstream"
	"weft/wire/wirepb"
)

const (
	// beginWithin is how long the file waits for hosts that do not answer.
	beginWithin = 4 * time.Second
	// hold is how long a packet waits for earlier ones of other hosts, and for word
	// of whose it is, which is read once a second; mostHold ends any wait.
	hold     = 2500 * time.Millisecond
	mostHold = 10 * time.Second
	// silent is how long after its last word a host takes part no more.
	silent       = 10 * time.Second
	maxWaiting   = 10_000
	maxNames     = 4096
	maxProcesses = 1 << 16
)

// Capture is one that runs.
type Capture struct {
	ID     uint64
	spec   Spec
	all    *Captures
	began  time.Time
	window uint64
	wake   chan struct{}

	mu      sync.Mutex
	sources map[string]*source // by UID
	came    []arrival

	// Of Run.
	w       *pcapgo.NgWriter
	waiting records
	ports   []*port
	late    uint64
	newest  time.Time
	left    room
	full    bool // nothing more is written
}

// room is what may still be written: packets, and bytes of them as kept.
type room struct{ packets, bytes uint64 }

// Figures are what came of a host.
type Figures struct {
	Host    string `json:"host"`
	Packets uint64 `json:"packets" doc:"In the file."`
	Bytes   uint64 `json:"bytes" doc:"In the file."`
	Dropped uint64 `json:"dropped" doc:"Packets that passed the filter and did not arrive."`
	Ended   bool   `json:"ended"`
	Message string `json:"message,omitempty"`
}

type source struct {
	Target
	heard          time.Time
	ended          bool // guarded by Capture.mu, as are the next five
	spoke          bool // the first piece came, which tells of clocks
	said           int  // the place in Capture.came, plus one, of the last that came, where that is a word
	came, released uint64
	figures        Figures

	// Of Run.
	begun     bool
	over      bool
	past      bool          // what its rings have kept is not all there yet
	offset    time.Duration // its clock minus ours
	uncertain time.Duration
	through   time.Time // by our clock
	names     map[uint32]string
	processes map[connection]string
	decoder   tapstream.Decoder
	ports     map[portKey]*port
	ledger    model.Ledger
}

func newSource(t Target, now time.Time) *source {
	return &source{Target: t, heard: now, figures: Figures{Host: t.Host}, names: map[uint32]string{}, processes: map[connection]string{}, ports: map[portKey]*port{}}
}

type connection struct {
	local, remote netip.AddrPort
	protocol      uint8
}

type portKey struct {
	workload string
	raw      bool
}

// port is an interface block of the file.
type port struct {
	source *source
	index  int
	name   string
	count  uint64
}

type arrival struct {
	source *source
	piece  *wirepb.CapturePiece
	at     time.Time
}

// word says whether a piece only says how far a host is.
func word(p *wirepb.CapturePiece) bool {
	return len(p.Batch)+len(p.Names)+len(p.Processes) == 0 && p.Message == "" && !p.Ended
}

// record is a packet that waits; load is the batch it came in.
type record struct {
	tapstream.Record
	source *source
	when   time.Time
	who    string // of the past; else it may be told later
	load   *load
}

type load struct{ records, bytes int }

type records []*record

func (r records) Len() int           { return len(r) }
func (r records) Less(i, j int) bool { return r[i].when.Before(r[j].when) }
func (r records) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *records) Push(x any)        { *r = append(*r, x.(*record)) }
func (r *records) Pop() any {
	last := len(*r) - 1
	x := (*r)[last]
	(*r)[last] = nil
	*r = (*r)[:last]
	return x
}

// Figures are what has come until now, by host.
func (x *Capture) Figures() []Figures {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []Figures
	for _, s := range x.sources {
		out = append(out, s.figures)
	}
	slices.SortFunc(out, func(a, b Figures) int { return cmp.Compare(a.Host, b.Host) })
	return out
}

// Run writes the file until the hosts have ended, ctx does or out fails. flush
// is called when what was written is to be seen.
func (x *Capture) Run(ctx context.Context, out io.Writer, flush func() error) error {
	defer x.end()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		done := x.hear()
		if x.w == nil && (done || x.allBegun() || time.Since(x.began) > beginWithin) {
			if err := x.open(out); err != nil {
				return err
			}
		}
		if x.w != nil {
			if err := x.write(done); err != nil {
				return err
			}
			if done {
				if err := x.statistics(); err != nil {
					return err
				}
			}
			if err := x.w.Flush(); err != nil {
				return err
			}
			if err := flush(); err != nil {
				return err
			}
			if done {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-x.wake:
		case <-tick.C:
		}
	}
}

// end leaves the figures, and nothing else that takes room.
func (x *Capture) end() {
	x.all.forget(x)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.came, x.waiting, x.ports, x.w = nil, nil, nil, nil
	for uid, s := range x.sources {
		s.ended = true
		s.figures.Ended = true
		x.sources[uid] = &source{Target: Target{UID: s.UID, Host: s.Host}, ended: true, figures: s.figures}
	}
}

func (x *Capture) allBegun() bool {
	for _, s := range x.sources {
		if !s.begun {
			return false
		}
	}
	return true
}

// hear takes in what has come, and says whether no more will.
func (x *Capture) hear() (done bool) {
	x.mu.Lock()
	came := x.came
	x.came = nil
	for _, s := range x.sources {
		s.said = 0
	}
	x.mu.Unlock()
	for _, a := range came {
		x.one(a)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	done = len(x.came) == 0
	for _, s := range x.sources {
		if !s.over && time.Since(s.heard) > silent {
			s.over, s.ended = true, true
			s.figures.Ended, s.figures.Message = true, "the host has fallen silent; an agent that is older than weft capture never answers"
		}
		done = done && s.over
	}
	return done
}

func (x *Capture) one(a arrival) {
	s, p := a.source, a.piece
	if !s.begun {
		s.begun = true
		// As NTP has it (RFC 5905, 8): t1 and t4 by our clock, t2 and t3 by the host's.
		t1, t2, t3, t4 := x.began.UnixNano(), p.ReceivedUnixNanos, p.SentUnixNanos, a.at.UnixNano()
		if p.OrderUnixNanos == t1 {
			s.offset, s.uncertain = time.Duration(((t2-t1)+(t3-t4))/2), time.Duration(max((t4-t1)-(t3-t2), 0)/2)
		}
	}
	for _, n := range p.Names {
		if len(s.names) < maxNames {
			s.names[n.Number] = n.Workload
		}
	}
	for _, c := range p.Processes {
		local, ok1 := ends(c.Local)
		remote, ok2 := ends(c.Remote)
		if ok1 && ok2 && len(s.processes) < maxProcesses {
			s.processes[connection{local, remote, uint8(c.Protocol)}] = processText(c.Process)
		}
	}
	s.past = p.Past
	if p.ThroughUnixNanos > 0 {
		s.through = time.Unix(0, p.ThroughUnixNanos).Add(-s.offset)
	}
	if p.Ledger != nil {
		s.ledger = wire.LedgerToModel(p.Ledger)
	}
	if len(p.Batch) > 0 {
		x.batch(s, p.Batch)
	}
	s.over = s.over || p.Ended
	x.mu.Lock()
	defer x.mu.Unlock()
	s.figures.Dropped = s.ledger.RingDropped.Packets + s.ledger.Shed.Packets + s.ledger.PathDropped.Packets
	s.figures.Ended = s.over
	if p.Message != "" {
		s.figures.Message = clean(p.Message, 500)
	}
}

func (x *Capture) batch(s *source, payload []byte) {
	l := &load{bytes: len(payload), records: 1}
	b, err := tapstream.ParseBatch(payload)
	if err == nil {
		err = s.decoder.Open(b)
	}
	var r tapstream.Record
	for err == nil {
		var ok bool
		if ok, err = s.decoder.Next(&r); !ok || err != nil {
			break
		}
		kept := &record{Record: r, source: s, when: time.Unix(0, r.Time).Add(-s.offset), load: l}
		kept.Data = slices.Clone(r.Data)
		if s.past { // ports that are used again may be another's, in the next piece
			kept.who = s.whose(kept, r.Flags&tapstream.FlagRaw != 0)
		}
		l.records++
		heap.Push(&x.waiting, kept)
	}
	x.release(s, l)
}

// release makes room where all of a batch is written.
func (x *Capture) release(s *source, l *load) {
	if l.records--; l.records > 0 {
		return
	}
	x.mu.Lock()
	s.released += uint64(l.bytes)
	released := s.released
	x.mu.Unlock()
	x.all.acknowledge(s.UID, x.ID, released)
}

// open begins the file: its section says how sure the times are.
func (x *Capture) open(out io.Writer) error {
	var about strings.Builder
	fmt.Fprintf(&about, "weft capture %d. Times are by the controller's clock.", x.ID)
	var all []*port
	for _, s := range x.sorted() {
		switch {
		case !s.begun:
			fmt.Fprintf(&about, " %s had not answered when this was written.", s.Host)
		default:
			fmt.Fprintf(&about, " %s: its clock was %s off, which is corrected, give or take %s.", s.Host, s.offset.Round(time.Microsecond), s.uncertain.Round(time.Microsecond))
		}
		for _, id := range slices.Sorted(maps.Keys(s.Workloads)) {
			p := &port{source: s, name: s.Workloads[id].Metadata.Name}
			s.ports[portKey{id, false}] = p
			all = append(all, p)
		}
	}
	for i, p := range all {
		var err error
		description := x.port(p, layers.LinkTypeEthernet, p.source.Line.Snaplen)
		if i == 0 {
			x.w, err = pcapgo.NewNgWriterInterface(out, description, pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: "weft " + version.Version, Comment: about.String()}})
		} else {
			p.index, err = x.w.AddInterface(description)
		}
		if err != nil {
			return err
		}
	}
	x.ports = all
	return nil
}

func (x *Capture) port(p *port, link layers.LinkType, snaplen uint32) pcapgo.NgInterface {
	description := ""
	for _, w := range p.source.Workloads {
		if w.Metadata.Name == p.name {
			for _, k := range slices.Sorted(maps.Keys(w.Metadata.Labels)) {
				description += k + "=" + w.Metadata.Labels[k] + " "
			}
		}
	}
	return pcapgo.NgInterface{Name: p.name, Description: clean(strings.TrimSpace(description), 1000), Filter: p.source.Line.Filter, LinkType: link, SnapLength: snaplen, TimestampResolution: 9}
}

func (x *Capture) sorted() []*source {
	return slices.SortedFunc(maps.Values(x.sources), func(a, b *source) int { return cmp.Compare(a.Host, b.Host) })
}

// write writes what need not wait any more.
func (x *Capture) write(all bool) error {
	now := time.Now()
	until, past := now.Add(-hold), false
	for _, s := range x.sources {
		if s.begun && !s.over && s.through.Before(until) {
			until = s.through
		}
		past = past || s.begun && !s.over && s.past
	}
	// While rings are read, hosts are as far as they have read, and their packets wait
	// for one another in the window.
	if forced := now.Add(-mostHold); !past && until.Before(forced) {
		until = forced
	}
	for len(x.waiting) > 0 && (all || !x.waiting[0].when.After(until)) {
		r := heap.Pop(&x.waiting).(*record)
		if err := x.packet(r); err != nil {
			return err
		}
		x.release(r.source, r.load)
	}
	return nil
}

func (x *Capture) packet(r *record) error {
	s, raw := r.source, r.Flags&tapstream.FlagRaw != 0
	id := s.names[r.Workload]
	if s.Workloads[id] == nil {
		return nil // what was not asked for
	}
	if x.full {
		return nil
	}
	if x.left.bytes < uint64(len(r.Data)) {
		x.fill("so many bytes as were asked for")
		return nil
	}
	p := s.ports[portKey{id, raw}]
	if p == nil {
		p = &port{source: s, name: s.Workloads[id].Metadata.Name}
		var err error
		if p.index, err = x.w.AddInterface(x.port(p, layers.LinkTypeRaw, s.Line.Snaplen)); err != nil {
			return err
		}
		s.ports[portKey{id, raw}] = p
		x.ports = append(x.ports, p)
	}
	data, wireLength := r.Data, int(r.Length)
	if r.Flags&tapstream.FlagVLAN != 0 && !raw && len(data) >= 12 {
		data = slices.Concat(data[:12], []byte{byte(r.VLANProto >> 8), byte(r.VLANProto), byte(r.VLANTCI >> 8), byte(r.VLANTCI)}, data[12:])
		wireLength += 4
	}
	comment := "workload=" + p.name
	if who := cmp.Or(r.who, s.whose(r, raw)); who != "" {
		comment += " " + who
	}
	if r.Segments > 1 {
		comment += fmt.Sprintf(" segments=%d", r.Segments)
	}
	p.count++
	if r.when.Before(x.newest) {
		x.late++
	} else {
		x.newest = r.when
	}
	x.mu.Lock()
	s.figures.Packets++
	s.figures.Bytes += uint64(len(data))
	x.mu.Unlock()
	x.left.bytes -= uint64(len(r.Data))
	if x.left.packets--; x.left.packets == 0 {
		x.fill("so many packets as were asked for")
	}
	return x.w.WritePacketWithOptions(gopacket.CaptureInfo{Timestamp: r.when, CaptureLength: len(data), Length: wireLength, InterfaceIndex: p.index}, data, pcapgo.NgPacketOptions{Comments: []string{comment}})
}

// fill ends the capture where a limit of the whole is reached: what the hosts have
// sent beyond it is no part of the file.
func (x *Capture) fill(why string) {
	x.full = true
	x.mu.Lock()
	for _, s := range x.sources {
		if s.figures.Message == "" {
			s.figures.Message = why
		}
	}
	x.mu.Unlock()
	x.all.Stop(x.ID)
}

// whose is the process at this host's end.
func (s *source) whose(r *record, raw bool) string {
	link := packet.Ethernet
	if raw {
		link = packet.RawIP
	}
	from, to, protocol, ok := packet.Ends(r.Data, link)
	if !ok {
		return ""
	}
	if r.Flags&tapstream.FlagEgress == 0 {
		from, to = to, from
	}
	return s.processes[connection{from, to, protocol}]
}

// statistics ends the file. Drops are counted by host: they stand at the first
// of its interfaces.
func (x *Capture) statistics() error {
	said := map[*source]bool{}
	for _, p := range x.ports {
		stats := pcapgo.NgInterfaceStatistics{LastUpdate: time.Now(), StartTime: x.began.Add(-x.spec.Past), EndTime: time.Now(), PacketsReceived: p.count}
		if !said[p.source] {
			stats.PacketsDropped = p.source.figures.Dropped
			stats.PacketsReceived += stats.PacketsDropped
		}
		said[p.source] = true
		if err := x.w.WriteInterfaceStats(p.index, stats); err != nil {
			return err
		}
	}
	return nil
}

func ends(a *wirepb.FlowAddress) (netip.AddrPort, bool) {
	address, ok := netip.AddrFromSlice(a.GetAddress())
	return netip.AddrPortFrom(address.Unmap(), uint16(a.GetPort())), ok
}

func processText(p *wirepb.FlowProcess) string {
	return clean(fmt.Sprintf("process=%s pid=%d user=%s", cmp.Or(p.GetExe(), p.GetComm()), p.GetPid(), p.GetUser()), 500)
}

// clean makes a text of a host harmless.
func clean(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), most)]
}
