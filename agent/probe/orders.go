package probe

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"weft/model"
	"weft/wire/probewire"
	"weft/wire/wirepb"
)

// sendWithin is how long the end of a probe is offered to a session.
const sendWithin = 5 * time.Second

// Config of Orders and of a Schedule.
type Config struct {
	// Off refuses every probe.
	Off bool
}

// Deps of Orders and of a Schedule.
type Deps struct {
	// Budget is what all probes of an agent share.
	Budget *Budget
	Log    *slog.Logger
}

func (d *Deps) complete() {
	if d.Budget == nil {
		d.Budget = NewBudget()
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
}

const offText = "probes are off on this host: probes: off in its agent.yaml"

// Orders are the probes that somebody runs from this machine, by way of the
// controller. One ends when it is not ordered any more, and with the session.
type Orders struct {
	cfg      Config
	deps     Deps
	progress chan *wirepb.ProbeProgress

	mu    sync.Mutex
	byID  map[uint64]*order
	ended map[uint64]bool // and still ordered
}

// order is one of them.
type order struct {
	id     uint64
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{} // holds one

	mu   sync.Mutex
	next *wirepb.ProbeProgress // the last that there is to say
}

// NewOrders returns none.
func NewOrders(cfg Config, deps Deps) *Orders {
	deps.complete()
	return &Orders{cfg: cfg, deps: deps, progress: make(chan *wirepb.ProbeProgress), byID: map[uint64]*order{}, ended: map[uint64]bool{}}
}

// Progress is for the session to send. What a session does not take is made up for by
// what comes after it.
func (o *Orders) Progress() <-chan *wirepb.ProbeProgress { return o.progress }

// Want begins the probes that are ordered and ends those that are not any more.
func (o *Orders) Want(orders *wirepb.ProbeOrders) {
	o.mu.Lock()
	defer o.mu.Unlock()
	wanted := map[uint64]bool{}
	for _, w := range orders.GetOrders() {
		wanted[w.GetId()] = true
	}
	for id, x := range o.byID {
		if !wanted[id] {
			x.cancel()
			delete(o.byID, id)
		}
	}
	for id := range o.ended {
		if !wanted[id] {
			delete(o.ended, id)
		}
	}
	for _, w := range orders.GetOrders() {
		if id := w.GetId(); o.byID[id] == nil && !o.ended[id] && len(o.byID)+len(o.ended) < 16*model.MaxProbeRuns {
			x := &order{id: id, wake: make(chan struct{}, 1)}
			x.ctx, x.cancel = context.WithCancel(context.Background())
			refusal := o.refusal(w.GetSpec())
			o.byID[id] = x
			go o.run(x, w.GetSpec(), refusal)
		}
	}
}

// HangUp ends every probe at once: there is nobody any more who asked for it.
func (o *Orders) HangUp() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, x := range o.byID {
		x.cancel()
	}
	clear(o.byID)
	clear(o.ended)
}

// refusal says why a probe is not run.
func (o *Orders) refusal(w *wirepb.ProbeSpec) string {
	if o.cfg.Off {
		return offText
	}
	if len(o.byID) >= model.MaxProbeRuns {
		return fmt.Sprintf("%d probes run from this host, which is the limit; wait for one to end", model.MaxProbeRuns)
	}
	s := specOf(w, o.deps.Budget)
	if err := s.CheckAgent(); err != nil {
		return err.Error()
	}
	return ""
}

// specOf reads what a controller says.
func specOf(w *wirepb.ProbeSpec, b *Budget) Spec {
	millis := func(n uint64) time.Duration { return time.Duration(min(n, 1<<40)) * time.Millisecond }
	return Spec{Kind: model.ProbeKind(w.GetKind()), Target: w.GetTarget(), Concurrency: int(w.GetConcurrency()), Count: int(min(w.GetCount(), 1<<40)), Rate: w.GetRate(),
		Timeout: millis(w.GetTimeoutMillis()), Time: millis(w.GetTimeMillis()), Expect: w.GetExpect(), Budget: b}
}

func (o *Orders) run(x *order, w *wirepb.ProbeSpec, refusal string) {
	defer o.end(x)
	over := make(chan struct{})
	go func() {
		defer close(over)
		if refusal != "" {
			x.say(&wirepb.ProbeProgress{Ended: true, Message: refusal})
			return
		}
		o.deps.Log.Info("a probe begins", "probe", x.id, "kind", w.GetKind(), "target", w.GetTarget())
		x.say(&wirepb.ProbeProgress{Result: &wirepb.ProbeResult{}}) // so that it is known to have begun
		r, err := Run(x.ctx, specOf(w, o.deps.Budget), func(r *model.ProbeResult) { x.say(&wirepb.ProbeProgress{Result: probewire.Encode(r)}) })
		if err != nil {
			x.say(&wirepb.ProbeProgress{Ended: true, Message: err.Error()})
			return
		}
		o.deps.Log.Info("a probe ends", "probe", x.id, "asked", r.Asked, "answered", r.OK, "bytes", r.Bytes)
		x.say(&wirepb.ProbeProgress{Result: probewire.Encode(r), Ended: true})
	}()
	// What still asks is stopped before this one is over.
	defer func() { x.cancel(); <-over }()
	x.send(o.progress)
}

// say leaves something in place of what has not been sent yet.
func (x *order) say(p *wirepb.ProbeProgress) {
	p.Id = x.id
	x.mu.Lock()
	x.next = p
	x.mu.Unlock()
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// send hands out what is said until the end has been.
func (x *order) send(out chan<- *wirepb.ProbeProgress) {
	var end <-chan time.Time // by when nobody has taken the end
	for {
		x.mu.Lock()
		p := x.next
		x.mu.Unlock()
		to := out
		if p == nil {
			to = nil
		} else if p.Ended && end == nil {
			end = time.After(sendWithin)
		}
		select {
		case <-x.ctx.Done():
			return
		case <-end:
			return
		case <-x.wake:
		case to <- p:
			x.mu.Lock()
			if x.next == p {
				x.next = nil
			}
			x.mu.Unlock()
			if p.Ended {
				return
			}
		}
	}
}

// end forgets a probe that is over, but that it was.
func (o *Orders) end(x *order) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byID[x.id] == x {
		delete(o.byID, x.id)
		o.ended[x.id] = true
	}
}
