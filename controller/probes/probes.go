// Package probes holds who probes what from which hosts, and what these say of it. A
// probe lasts for as long as somebody listens to it; the hosts keep its limits by
// themselves, and end it with their session.
package probes

import (
	"errors"
	"sync"
	"time"

	"weft/controller/orders"
	"weft/wire"
	"weft/wire/wirepb"
)

// Limits of what goes through a controller.
const (
	maxRunning = 32
	MaxHosts   = 64
	// beginWithin is how long a host has to say that it has begun, and silentFor how
	// long one may say nothing that has.
	beginWithin = 15 * time.Second
	silentFor   = 30 * time.Second
)

// Target is a host that is to ask. One that has no session takes no part.
type Target struct {
	UID, Host string
	Online    bool
}

// Probes is safe for concurrent use.
type Probes struct {
	now func() time.Time

	mu    sync.Mutex
	next  uint64
	byID  map[uint64]*Probe
	hosts map[string]*sheet // by UID
}

// New makes one in which nobody probes.
func New() *Probes {
	// IDs begin at the time, so that those of a controller that was restarted are others.
	return &Probes{now: time.Now, next: uint64(time.Now().UnixNano()), byID: map[uint64]*Probe{}, hosts: map[string]*sheet{}}
}

// sheet is what a host's session is to say.
type sheet = orders.Sheet[*wirepb.ProbeOrder]

func (p *Probes) host(uid string) *sheet {
	h := p.hosts[uid]
	if h == nil {
		empty := orders.New[*wirepb.ProbeOrder]()
		h = &empty
		p.hosts[uid] = h
	}
	return h
}

// ErrBusy is of one probe too many.
var ErrBusy = errors.New("32 probes are running, which is the limit; wait for one to end")

// Start orders a probe of its hosts. The caller runs it, or cancels it.
func (p *Probes) Start(targets []Target, spec *wirepb.ProbeSpec) (*Probe, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.byID) >= maxRunning {
		return nil, ErrBusy
	}
	p.next++
	x := newProbe(p, p.next, targets, spec)
	p.byID[x.ID] = x
	for _, t := range targets {
		if t.Online {
			p.host(t.UID).Put(x.ID, &wirepb.ProbeOrder{Id: x.ID, Spec: spec})
		}
	}
	return x, nil
}

// withdraw takes an order back; of all hosts where uid is empty. The lock is held.
func (p *Probes) withdraw(x *Probe, uid string) {
	for of := range x.sources {
		if h := p.hosts[of]; h != nil && (uid == "" || uid == of) {
			h.Drop(x.ID)
		}
	}
}

// Wanted is what a host's session is to say, where its version is not the one it
// knows. The channel is closed when there is more.
func (p *Probes) Wanted(uid string, known uint64) (o *wirepb.ProbeOrders, version uint64, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list, fresh, version, changed := p.host(uid).Wanted(known)
	if fresh {
		o = &wirepb.ProbeOrders{Orders: list}
	}
	return o, version, changed
}

// Take is handed what a host says. It never waits.
func (p *Probes) Take(id wire.Identity, m *wirepb.ProbeProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if x := p.byID[m.GetId()]; x != nil && x.take(id.UID, m, p.now()) {
		p.withdraw(x, id.UID)
	}
}

// Gone is told that a host has no session any more: what it was asked for has ended
// with that, and is not asked for again.
func (p *Probes) Gone(id wire.Identity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.byID {
		x.fail(id.UID, "the session with the host broke, and the probe with it")
		p.withdraw(x, id.UID)
	}
	delete(p.hosts, id.UID)
}

func (p *Probes) forget(x *Probe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.withdraw(x, "")
	delete(p.byID, x.ID)
}
