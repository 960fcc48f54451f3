// Package captures holds who captures what on which hosts, and writes what these
// send into one pcapng, in the order of time.
package captures

import (
	"errors"
	"slices"
	"sync"
	"time"

	"weft/controller/orders"
	"weft/model"
	"weft/wire"
	"weft/wire/tapstream"
	"weft/wire/wirepb"
)

// Limits of what goes through a controller.
const (
	maxRunning = 8
	MaxHosts   = 64
	window     = 16 << 20 // bytes under way of a capture, by all its hosts
	leastShare = 512 << 10
	keepEnded  = 16
)

// Target is a host and what is captured there.
type Target struct {
	UID, Host string
	Line      *wirepb.CaptureLine
	Workloads map[string]*model.Workload // by id on the host
}

// Spec is what somebody asks for.
type Spec struct {
	Targets        []Target
	For            time.Duration // 0: only what rings have kept
	Past, Until    time.Duration // what they have kept since so long ago, until so long ago
	Ring           string        // the line of the only ring that is read; empty is every ring
	Packets, Bytes uint64        // of the file; each host keeps them too
	Rate           uint64        // bits a second, all hosts together
}

// Captures is safe for concurrent use.
type Captures struct {
	now func() time.Time

	mu    sync.Mutex
	next  uint64
	byID  map[uint64]*Capture
	ended []*Capture        // the last few
	hosts map[string]*sheet // by UID
}

// sheet is what a host's session is to say.
type sheet struct {
	orders.Sheet[*wirepb.CaptureOrder]
	acks map[uint64]uint64
}

// New makes one in which nobody captures.
func New() *Captures {
	// IDs begin at the time, so that those of a controller that was restarted are others.
	return &Captures{now: time.Now, next: uint64(time.Now().UnixNano()), byID: map[uint64]*Capture{}, hosts: map[string]*sheet{}}
}

func (c *Captures) host(uid string) *sheet {
	h := c.hosts[uid]
	if h == nil {
		h = &sheet{orders.New[*wirepb.CaptureOrder](), map[uint64]uint64{}}
		c.hosts[uid] = h
	}
	return h
}

// ErrBusy is of one capture too many.
var ErrBusy = errors.New("8 captures are running, which is the limit; wait for one to end")

// Start orders a capture of its hosts. The caller runs it.
func (c *Captures) Start(spec Spec) (*Capture, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.byID) >= maxRunning {
		return nil, ErrBusy
	}
	c.next++
	n := uint64(len(spec.Targets))
	x := &Capture{ID: c.next, spec: spec, all: c, wake: make(chan struct{}, 1), began: c.now(), sources: map[string]*source{}, left: room{spec.Packets, spec.Bytes}, window: max(window/n, leastShare)}
	c.byID[x.ID] = x
	for _, t := range spec.Targets {
		x.sources[t.UID] = newSource(t, x.began)
		c.host(t.UID).Put(x.ID, &wirepb.CaptureOrder{Id: x.ID, SentUnixNanos: x.began.UnixNano(), Line: t.Line, ForMillis: uint64(spec.For.Milliseconds()),
			Packets: spec.Packets, Bytes: spec.Bytes, Rate: max(spec.Rate/n, 1), Window: x.window,
			PastMillis: uint64(spec.Past.Milliseconds()), PastUntilMillis: uint64(spec.Until.Milliseconds()), Ring: spec.Ring})
	}
	return x, nil
}

// Stop tells the hosts to end a capture; what they have still comes.
func (c *Captures) Stop(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.byID[id]
	if x == nil {
		return false
	}
	for uid := range x.sources {
		c.host(uid).Drop(id)
	}
	return true
}

func (c *Captures) forget(x *Capture) {
	c.Stop(x.ID)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byID, x.ID)
	if c.ended = append(c.ended, x); len(c.ended) > keepEnded {
		c.ended = slices.Delete(c.ended, 0, 1)
	}
	for uid := range x.sources {
		delete(c.host(uid).acks, x.ID)
	}
}

// Get is a capture that runs, or one of the last that did; nil of others.
func (c *Captures) Get(id uint64) *Capture {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.IndexFunc(c.ended, func(x *Capture) bool { return x.ID == id }); i >= 0 {
		return c.ended[i]
	}
	return c.byID[id]
}

// Wanted is what a host's session is to say: orders, where their version is not the
// one it knows, and acknowledgements. The channel is closed when there is more.
func (c *Captures) Wanted(uid string, known uint64) (o *wirepb.CaptureOrders, version uint64, acks []*wirepb.CaptureAck, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.host(uid)
	list, fresh, version, changed := h.Wanted(known)
	if fresh {
		o = &wirepb.CaptureOrders{Orders: list}
	}
	for id, bytes := range h.acks {
		acks = append(acks, &wirepb.CaptureAck{Id: id, Bytes: bytes})
	}
	clear(h.acks)
	return o, version, acks, changed
}

// Take is handed what a host sends. It never waits: a host that sends more than it
// may takes part no more.
func (c *Captures) Take(id wire.Identity, p *wirepb.CapturePiece) {
	c.mu.Lock()
	x := c.byID[p.GetId()]
	c.mu.Unlock()
	if x != nil { // else it is over
		x.take(id.UID, p, c.now())
	}
}

func (c *Captures) acknowledge(uid string, id, bytes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.host(uid)
	h.acks[id] = bytes
	h.Call()
}

func (x *Capture) take(uid string, p *wirepb.CapturePiece, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.sources[uid]
	if s == nil || s.ended {
		return
	}
	if s.came += uint64(len(p.Batch)); s.came > s.released+x.window+tapstream.MaxRaw || len(x.came) >= maxWaiting {
		p = &wirepb.CapturePiece{Ended: true, Message: "the host sent more than it was allowed to"}
	}
	s.heard, s.ended = now, p.Ended
	if s.said > 0 && word(p) {
		x.came[s.said-1].piece = p // the later word goes over the earlier one: they do not gather while nobody reads
		return
	}
	x.came = append(x.came, arrival{s, p, now})
	s.said = 0
	if s.spoke && word(p) {
		s.said = len(x.came)
	}
	s.spoke = true
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// Cancel forgets a capture that is not run.
func (x *Capture) Cancel() { x.all.forget(x) }
