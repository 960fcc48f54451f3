package flowstore

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"weft/wire"
	"weft/wire/flowwire"
	"weft/wire/wirepb"
)

// Ingest takes batches from sessions, and keeps many of them at a time.
type Ingest struct {
	store *Store
	ends  ends
	log   *slog.Logger
	room  int // bytes that may wait

	mu      sync.Mutex
	waiting []arrived
	bytes   int               // of those that wait, and those that are being kept
	refused map[string]func() // by identity: what tells its session that there is room
	wake    chan struct{}     // holds one
}

// arrived is a batch and who waits to hear that it is kept.
type arrived struct {
	id    wire.Identity
	batch *wirepb.FlowBatch
	at    time.Time
	bytes int
	kept  func(*wirepb.FlowAck)
}

// waitingRoom is how much of all hosts' batches may wait: what comes then stays on
// the disks of agents.
const waitingRoom = 256 << 20

// NewIngest makes an inert Ingest. places may be nil.
func NewIngest(s *Store, inventory Inventory, places Places, log *slog.Logger) *Ingest {
	return &Ingest{store: s, ends: ends{inventory: inventory, places: places}, log: log, room: waitingRoom, refused: map[string]func(){}, wake: make(chan struct{}, 1)}
}

// Take takes a batch of a host's; kept is called when it, and all that host has
// sent before it, is kept. It does not block. An error is the batch's fault. Where
// too much waits already it is not taken, and nothing that the session sends after
// it may be given to Take, for batches are kept in order: again is called once
// there is room, for the host to send all of them again.
func (i *Ingest) Take(id wire.Identity, b *wirepb.FlowBatch, kept func(*wirepb.FlowAck), again func()) (taken bool, err error) {
	if b.GetEpoch() == 0 || b.GetNumber() == 0 {
		return false, fmt.Errorf("a batch of flows without a number")
	}
	in := arrived{id: id, batch: b, at: time.Now(), bytes: memoryOf(b), kept: kept}
	i.mu.Lock()
	if i.bytes > 0 && i.bytes+in.bytes > i.room {
		i.refused[id.String()] = again
		i.mu.Unlock()
		return false, nil
	}
	i.bytes += in.bytes
	i.waiting = append(i.waiting, in)
	i.mu.Unlock()
	i.rouse()
	return true, nil
}

// memoryOf is about what a batch takes: its columns have fixed widths in memory,
// which they have not on the wire.
func memoryOf(b *wirepb.FlowBatch) int { return proto.Size(b) + 200*int(b.GetRecords()) }

// Queue is what waits to be kept.
type Queue struct {
	Batches, Bytes int
	Refused        int           // sessions that were told to wait
	Lag            time.Duration // how long the first has waited
}

// Queue returns what waits.
func (i *Ingest) Queue() Queue {
	i.mu.Lock()
	defer i.mu.Unlock()
	q := Queue{Batches: len(i.waiting), Bytes: i.bytes, Refused: len(i.refused)}
	if len(i.waiting) > 0 {
		q.Lag = time.Since(i.waiting[0].at)
	}
	return q
}

// Counts returns what was kept.
func (i *Ingest) Counts() Counts { return i.store.Counts() }

// Lost returns how many records hosts could not keep.
func (i *Ingest) Lost() uint64 { return i.store.Lost() }

const (
	// together is how many flows one write keeps, where as many wait: a row group of
	// DuckDB, which of so many it writes straight to where they stay. Of fewer it
	// writes a log, and reads them again.
	together  = 122_880
	retryMin  = time.Second
	retryMax  = 30 * time.Second
	rollEach  = 5 * time.Minute
	pruneEach = time.Hour
	// againAtOnce is how many sessions are told at a time that there is room.
	againAtOnce = 16
)

