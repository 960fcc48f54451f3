package capture

import (
	"context"
	"sync"
	"time"

	"weft/model"
	"weft/wire/tapstream"
	"weft/wire/wirepb"
)

// The states of a line's stream.
const (
	stateConnecting = "Connecting"
	stateConnected  = "Connected"
	stateError      = "Error"
)

// line is one tap toward one tool. The reader owns the encoder; the stream's
// goroutine takes from the queue; Apply sets the rest.
type line struct {
	id     string
	slot   uint32
	counts counts
	queue  queue
	notify chan struct{} // something to send, or names changed

	// The reader's, under Capture.mu.
	encoder tapstream.Encoder
	since   time.Time // when the encoder got its first record
	out     *[]byte   // the reader's scratch

	mu      sync.Mutex
	peer    *wirepb.Peer
	names   []tapstream.Name
	namings int // grows with names
	orphans model.Count
	settled bool
	status  wirepb.LineStatus
	redial  context.CancelFunc // ends the present connection
	digest  [32]byte
	stop    context.CancelFunc
	done    chan struct{}
}

func newLine(id string, slot uint32, c counts, buffer int, out *[]byte, now time.Time) *line {
	l := &line{id: id, slot: slot, counts: c, notify: make(chan struct{}, 1), out: out}
	l.queue.limit = buffer
	l.orphans = c.outstanding()
	l.settled = l.orphans == model.Count{}
	l.setState(now, stateConnecting, "")
	return l
}

func (l *line) setState(now time.Time, state, message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.status.State != state {
		l.status.Since = now.Unix()
	}
	l.status.State, l.status.Message = state, message
	if state != stateConnected {
		l.status.Path, l.status.Relay, l.status.Remote = "", "", ""
	}
}

func (l *line) ring() {
	select {
	case l.notify <- struct{}{}:
	default:
	}
}

// add puts a record into the open batch, sealing the one before it if need be.
func (l *line) add(r *tapstream.Record, now time.Time) {
	if l.encoder.Add(r) {
		if l.encoder.Len() == 1 {
			l.since = now
		}
		return
	}
	l.seal()
	l.encoder.Add(r)
	l.since = now
}

// seal queues the open batch, or sheds it.
func (l *line) seal() {
	if l.encoder.Len() == 0 {
		return
	}
	packets, bytes := l.encoder.Sums()
	sum := model.Count{Packets: packets, Bytes: bytes}
	sequence := l.counts.nextSequence()
	*l.out = l.encoder.Seal((*l.out)[:0], sequence)
	// Before anybody can send it: a successor must never use the number again.
	l.counts.setNextSequence(sequence + 1)
	if !l.queue.push(sequence, sum, *l.out) {
		l.counts.add(wordShed, sum)
		return
	}
	l.ring()
}

// settle takes the tool's totals at the opening of a connection, and reckons as
// lost what a killed predecessor had taken and the tool never got.
func (l *line) settle(a tapstream.Accept) {
	delivered := model.Count{Packets: a.Totals.DeliveredPackets, Bytes: a.Totals.DeliveredBytes}
	failed := model.Count{Packets: a.Totals.FailedPackets, Bytes: a.Totals.FailedBytes}
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.counts.count(wordDelivered).Add(l.counts.count(wordFailed))
	l.counts.meet(a.Instance, delivered, failed)
	if l.settled {
		return
	}
	credit := below(l.counts.count(wordDelivered).Add(l.counts.count(wordFailed)), before)
	l.counts.add(wordLost, below(l.orphans, credit))
	l.orphans, l.settled = model.Count{}, true
}
