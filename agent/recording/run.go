package recording

import (
	"bytes"
	"cmp"
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"weft/model"
	"weft/wire"
	"weft/wire/tapstream"
	"weft/wire/wirepb"
)

const (
	// sayEvery is how often a recording says how far it is.
	sayEvery = 250 * time.Millisecond
	// quietFor is how long after its end nothing has to come for it to be over, and
	// drainFor how long it is waited for in any case.
	quietFor = 300 * time.Millisecond
	drainFor = 5 * time.Second
)

// recording is one order. Its goroutine is run; the line's stream hands it batches.
type recording struct {
	end
	owners
	all      *Recordings
	order    *wirepb.CaptureOrder
	line     *wirepb.CaptureLine
	received time.Time
	off      bool
	ctx      context.Context
	cancel   context.CancelFunc
	batches  chan []byte   // of the stream
	room     chan struct{} // holds one: there is some
	over     chan string   // holds one: why it is to end
	past     *past

	mu    sync.Mutex
	acked uint64
	names []*wirepb.CaptureName // to be told

	// Of run.
	decoder tapstream.Decoder
	encoder tapstream.Encoder
	left    room
	cut     int64  // by the machine's clock: of before, rings tell
	sent    uint64 // bytes of records
	through int64  // nothing earlier follows what was taken
	before  int64  // nor, than this, what was sent
	ending  time.Time
	why     string
	heard   time.Time // the last batch came
	pace    time.Time // from which the next may go
	ledger  *wirepb.Ledger
}

func newRecording(r *Recordings, o *wirepb.CaptureOrder, received time.Time) *recording {
	x := &recording{all: r, order: o, received: received, off: r.cfg.Off, batches: make(chan []byte), room: make(chan struct{}, 1), over: make(chan string, 1)}
	x.owners.all = &r.asked
	x.reset()
	x.end = end{named: x.name, take: x.took, log: r.deps.Log.With("capture", o.GetId())}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	x.line = proto.CloneOf(o.GetLine())
	if x.line == nil {
		x.line = &wirepb.CaptureLine{}
	}
	id := lineID(o.GetId())
	x.line.Line, x.line.Tap, x.line.Tool = id, id, &wirepb.Peer{Name: "controller"}
	x.left.packets, x.left.bytes = o.GetPackets(), o.GetBytes()
	return x
}

// room is what may still be sent: packets, and bytes of them as kept.
type room struct{ packets, bytes uint64 }

// onlyPast says whether it is to send what rings have kept, and nothing more.
func (x *recording) onlyPast() bool {
	return x.order.GetPastMillis() > 0 && x.order.GetForMillis() == 0
}

// name and took are called by the line's stream.
func (x *recording) name(names []tapstream.Name) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, n := range names {
		x.names = append(x.names, &wirepb.CaptureName{Number: n.Number, Workload: n.ID})
	}
}

