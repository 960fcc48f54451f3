// Package recording sends packets of this machine up the session while somebody
// captures, and keeps packets in rings for those who will. It is the tool's end of
// lines of capture: what taps, filters, slices, queues and counts is the same as for a
// tap, and so are its rules. It keeps the limits of an order by itself: no controller
// has to live for a capture to end.
package recording

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"weft/agent/connection"
	"weft/wire/wirepb"
)

// Prefix of the lines that are recordings; no tap's begins so.
const Prefix = "capture/"

// Limits, whatever a controller asks for.
const (
	maxOrders = 16
	maxFor    = 24 * time.Hour
	maxWindow = 16 << 20
)

// Config of Recordings.
type Config struct {
	// Off refuses every order, and keeps nothing more in rings.
	Off bool
	// Rings is the directory of rings, of which there are none without it.
	Rings string
	// Now is the machine's own clock; time.Now unless given.
	Now func() time.Time
}

// Deps of Recordings.
type Deps struct {
	// Apply makes the kernel tap for the recordings' Lines, beside the taps. It
	// returns what is wrong with each workload of one line.
	Apply func(ctx context.Context, line string) error
	// Ledger is a line's account; nil where there is no such line.
	Ledger func(line string) *wirepb.Ledger
	Log    *slog.Logger
}

// Recordings are all that this machine takes part in.
type Recordings struct {
	cfg    Config
	deps   Deps
	pieces chan *wirepb.CapturePiece
	users  connection.Users // of whoever reads the connection table
	asked  atomic.Int32     // connections of which somebody asks whose they are

	mu   sync.Mutex
	byID map[uint64]*recording
	// By line.
	keepers map[string]*keeper
	ended   map[uint64]bool // and still ordered
	// When the reading of the connection table that is under way began, and when the
	// last whole one did.
	reading, read time.Time
}

// New returns Recordings of nothing.
func New(cfg Config, deps Deps) *Recordings {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	return &Recordings{cfg: cfg, deps: deps, pieces: make(chan *wirepb.CapturePiece), byID: map[uint64]*recording{}, keepers: map[string]*keeper{}, ended: map[uint64]bool{}}
}

// Pieces are for the session to send. Nothing is kept for a session that does not
// take them: the line's queue fills, and sheds, and counts.
func (r *Recordings) Pieces() <-chan *wirepb.CapturePiece { return r.pieces }

// Want begins the recordings that are ordered and ends those that are not any more.
func (r *Recordings) Want(orders *wirepb.CaptureOrders) {
	received := r.cfg.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	wanted := map[uint64]bool{}
	for _, o := range orders.GetOrders() {
		wanted[o.GetId()] = true
		if r.byID[o.GetId()] != nil || r.ended[o.GetId()] || len(wanted) > maxOrders {
			continue
		}
		x := newRecording(r, o, received)
		r.byID[o.GetId()] = x
		go x.run()
	}
	for id, x := range r.byID {
		if !wanted[id] {
			x.stop("")
		}
	}
	for id := range r.ended {
		if !wanted[id] {
			delete(r.ended, id)
		}
	}
}

// HangUp ends every recording at once: there is no session any more to take it.
func (r *Recordings) HangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.byID {
		x.cancel()
	}
	clear(r.ended)
}

// Acknowledge makes room for what follows.
func (r *Recordings) Acknowledge(a *wirepb.CaptureAck) {
	r.mu.Lock()
	x := r.byID[a.GetId()]
	r.mu.Unlock()
	if x != nil {
		x.acknowledge(a.GetBytes())
	}
}

// Lines are those of capture that recordings need.
func (r *Recordings) Lines() []*wirepb.CaptureLine {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*wirepb.CaptureLine
	for _, x := range r.byID {
		if !x.off && !x.onlyPast() {
			out = append(out, x.line)
		}
	}
	return out
}

// Is says whether a line is a recording's.
func Is(line string) bool { return strings.HasPrefix(line, Prefix) }

// Keeps says whether a line's packets are kept here.
func (r *Recordings) Keeps(line string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keepers[line] != nil
}

// Dial opens a stream to a line's recording, or to its ring.
func (r *Recordings) Dial(line string) (*Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.keepers[line]; k != nil {
		return k.dial(k.ctx, "ring"), nil
	}
	id, err := strconv.ParseUint(strings.TrimPrefix(line, Prefix), 10, 64)
	x := r.byID[id]
	if err != nil || x == nil {
		return nil, errors.New("this capture is over")
	}
	return x.dial(x.ctx, "session"), nil
}

// See is shown each line of the connection table, and tells recordings whose the
// connections are that they have packets of.
func (r *Recordings) See(l *connection.Line) {
	if r.asked.Load() == 0 || l.Process.PID == 0 || l.Refused {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.byID {
		x.see(l, &r.users)
	}
	for _, k := range r.keepers {
		k.see(l, &r.users)
	}
}

// Begin and End are told of each reading of the connection table: of packets before
// one began it is known after it whose they are.
func (r *Recordings) Begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reading = r.cfg.Now()
	for _, k := range r.keepers {
		k.begin()
	}
}

// End ends the reading.
func (r *Recordings) End() {
	r.mu.Lock()
	r.read = r.reading
	for _, x := range r.byID {
		x.owners.read()
	}
	r.mu.Unlock()
	for _, k := range r.kept("") {
		k.know()
	}
}

// unread is after how long without a reading none is waited for: there is no table.
const unread = 15 * time.Second

// known is until when it is known whose packets are.
func (r *Recordings) known() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.cfg.Now(); r.read.IsZero() || now.Sub(r.read) > unread {
		return now
	}
	return r.read
}

// forget is called by a recording that ends; false where it has been.
func (r *Recordings) forget(id uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byID[id] == nil {
		return false
	}
	r.byID[id].reset()
	delete(r.byID, id)
	r.ended[id] = true
	return true
}

func lineID(id uint64) string { return fmt.Sprintf("%s%d", Prefix, id) }

// instance is what the lines' accounts know this program by.
var instance = rand.Uint64() | 1
