// Package notify follows the alerts: it keeps a history of when each was raised and
// when it was over, and tells receivers, who may be away for a while.
package notify

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"weft/model"
)

// Config of a Notify. Zero values take the defaults.
type Config struct {
	// File keeps the history; empty keeps it in memory.
	File string
	// Keep is how many changes are kept; 10,000 unless given.
	Keep      int
	Receivers []Receiver
	// Settle is how long after the start an alert of an earlier run that is not
	// there is not over yet: agents come back first. One minute unless given.
	Settle time.Duration
	// Repeat is how often an Alertmanager is sent all alerts; 1 m unless given.
	Repeat time.Duration
	// Retry is the first pause after a failure, which doubles to a minute; 1 s
	// unless given.
	Retry time.Duration
}

// Deps of a Notify.
type Deps struct {
	Alerts  func() []*model.Alert
	Changed func() <-chan struct{} // closed when Alerts may differ
	Log     *slog.Logger
}

// Notify is the component.
type Notify struct {
	cfg     Config
	deps    Deps
	history *history

	mu     sync.Mutex
	active map[string]model.AlertSpec
	before map[string]bool // of them, those of an earlier run that were not seen in this one
	queues []chan Change
	lost   []uint64
}

// Limits on what waits for a receiver that is away: how many changes, and how long
// one is tried.
const (
	maxQueue  = 1000
	tryFor    = time.Hour
	retryMax  = time.Minute
	lookEvery = 10 * time.Second
	gather    = 500 * time.Millisecond
)

// New reads the history.
func New(cfg Config, deps Deps) (*Notify, error) {
	setDefault(&cfg.Settle, time.Minute)
	setDefault(&cfg.Repeat, time.Minute)
	setDefault(&cfg.Retry, time.Second)
	if cfg.Keep == 0 {
		cfg.Keep = 10_000
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	h, err := openHistory(cfg.File, cfg.Keep)
	if err != nil {
		return nil, err
	}
	n := &Notify{cfg: cfg, deps: deps, history: h, active: h.raised(), before: map[string]bool{}, lost: make([]uint64, len(cfg.Receivers))}
	for name := range n.active {
		n.before[name] = true
	}
	for range cfg.Receivers {
		n.queues = append(n.queues, make(chan Change, maxQueue))
	}
	return n, nil
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// History returns changes, the newest first.
func (n *Notify) History(limit int) []Change { return n.history.newest(limit) }

// Run follows the alerts until ctx ends.
func (n *Notify) Run(ctx context.Context, ready func()) error {
	ready()
	var receivers sync.WaitGroup
	defer receivers.Wait()
	for i := range n.cfg.Receivers {
		receivers.Go(func() { n.serve(ctx, i) })
	}
	began := time.Now()
	for ctx.Err() == nil {
		changed := n.deps.Changed()
		n.look(time.Since(began) >= n.cfg.Settle)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			sleep(ctx, gather)
		case <-time.After(min(lookEvery, n.cfg.Settle)):
		}
	}
	return nil
}

// look finds out what has changed. Before the agents are back nothing of an earlier
// run is over.
func (n *Notify) look(settled bool) {
	now, there := time.Now().UTC(), map[string]model.AlertSpec{}
	for _, x := range n.deps.Alerts() {
		there[x.Metadata.Name] = x.Spec
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var changes []Change
	for _, name := range slices.Sorted(maps.Keys(there)) {
		delete(n.before, name)
		if _, known := n.active[name]; !known {
			n.active[name] = there[name]
			changes = append(changes, Change{now, name, Raised, there[name]})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(n.active)) {
		if _, still := there[name]; !still && (settled || !n.before[name]) {
			changes = append(changes, Change{now, name, Cleared, n.active[name]})
			delete(n.active, name)
			delete(n.before, name)
		}
	}
	if len(changes) == 0 {
		return
	}
	if err := n.history.append(changes); err != nil {
		n.deps.Log.Error("keep the history of alerts", "error", err)
	}
	for _, c := range changes {
		for i := range n.queues {
			if !n.cfg.Receivers[i].wants(c.Alert.Severity) {
				continue
			}
			select {
			case n.queues[i] <- c:
			default:
				if n.lost[i]++; n.lost[i] == 1 {
					n.deps.Log.Error("a receiver of alerts has been away for too long; changes are lost to it", "receiver", n.cfg.Receivers[i].Name)
				}
			}
		}
	}
}

// serve tells one receiver.
func (n *Notify) serve(ctx context.Context, i int) {
	r, queue := &n.cfg.Receivers[i], n.queues[i]
	repeat := time.NewTicker(n.cfg.Repeat)
	defer repeat.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-queue:
			if r.Type == "webhook" {
				n.deliver(ctx, r, c)
				continue
			}
			ends := time.Now().Add(n.holds())
			if c.State == Cleared {
				ends = c.Time
			}
			n.deliver(ctx, r, []alertmanagerAlert{alertmanagerOf(c.Alert, ends)})
		case <-repeat.C:
			if r.Type != "alertmanager" {
				continue
			}
			if all := n.firing(r); len(all) > 0 {
				n.deliver(ctx, r, all)
			}
		}
	}
}

// holds is until when an Alertmanager takes an alert for one without hearing of it.
func (n *Notify) holds() time.Duration { return 5 * n.cfg.Repeat }

func (n *Notify) firing(r *Receiver) []alertmanagerAlert {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []alertmanagerAlert
	for _, name := range slices.Sorted(maps.Keys(n.active)) {
		if x := n.active[name]; r.wants(x.Severity) {
			out = append(out, alertmanagerOf(x, time.Now().Add(n.holds())))
		}
	}
	return out
}

// deliver tries until the receiver has it, refuses it, or it is too old.
func (n *Notify) deliver(ctx context.Context, r *Receiver, body any) {
	began, pause := time.Now(), n.cfg.Retry
	for ctx.Err() == nil {
		err := r.send(ctx, body)
		switch {
		case err == nil:
			return
		case ctx.Err() != nil:
			return
		case errors.Is(err, errRefused), time.Since(began) > tryFor:
			n.deps.Log.Error("an alert was not taken and is given up", "receiver", r.Name, "error", err)
			return
		}
		if pause == n.cfg.Retry {
			n.deps.Log.Warn("tell of an alert; trying again", "receiver", r.Name, "error", err)
		}
		sleep(ctx, pause)
		pause = min(2*pause, retryMax)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
