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
	// Connections is how many the table can have; 1,048,576 unless given.
	Connections uint32
}

// Deps of a Flow.
type Deps struct {
	Log *slog.Logger
}

// Flow makes records of what it is shown of connections.
type Flow struct {
	cfg    Config
	log    *slog.Logger
	users  connection.Users
	hellos hellos

	// Of whoever reads the table.
	began   time.Time
	now     time.Time
	pass    uint32
	marks   *marks
	records []flowwire.Record
	touched []key  // of records
	next    []mark // the marks they will have
	asked   key    // of which the mark is read; here, so that it costs no memory
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
	if cfg.Connections == 0 {
		cfg.Connections = 1 << 20
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
	m, err := f.openMarks()
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.marks = m
	err = f.redo()
	f.spool.continueAs(&m.account)
	return err
}

func (f *Flow) openMarks() (*marks, error) {
	if f.cfg.PinDir != "" {
		p, err := openPinned(f.cfg.PinDir, 2*f.cfg.Connections) // a reading adds what is new before it forgets what is gone
		if err == nil {
			var m *marks
			if m, err = newMarks(p); err == nil {
				return m, nil
			}
			p.close()
		}
		f.log.Warn("the account of flows will begin anew when this agent does", "error", err)
	}
	return newMarks(&held{marks: map[key]mark{}})
}

// redo brings the marks up to the newest batch, where a process was killed
// between writing one and the other.
func (f *Flow) redo() error {
	m, last := f.marks, f.spool.newest()
	if last == nil || last.Epoch != m.account.Epoch || last.Number != m.account.Number+1 {
		return nil
	}
	records, err := flowwire.Decode(last)
	if err != nil { // of an agent that wrote them in another way
		f.log.Warn("the last batch of flow records cannot be read; the account goes on after it", "error", err)
		m.account.Number, m.account.Lost = last.Number, last.Lost+uint64(last.Records)
		return nil
	}
	var keys []key
	var values []mark
	for i := range records {
		if records[i].Observed {
			continue // no line of the table
		}
		k, x, needed, err := m.redo(&records[i], last.Number)
		if err != nil {
			return err
		}
		if needed {
			keys, values = append(keys, k), append(values, x)
		}
	}
	return m.write(keys, values, last.Number, last.Lost)
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
	k, since := keyOf(c), milliseconds(f.now.Sub(f.began))
	h := f.marks.hash(&k)
	g, known := f.marks.seen[h]
	if g.pass == f.pass && known {
		f.flush() // shown twice: what was said of it the first time must be in the ledger
	}
	g.pass = f.pass
	now := packets(count(c.Sent), count(c.Received), drops(c))
	switch {
	case !known && !c.Ended && f.hellos.settling(k, f.now.Sub(c.First)):
		return // its first record is to say what it is used for
	case !known:
		f.tell(c, k, mark{}, true)
	case now != g.packets && (c.Ended || since-g.told >= milliseconds(f.cfg.Interval)):
		f.asked = k
		m, was, err := f.marks.ledger.lookup(&f.asked)
		f.failed = errors.Join(f.failed, err)
		if was = was && m.continues(c); !was {
			m = mark{}
		}
		f.tell(c, k, m, !was)
	default:
		f.see(h, g, c, &k)
		return
	}
	g.packets, g.told = now, since
	f.see(h, g, c, &k)
	if len(f.records) == flowwire.MaxRecords {
		f.flush()
	}
}

func (f *Flow) see(h uint64, g glimpse, c *connection.Line, k *key) {
	f.marks.seen[h] = g
	if c.Ended {
		f.marks.ending = append(f.marks.ending, *k)
	}
}

// tell makes a record of what has happened since the mark, and the next mark.
func (f *Flow) tell(c *connection.Line, k key, m mark, fresh bool) {
	f.records = append(f.records, f.record(c, &m, fresh))
	f.hellos.name(k, c.Ended, &f.records[len(f.records)-1])
	f.touched = append(f.touched, k)
	f.next = append(f.next, mark{Sent: count(c.Sent), Received: count(c.Received), Retransmits: c.Retransmits, Drops: drops(c)})
}

// policyDrop is why what policy turned down was thrown away, among the kernel's own
// reasons.
const policyDrop = "POLICY"

// drops is how many of a connection's packets were thrown away here, the low bits.
func drops(c *connection.Line) uint32 {
	if c.Refused {
		return uint32(c.Sent.Packets + c.Received.Packets)
	}
	return uint32(c.Drops)
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
		Refused:     c.Refused, TCPState: c.TCPState, SentFlags: c.SentFlags, ReceivedFlags: c.ReceivedFlags,
	}
	if n := drops(c); n != m.Drops {
		// A count that is not what it was, and no more, began anew.
		if r.Drops, r.DropReason = n-m.Drops, c.DropReason; int32(n-m.Drops) < 0 {
			r.Drops = n
		}
		if c.Refused {
			r.DropReason = policyDrop
		}
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
	b, err := flowwire.Encode(f.now, f.records)
	f.mu.Lock()
	if err == nil {
		b, err = f.spool.add(b)
	}
	if err == nil {
		close(f.arrived)
		f.arrived = make(chan struct{})
	}
	if err != nil {
		f.spool.lost += uint64(len(f.records))
	}
	lost, number := f.spool.lost, f.marks.account.Number
	f.mu.Unlock()
	if err == nil {
		number = b.Number
	}
	f.failed = errors.Join(f.failed, err, f.marks.write(f.touched, f.next, number, lost))
	f.records, f.touched, f.next = f.records[:0], f.touched[:0], f.next[:0]
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
		err = f.marks.ledger.close()
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
