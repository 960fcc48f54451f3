package flow

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"weft/agent/connection"
	"weft/model"
	"weft/wire/flowwire"
	"weft/wire/wirepb"
)

// Config of a Flow. Zero values take the defaults.
type Config struct {
	// Dir is where batches wait until they are acknowledged.
	Dir string
	// PinDir is a directory on a BPF file system for the marks; empty keeps them
	// for this process alone.
	PinDir string
	// Interval is how long a connection that goes on waits for its next record;
	// 10 s unless given.
	Interval time.Duration
	// Room is how many bytes the batches may take; 256 MiB unless given.
	Room int64
}

// Deps of a Flow.
type Deps struct {
	Log *slog.Logger
}

// Flow makes records of what it is shown of connections.
type Flow struct {
	cfg   Config
	log   *slog.Logger
	users connection.Users

	// Of whoever reads the table.
	began   time.Time
	now     time.Time
	pass    uint32
	marks   *marks
	records []flowwire.Record
	touched []key
	failed  error

	mu      sync.Mutex
	pending []flowwire.Record // of what was observed
	missed  uint64            // for want of room there
	spool   *spool
	arrived chan struct{} // closed when there is another batch
}

// Open reads the batches that an earlier process has left. What is in the kernel
// is not touched before the first reading of the connection table.
func Open(cfg Config, deps Deps) (*Flow, error) {
	if cfg.Interval == 0 {
		cfg.Interval = 10 * time.Second
	}
	if cfg.Room == 0 {
		cfg.Room = 256 << 20
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	s, err := openSpool(cfg.Dir, cfg.Room)
	if err != nil {
		return nil, err
	}
	f := &Flow{cfg: cfg, log: deps.Log, began: time.Now(), spool: s, arrived: make(chan struct{})}
	if s.damaged > 0 {
		f.log.Warn("batches of flow records could not be read and are left out", "batches", s.damaged)
	}
	return f, nil
}

// open takes over the marks of an earlier process, or makes them.
func (f *Flow) open() error {
	m, err := openMarks(f.cfg.PinDir)
	if err != nil {
		f.log.Warn("the account of flows will begin anew when this agent does", "error", err)
		m = &marks{all: map[key]mark{}}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.marks = m
	err = f.redo()
	f.spool.continueAs(&m.account)
	return err
}

// redo brings the marks up to the newest batch, where a process was killed
// between writing one and the other.
func (f *Flow) redo() error {
	last := f.spool.newest()
	if last == nil || last.Epoch != f.marks.account.Epoch || last.Number != f.marks.account.Number+1 {
		return nil
	}
	records, err := flowwire.Decode(last)
	if err != nil { // of an agent that wrote them in another way
		f.log.Warn("the last batch of flow records cannot be read; the account goes on after it", "error", err)
		f.marks.account.Number, f.marks.account.Lost = last.Number, last.Lost+uint64(len(last.Workload))
		return nil
	}
	var done []key
	for i := range records {
		if records[i].Observed {
			continue // no line of the table
		}
		if k, ok := f.marks.redo(&records[i], last.Number); ok {
			done = append(done, k)
		}
	}
	return f.marks.write(done, last.Number, last.Lost)
}

// Begin starts a reading of the connection table.
func (f *Flow) Begin() {
	f.now, f.failed = time.Now(), nil
	f.pass++
	if f.marks == nil {
		f.failed = f.open()
	}
}

// See takes a line of the table.
func (f *Flow) See(c *connection.Line) {
	k := keyOf(c)
	m, known := f.marks.all[k]
	if known && !m.continues(c) {
		known = false // the same ports for another connection
	}
	if !known {
		m = mark{}
	}
	m.Began, m.pass = c.Began, f.pass
	sent, received := count(c.Sent), count(c.Received)
	since := f.now.Sub(f.began)
	changed := sent != m.Sent || received != m.Received || c.Retransmits != m.Retransmits
	if !known || changed && (c.Ended || since-m.told >= f.cfg.Interval) {
		f.records = append(f.records, f.record(c, &m, !known))
		f.touched = append(f.touched, k)
		m.Sent, m.Received, m.Retransmits, m.told = sent, received, c.Retransmits, since
	}
	f.marks.all[k] = m
	if len(f.records) == flowwire.MaxRecords {
		f.flush()
	}
}

func count(c connection.Count) flowwire.Count { return flowwire.Count(c) }

// record is what has happened since the mark.
func (f *Flow) record(c *connection.Line, m *mark, fresh bool) flowwire.Record {
	r := flowwire.Record{
		Workload: c.Workload, Process: flowwire.Process{PID: c.Process.PID, Exe: c.Process.Exe, User: f.users.Name(c.Process), Comm: c.Process.Comm},
		Local: c.Local, Remote: c.Remote, Translated: c.Translated, Protocol: c.Protocol, NetNS: c.NetNS, Began: c.Began, Egress: c.Direction != 0, New: fresh, Ended: c.Ended,
		Action: c.Action, Rule: c.Rule, Peer: c.PeerIdentity, First: c.First, Last: c.Last, RTT: c.RTT,
		Sent:        flowwire.Count{Packets: c.Sent.Packets - m.Sent.Packets, Bytes: c.Sent.Bytes - m.Sent.Bytes},
		Received:    flowwire.Count{Packets: c.Received.Packets - m.Received.Packets, Bytes: c.Received.Bytes - m.Received.Bytes},
		Retransmits: c.Retransmits - min(m.Retransmits, c.Retransmits),
		Refused:     c.Refused,
	}
	if r.Action == "" {
		r.Action = model.ActionAllow
	}
	if len(c.Names) > 0 {
		r.Name = c.Names[0]
	}
	return r
}

// End ends a reading: what it found is on disk when it returns without an error.
// Where it was the whole table, connections that were not in it are forgotten.
func (f *Flow) End(whole bool) error {
	f.flush()
	f.flushObserved()
	if f.failed != nil || !whole {
		return f.failed
	}
	return f.marks.sweep(f.pass)
}

// maxPending is how many records of what was observed wait for a reading of the
// table; there is one each second.
const maxPending = 4 * flowwire.MaxRecords

// Observe takes records of what is no line of the table: packets of others. They
// are on disk after the next reading. It keeps no reference to them.
func (f *Flow) Observe(records []flowwire.Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	room := maxPending - len(f.pending)
	if room < len(records) {
		f.missed += uint64(len(records) - room)
		records = records[:room]
	}
	f.pending = append(f.pending, records...)
}

// flushObserved writes what was observed, in batches of its own.
func (f *Flow) flushObserved() {
	if f.marks == nil {
		return // nothing can be numbered yet
	}
	f.mu.Lock()
	records := f.pending
	f.pending = nil
	f.spool.lost += f.missed
	f.missed = 0
	f.mu.Unlock()
	for len(records) > 0 {
		n := min(len(records), flowwire.MaxRecords)
		f.records, records = append(f.records, records[:n]...), records[n:]
		f.flush()
	}
}

// flush writes a batch and then its marks.
func (f *Flow) flush() {
	if len(f.records) == 0 {
		return
	}
	f.mu.Lock()
	b, err := f.spool.add(flowwire.Encode(f.now, f.records))
	if err == nil {
		close(f.arrived)
		f.arrived = make(chan struct{})
	}
	if err != nil {
		f.spool.lost += uint64(len(f.records))
	}
	lost := f.spool.lost
	f.mu.Unlock()
	if err == nil {
		err = f.marks.write(f.touched, b.Number, lost)
	}
	f.failed = errors.Join(f.failed, err)
	f.records, f.touched = f.records[:0], f.touched[:0]
}

// Next returns the batch that follows another, the oldest where that is nil; nil
// where there is none (yet).
func (f *Flow) Next(after *wirepb.FlowAck) (*wirepb.FlowBatch, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.spool.next(after)
}

// Arrived is closed when there is another batch.
func (f *Flow) Arrived() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.arrived
}

// Acknowledge forgets what the controller has kept.
func (f *Flow) Acknowledge(a *wirepb.FlowAck) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spool.acknowledge(a)
}

// Gone forgets what connections' records have said: their table is gone. Batches
// stay until they are acknowledged.
func (f *Flow) Gone() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var err error
	if f.marks != nil {
		err = f.marks.close()
		f.marks = nil
	}
	if f.cfg.PinDir == "" {
		return err
	}
	return errors.Join(err, Remove(f.cfg.PinDir))
}

// Remove takes away what is in the kernel of the account of an agent whose
// directory of pinned objects this was.
func Remove(pinDir string) error {
	if err := os.RemoveAll(pinDir); err != nil {
		return fmt.Errorf("remove the marks of flows: %w", err)
	}
	return nil
}
