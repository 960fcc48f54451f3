package export

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"weft/controller/flowstore"
	"weft/model"
)

const (
	// page is how many ids are read at a time, which bounds memory and requests.
	page      = 2000
	readIn    = 30 * time.Second
	sendIn    = time.Minute
	retryMax  = time.Minute
	laterMax  = 10 * time.Minute
	alertLate = time.Minute // a receiver that is away for less is no alert
)

// follower takes the flows of the store to one sender.
type follower struct {
	cfg   Config
	deps  Deps
	log   *slog.Logger
	name  string
	where *model.Selector
	all   bool // reports of both ends
	to    sender
	cursor

	mu     sync.Mutex
	status Status
	oldest time.Time // when the first flow was reported that is being sent; zero: all are sent
}

// Status is what an exporter has done since the controller started.
type Status struct {
	Sent     uint64
	Gone     uint64 // flows that the store forgot before they were sent, at most
	Refused  uint64 // flows that the receiver says it will never take
	Failures uint64 // attempts that failed
	Behind   time.Duration
}

func (f *follower) run(ctx context.Context) {
	defer f.to.close()
	old := true // where flows may be forgotten already
	for ctx.Err() == nil {
		last, err := f.deps.Flows.Last()
		if err == nil && !f.placed {
			f.begin(ctx)
		}
		if err != nil || f.after >= last {
			f.level()
			old = old && err != nil // nothing is known yet of a database that is away
			sleep(ctx, f.cfg.Poll)
			continue
		}
		f.insist(ctx, "read flows", func() error {
			if old {
				return f.skip(ctx)
			}
			return nil
		})
		var flows []flowstore.Flow
		upto := f.after
		f.insist(ctx, "read flows", func() (err error) {
			ctx, cancel := context.WithTimeout(ctx, readIn)
			defer cancel()
			flows, upto, err = f.deps.Flows.Follow(ctx, flowstore.Query{Where: f.where}, f.after, page)
			return err
		})
		if !f.all {
			flows = slices.DeleteFunc(flows, func(x flowstore.Flow) bool { return !x.Counted })
		}
		if len(flows) > 0 {
			old = time.Since(flows[0].Time) > f.deps.Keep/2
		}
		f.send(ctx, flows)
		if ctx.Err() == nil {
			f.move(ctx, upto)
		}
	}
}

// begin finds its place in a database that was away when the exporter was made: what
// has been kept since is what comes.
func (f *follower) begin(ctx context.Context) {
	f.insist(ctx, "keep how far an export is", func() error {
		last, err := f.deps.Flows.Began()
		if err != nil {
			return err
		}
		return f.place(last)
	})
}

// skip goes over what the store has forgotten, and counts it.
func (f *follower) skip(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readIn)
	defer cancel()
	gone, next, err := f.deps.Flows.Forgotten(ctx, f.after)
	if err != nil {
		return err
	}
	f.after = next
	if gone > 0 {
		f.mu.Lock()
		f.status.Gone += gone
		f.mu.Unlock()
		f.log.Error("flows were forgotten before they were exported; --flows-keep says how long they wait", "atMost", gone)
	}
	return nil
}

// send hands all flows to the receiver, or ctx ends.
func (f *follower) send(ctx context.Context, flows []flowstore.Flow) {
	for len(flows) > 0 && ctx.Err() == nil {
		f.mu.Lock()
		f.oldest = flows[0].Time
		f.mu.Unlock()
		f.insist(ctx, "export flows", func() error {
			within, cancel := context.WithTimeout(ctx, sendIn)
			defer cancel()
			n, err := f.to.send(within, flows)
			f.mu.Lock()
			f.status.Sent += uint64(n)
			if r, ok := f.to.(refuser); ok {
				f.status.Sent -= r.refusals() - f.status.Refused
				f.status.Refused = r.refusals()
			}
			f.mu.Unlock()
			if n > 0 {
				if flows = flows[n:]; len(flows) > 0 && err != nil && f.cursor.move(flows[0].ID-1) != nil {
					return err // at the page's end it is said
				}
			}
			return err
		})
	}
}

// move says that all up to an id is sent, and keeps that.
func (f *follower) move(ctx context.Context, upto uint64) {
	f.insist(ctx, "keep how far an export is", func() error { return f.cursor.move(upto) })
}

// level says that there is nothing more to send.
func (f *follower) level() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.oldest = time.Time{}
}

// insist tries until it works, or ctx ends.
func (f *follower) insist(ctx context.Context, what string, try func() error) {
	var began time.Time
	alerted := false
	for pause := f.cfg.Retry; ctx.Err() == nil; pause = min(2*pause, retryMax) {
		err := try()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		f.mu.Lock()
		f.status.Failures++
		f.mu.Unlock()
		if began.IsZero() {
			began = time.Now()
			f.log.Warn(what+"; trying again", "error", err)
		}
		wait := pause
		if l := (later{}); errors.As(err, &l) {
			wait = min(max(l.in, pause), laterMax)
		}
		if time.Since(began) >= alertLate || wait >= alertLate {
			alerted = true
			f.deps.Alert(f.name, began, fmt.Sprintf("exporter %s does not get flows out: %v; they wait in the store for %s from when they were reported", f.name, err, f.deps.Keep))
		}
		sleep(ctx, wait)
	}
	if !began.IsZero() && ctx.Err() == nil {
		f.log.Info(what+": works again", "after", time.Since(began).Round(time.Second))
	}
	if alerted {
		f.deps.Alert(f.name, began, "")
	}
}

// state returns what was done.
func (f *follower) state() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.status
	if !f.oldest.IsZero() {
		s.Behind = max(time.Since(f.oldest), 0)
	}
	return s
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