func (x *recording) took(ctx context.Context, _ tapstream.Batch, payload []byte) error {
	select {
	case x.batches <- bytes.Clone(payload):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop lets it send what it has until now, and no more.
func (x *recording) stop(why string) {
	select {
	case x.over <- why:
	default:
	}
}

func (x *recording) acknowledge(bytes uint64) {
	x.mu.Lock()
	x.acked = max(x.acked, bytes)
	x.mu.Unlock()
	select {
	case x.room <- struct{}{}:
	default:
	}
}

// may says whether so many more bytes may be under way.
func (x *recording) may(cost int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sent-min(x.acked, x.sent)+uint64(cost) <= min(max(x.order.GetWindow(), tapstream.MaxRaw), maxWindow)
}

func (x *recording) run() {
	defer x.cancel() // and with it the reading of rings
	if x.off {
		x.all.forget(x.order.GetId())
		x.first(&wirepb.CapturePiece{Ended: true, Message: "captures are off on this host: captures: off in its agent.yaml"})
		return
	}
	long := min(time.Duration(x.order.GetForMillis())*time.Millisecond, maxFor)
	if x.onlyPast() {
		long = maxFor
	}
	limit := time.NewTimer(long)
	defer limit.Stop()
	begun := &wirepb.CapturePiece{Past: x.order.GetPastMillis() > 0}
	if !x.onlyPast() {
		if err := x.all.deps.Apply(x.ctx, x.line.Line); err != nil {
			begun.Message = err.Error()
		}
	}
	defer x.remove()
	if err := x.remember(); err != nil {
		begun.Message = err.Error()
	}
	x.heard = time.Now()
	if !x.first(begun) {
		return
	}
	say := time.NewTicker(sayEvery)
	defer say.Stop()
	// What is to be sent: packets, which wait for room, and a word of how far it is,
	// which does not.
	var next, word *wirepb.CapturePiece
	for {
		var in <-chan []byte
		var out chan<- *wirepb.CapturePiece
		var kept <-chan pastPiece
		var wait <-chan time.Time
		send := cmp.Or(word, next)
		switch now := time.Now(); {
		case x.late() || send == nil && x.drained():
			x.finish(next)
			return
		case send == nil && x.inPast():
			kept = x.past.pieces
		case send == nil:
			in = x.batches
		case send == word:
			out = x.all.pieces
		case now.Before(x.pace):
			wait = time.After(x.pace.Sub(now))
		case x.may(len(next.Batch)):
			out = x.all.pieces
		}
		select {
		case <-x.ctx.Done():
			return
		case <-limit.C:
			x.endNow("the time is up")
			if x.onlyPast() {
				x.leavePast()
			}
		case why := <-x.over:
			x.endNow(why)
			x.leavePast()
		case p, ok := <-kept:
			next = x.takePast(p, ok)
		case b := <-in:
			x.heard = time.Now()
			next = x.take(b)
		case out <- send:
			if send == word {
				word = nil
				continue
			}
			x.sent += uint64(len(next.Batch))
			x.paced(len(next.Batch))
			next, x.before = nil, x.through
		case <-x.room:
		case <-wait:
		case <-say.C:
			word = x.word(next != nil)
		}
	}
}

// remember begins to read what rings have kept.
func (x *recording) remember() (err error) {
	if x.order.GetPastMillis() == 0 {
		return nil
	}
	now, millis := x.all.cfg.Now(), func(n uint64) time.Duration { return time.Duration(min(n, maxPast)) * time.Millisecond }
	to := x.received.Add(-millis(x.order.GetPastUntilMillis()))
	if !x.onlyPast() { // what the line brings follows
		to, x.cut = now, now.UnixNano()
	}
	if x.past, err = newPast(x.order, &x.left, x.received.Add(-millis(x.order.GetPastMillis())), to); err != nil {
		x.past.over = true
		x.endNow("")
		return err
	}
	for id, number := range x.past.numbers {
		x.names = append(x.names, &wirepb.CaptureName{Number: number, Workload: id})
	}
	var ctx context.Context
	ctx, x.past.cancel = context.WithCancel(x.ctx)
	go x.past.read(ctx, x.all.kept(x.order.GetRing()), x.all.cfg.Now)
	return nil
}

// maxPast is how many milliseconds back may be asked for.
const maxPast = 366 * 24 * 3600 * 1000

func (x *recording) inPast() bool { return x.past != nil && !x.past.over }

// leavePast ends the reading of rings, though there may be more.
func (x *recording) leavePast() {
	if !x.inPast() {
		return
	}
	x.past.cancel()
	for range x.past.pieces { // until it has ended
	}
	x.takePast(pastPiece{}, false)
}

// takePast makes a piece of what a ring has kept. more is false at the end.
func (x *recording) takePast(p pastPiece, more bool) *wirepb.CapturePiece {
	if !more {
		x.past.cancel()
		x.past.over, x.past.ended = true, time.Now()
		switch {
		case x.left.packets == 0 || x.left.bytes == 0:
			x.limited()
		case x.onlyPast():
			x.endNow(x.past.message)
		}
		return nil
	}
	x.through = max(x.through, p.through)
	if p.batch == nil {
		x.before = x.through
		return nil
	}
	piece := x.piece(p.batch)
	piece.Past, piece.Processes = true, append(piece.Processes, p.processes...)
	return piece
}

// drained says whether all that was captured before the end has been sent, and
// whose it is can be told.
func (x *recording) drained() bool {
	if x.ending.IsZero() || x.inPast() {
		return false
	}
	if x.onlyPast() {
		return true
	}
	now := time.Now()
	quiet := x.left.packets == 0 || x.left.bytes == 0 || now.Sub(x.heard) > quietFor && now.Sub(x.ending) > quietFor
	return quiet && !x.all.known().Before(x.ending)
}

// late says whether it was waited long enough for the rest to go: whoever was to make
// room for it may be gone.
func (x *recording) late() bool {
	if x.ending.IsZero() || x.inPast() {
		return false
	}
	since := x.ending
	if x.past != nil && x.past.ended.After(since) {
		since = x.past.ended
	}
	return time.Since(since) > drainFor
}

func (x *recording) endNow(why string) {
	if x.ending.IsZero() {
		x.ending, x.why = time.Now(), why
	}
}

// paced puts the next off so that the rate holds, over a second or so.
func (x *recording) paced(cost int) {
	rate := x.order.GetRate()
	if rate == 0 || cost == 0 {
		return
	}
	if ago := time.Now().Add(-time.Second); x.pace.Before(ago) {
		x.pace = ago
	}
	x.pace = x.pace.Add(time.Duration(float64(cost) * 8 / float64(rate) * float64(time.Second)))
}

// first sends what the controller learns from how the clocks differ.
func (x *recording) first(p *wirepb.CapturePiece) bool {
	p.Id, p.OrderUnixNanos, p.ReceivedUnixNanos = x.order.GetId(), x.order.GetSentUnixNanos(), x.received.UnixNano()
	p.SentUnixNanos = x.all.cfg.Now().UnixNano()
	return x.send(p)
}

// send waits for the session to take a piece, and not for ever.
func (x *recording) send(p *wirepb.CapturePiece) bool {
	select {
	case x.all.pieces <- p:
		return true
	case <-x.ctx.Done():
	case <-time.After(drainFor):
	}
	return false
}

// piece is the next with all that is to be told. No packet of before its time
// follows, nor whose it is.
func (x *recording) piece(batch []byte) *wirepb.CapturePiece {
	p := &wirepb.CapturePiece{Id: x.order.GetId(), Batch: batch}
	known := x.all.known() // before the processes: those that this says are known are among them
	x.mu.Lock()
	p.Names, x.names = x.names, nil
	x.mu.Unlock()
	p.Processes = x.told()
	p.ThroughUnixNanos = min(x.through, known.UnixNano())
	return p
}

// word is a piece without packets. While packets wait it is sent before them.
func (x *recording) word(waiting bool) *wirepb.CapturePiece {
	if !waiting {
		if !x.inPast() && time.Since(x.heard) > sayEvery {
			x.through = max(x.through, x.all.cfg.Now().Add(-sayEvery).UnixNano())
		}
		x.before = x.through
	}
	p := x.piece(nil)
	p.ThroughUnixNanos = min(p.ThroughUnixNanos, x.before)
	if l := x.all.deps.Ledger(x.line.Line); l != nil {
		x.ledger = l
	}
	p.Ledger, p.Past = x.ledger, x.inPast()
	return p
}

// take makes a piece of a batch, or of as much of it as the limits let through.
func (x *recording) take(payload []byte) *wirepb.CapturePiece {
	b, err := tapstream.ParseBatch(payload)
	if err != nil {
		return nil // our own, and read by serve
	}
	if x.decoder.Open(b) != nil {
		return nil
	}
	before := int64(0)
	if !x.ending.IsZero() {
		before = x.ending.UnixNano() // of the machine's clock, as records are
	}
	x.encoder.Reset()
	var r tapstream.Record
	var last int64
	cut := false
	for {
		ok, err := x.decoder.Next(&r)
		if !ok || err != nil {
			break
		}
		if r.Time <= x.cut {
			cut = true
			continue
		}
		if x.left.packets == 0 || x.left.bytes < uint64(len(r.Data)) || before != 0 && r.Time > before {
			cut = true
			if before == 0 || r.Time <= before {
				x.limited()
				break
			}
			continue
		}
		x.left.packets--
		x.left.bytes -= uint64(len(r.Data))
		last = max(last, r.Time)
		x.encoder.Add(&r)
		x.ask(&r)
	}
	if x.left.packets == 0 || x.left.bytes == 0 {
		x.limited()
	}
	if x.encoder.Len() == 0 {
		return nil
	}
	if cut {
		payload = x.encoder.Seal(nil, b.Sequence)[tapstream.HeaderLen:]
	}
	x.through = max(x.through, last)
	return x.piece(payload)
}

func (x *recording) limited() {
	why := "so many packets as were asked for"
	if x.left.packets > 0 {
		why, x.left.bytes = "so many bytes as were asked for", 0
	}
	x.endNow(why)
}

// finish says goodbye; what was lost is in the last account, and so is what found no
// room until now.
func (x *recording) finish(unsent *wirepb.CapturePiece) {
	p := x.word(unsent != nil)
	if l := p.Ledger; l != nil && x.late() {
		rest := wire.LedgerToModel(l)
		rest.PathDropped, rest.InFlight = rest.PathDropped.Add(rest.InFlight), model.Count{}
		if b, err := tapstream.ParseBatch(unsent.GetBatch()); err == nil {
			rest.PathDropped = rest.PathDropped.Add(model.Count{Packets: uint64(b.Packets), Bytes: b.Bytes})
		}
		p.Ledger = wire.LedgerFromModel(rest)
	}
	p.Ended, p.Message, p.ThroughUnixNanos = true, x.why, x.all.cfg.Now().UnixNano()
	x.remove()
	x.send(p)
}

// remove takes the line away. It may be called twice.
func (x *recording) remove() {
	if !x.all.forget(x.order.GetId()) {
		return
	}
	// Also where the session, and with it the recording, has ended.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := x.all.deps.Apply(ctx, ""); err != nil {
		x.all.deps.Log.Warn("take away a capture", "capture", x.order.GetId(), "error", err)
	}
}