// Run keeps what is taken until ctx ends. What is not kept by then was never
// acknowledged, and comes again.
func (i *Ingest) Run(ctx context.Context, ready func()) error {
	ready()
	roll, prune, invite := time.NewTicker(rollEach), time.NewTicker(pruneEach), time.NewTicker(time.Second)
	defer invite.Stop()
	defer roll.Stop()
	defer prune.Stop()
	try := func(what string, err error) {
		if err != nil && ctx.Err() == nil {
			i.log.Warn(what, "error", err)
		}
	}
	// What is to be done beside keeping flows. A controller that is restarted often
	// gets to it, too.
	summing, forgetting := true, true
	var old time.Time // what was too old then is being forgotten
	for {
		// It is done in parts, between which flows are kept: nothing waits for all of it.
		var beside <-chan time.Time
		if summing || !old.IsZero() {
			beside = time.After(0)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-roll.C:
			summing = true
		case <-prune.C:
			summing, forgetting = true, true
		case <-beside:
			if !summing {
				more, err := i.store.PruneSome(ctx, old)
				if try("forget old flows", err); !more {
					old = time.Time{}
				}
				continue
			}
			now := i.store.now()
			more, err := i.store.RollSome(ctx, forgetting)
			try("sum up flows", err)
			if summing = more && err == nil; !summing && forgetting && err == nil {
				forgetting, old = false, now
			}
		case <-invite.C:
			// A database that was away is there for questions before the first flow.
			if err := i.store.Ready(ctx); err == nil {
				i.invite()
			}
		case <-i.wake:
			if list := i.next(); len(list) > 0 {
				i.keep(ctx, list)
				i.rouse() // for what waits behind them
			}
		}
	}
}

// rouse has Run look at what waits.
func (i *Ingest) rouse() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// next takes out what one write keeps.
func (i *Ingest) next() []arrived {
	i.mu.Lock()
	defer i.mu.Unlock()
	n, flows := 0, 0
	for n < len(i.waiting) && flows < together {
		flows += int(i.waiting[n].batch.Records)
		n++
	}
	out := i.waiting[:n:n]
	i.waiting = i.waiting[n:]
	return out
}

// keep tries until it has kept the batches, or ctx ends. Meanwhile agents, who
// are told of nothing, keep what comes next on their disks.
func (i *Ingest) keep(ctx context.Context, list []arrived) {
	batches := make([]Batch, 0, len(list))
	for n := range list {
		b, err := i.read(&list[n])
		if err != nil {
			// It would come again and again: what cannot be read is lost, and said.
			i.log.Error("flows of a host cannot be read and are lost", "identity", list[n].id.String(), "number", list[n].batch.Number, "error", err)
		}
		batches = append(batches, b)
	}
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		err := i.store.Append(ctx, batches)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		i.log.Error("flows cannot be kept; agents hold them until they can", "error", err, "retry", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
	for n := range list {
		list[n].kept(&wirepb.FlowAck{Epoch: list[n].batch.Epoch, Number: list[n].batch.Number})
	}
	i.mu.Lock()
	for n := range list {
		i.bytes -= list[n].bytes
	}
	i.mu.Unlock()
	i.invite()
}

// invite tells some of those who were refused, where there is room.
func (i *Ingest) invite() {
	i.mu.Lock()
	var list []func()
	if i.bytes <= i.room/2 {
		for id, again := range i.refused {
			if len(list) == againAtOnce {
				break
			}
			list = append(list, again)
			delete(i.refused, id)
		}
	}
	i.mu.Unlock()
	for _, again := range list {
		again()
	}
}

// read decodes a batch; with an error it has no flows.
func (i *Ingest) read(in *arrived) (Batch, error) {
	b := in.batch
	out := Batch{HostUID: in.id.UID, Epoch: b.Epoch, Number: b.Number, Lost: b.Lost}
	if i.store.Has(in.id.UID, b.Epoch, b.Number) {
		return out, nil
	}
	records, err := flowwire.Decode(b)
	if err != nil {
		return out, err
	}
	// A clock that is ahead must not put flows into the future.
	reported, ahead := time.Unix(0, b.UnixNanos), time.Duration(0)
	if reported.After(in.at) {
		ahead, reported = reported.Sub(in.at), in.at
	}
	from := i.ends.of(in.id.Name, in.id.UID, records)
	out.Flows = make([]Flow, len(records))
	for n := range records {
		r := &records[n]
		r.First, r.Last = r.First.Add(-ahead), r.Last.Add(-ahead)
		out.Flows[n] = from.flow(r, reported)
	}
	return out, nil
}
