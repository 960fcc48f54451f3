package flowstore

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"weft/wire"
	"weft/wire/flowwire"
	"weft/wire/wirepb"
)

// Ingest takes batches from sessions, and keeps many of them at a time.
type Ingest struct {
	store *Store
	ends  ends
	log   *slog.Logger

	mu      sync.Mutex
	waiting []arrived
	wake    chan struct{} // holds one
}

// arrived is a batch and who waits to hear that it is kept.
type arrived struct {
	Batch
	kept func(*wirepb.FlowAck)
}

// NewIngest makes an inert Ingest.
func NewIngest(s *Store, inventory Inventory, log *slog.Logger) *Ingest {
	return &Ingest{store: s, ends: ends{inventory: inventory}, log: log, wake: make(chan struct{}, 1)}
}

// Take takes a batch of a host's; kept is called when it, and all that host has
// sent before it, is kept. It must not block. How many batches a host may have
// under way is for the caller to bound. An error is the batch's fault.
func (i *Ingest) Take(id wire.Identity, b *wirepb.FlowBatch, kept func(*wirepb.FlowAck)) error {
	if b.GetEpoch() == 0 || b.GetNumber() == 0 {
		return fmt.Errorf("a batch of flows without a number")
	}
	out := arrived{Batch: Batch{HostUID: id.UID, Epoch: b.Epoch, Number: b.Number, Lost: b.Lost}, kept: kept}
	if !i.store.Has(id.UID, b.Epoch, b.Number) {
		records, err := flowwire.Decode(b)
		if err != nil {
			return fmt.Errorf("batch of flows %d: %w", b.Number, err)
		}
		// A clock that is ahead must not put flows into the future.
		reported, ahead := time.Unix(0, b.UnixNanos), time.Duration(0)
		if now := time.Now(); reported.After(now) {
			ahead, reported = reported.Sub(now), now
		}
		from := i.ends.of(id.Name, id.UID, records)
		out.Flows = make([]Flow, len(records))
		for n := range records {
			r := &records[n]
			r.First, r.Last = r.First.Add(-ahead), r.Last.Add(-ahead)
			out.Flows[n] = from.flow(r, reported)
		}
	}
	i.mu.Lock()
	i.waiting = append(i.waiting, out)
	i.mu.Unlock()
	select {
	case i.wake <- struct{}{}:
	default:
	}
	return nil
}

const (
	// together is how many flows one transaction keeps, more or less.
	together  = 200_000
	retryMin  = time.Second
	retryMax  = 30 * time.Second
	pruneEach = time.Hour
)

// Run keeps what is taken until ctx ends. What is not kept by then was never
// acknowledged, and comes again.
func (i *Ingest) Run(ctx context.Context, ready func()) error {
	ready()
	prune := time.NewTicker(pruneEach)
	defer prune.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-prune.C:
			if err := i.store.Prune(ctx, time.Now()); err != nil && ctx.Err() == nil {
				i.log.Warn("forget old flows", "error", err)
			}
		case <-i.wake:
			for list := i.next(); len(list) > 0 && ctx.Err() == nil; list = i.next() {
				i.keep(ctx, list)
			}
		}
	}
}

// next takes out what one transaction keeps.
func (i *Ingest) next() []arrived {
	i.mu.Lock()
	defer i.mu.Unlock()
	n, flows := 0, 0
	for n < len(i.waiting) && flows < together {
		flows += len(i.waiting[n].Flows)
		n++
	}
	out := i.waiting[:n:n]
	i.waiting = i.waiting[n:]
	return out
}

// keep tries until it has kept the batches, or ctx ends. Meanwhile agents, who
// are told of nothing, keep what comes next on their disks.
func (i *Ingest) keep(ctx context.Context, list []arrived) {
	batches := make([]Batch, len(list))
	for n := range list {
		batches[n] = list[n].Batch
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
		list[n].kept(&wirepb.FlowAck{Epoch: list[n].Epoch, Number: list[n].Number})
	}
}
