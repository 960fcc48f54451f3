package capture

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"weft/agent/capture/bpf"
	"weft/model"
	"weft/wire/tapstream"
	"weft/wire/wirepb"
)

// memoryRing is a ring in plain memory, filled as the kernel fills its own.
type memoryRing struct {
	*ring
	produced uint64
}

func newMemoryRing(size int) *memoryRing {
	return &memoryRing{ring: &ring{consumer: make([]byte, 8), producer: make([]byte, 8), data: make([]byte, 2*size), mask: uint64(size - 1), epoll: -1}}
}

func (m *memoryRing) put(line uint32, segments uint16, frame []byte, flags uint32) {
	n := bpf.RecordHeader + len(frame)
	off := m.produced & m.mask
	binary.NativeEndian.PutUint32(m.data[off:], uint32(n)|flags)
	b := m.data[off+ringHeader:]
	binary.NativeEndian.PutUint64(b, 12345)
	binary.NativeEndian.PutUint32(b[8:], line)
	binary.NativeEndian.PutUint32(b[20:], uint32(len(frame)))
	binary.NativeEndian.PutUint32(b[24:], uint32(len(frame)))
	binary.NativeEndian.PutUint16(b[30:], segments)
	copy(b[bpf.RecordHeader:], frame)
	m.produced += uint64(ringHeader+n+7) &^ 7
	binary.NativeEndian.PutUint64(m.producer, m.produced)
}

// memoryCapture reads such a ring with one line in slot 3.
func memoryCapture(t testing.TB, size, buffer int) (*Capture, *memoryRing, *reader, *line) {
	t.Helper()
	c, err := New(Config{BPFDir: "none", BufferBytes: buffer}, Deps{Log: slog.New(slog.DiscardHandler),
		Dial: func(context.Context, string, *wirepb.Peer) (Conn, error) { return nil, context.Canceled }})
	if err != nil {
		t.Fatal(err)
	}
	m := newMemoryRing(size)
	c.store = &store{ring: m.ring, user: make([]byte, bpf.MaxLines*256), control: control{make([]byte, 128)}}
	c.reader = &reader{c: c}
	c.store.counts(3).reset(1)
	l := c.admit("l", 3, [32]byte{})
	return c, m, c.reader, l
}

func TestDrainAllocatesNothing(t *testing.T) {
	_, m, r, l := memoryCapture(t, 1<<20, 4<<20)
	frame := make([]byte, 1514)
	fill := func() {
		for range 200 {
			m.put(3, 1, frame, 0)
		}
		for m.consumed() < m.produced {
			r.drain()
		}
		l.seal()
		for b, _, ok := l.queue.take(); ok; b, _, ok = l.queue.take() {
			l.queue.wrote(b.sequence)
			if !l.queue.ack(b.sequence) {
				t.Fatal("ack refused")
			}
		}
	}
	fill()
	if n := testing.AllocsPerRun(100, fill); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestDrainSkipsWhatIsNotALines(t *testing.T) {
	_, m, r, l := memoryCapture(t, 1<<16, 1<<20)
	m.put(3, 2, make([]byte, 100), 0)
	m.put(3, 1, make([]byte, 100), ringDiscard)
	m.put(9, 1, make([]byte, 100), 0)       // no such line any more
	m.put(1<<20, 1, make([]byte, 100), 0)   // no such slot
	m.put(3, 1, make([]byte, 60), 0)        //
	m.put(3, 1, make([]byte, 60), ringBusy) // not finished
	m.put(3, 1, make([]byte, 60), 0)
	r.drain()
	if got := l.counts.count(wordTaken); got != (model.Count{Packets: 3, Bytes: 160}) {
		t.Errorf("taken %+v", got)
	}
	if m.consumed() == m.produced {
		t.Error("a record that is not finished was passed")
	}
}

// Killed between counting a record and moving on: it is read again and counts once.
func TestJournalUndoesHalfARecord(t *testing.T) {
	c, m, r, l := memoryCapture(t, 1<<16, 1<<20)
	m.put(3, 1, make([]byte, 60), 0)
	m.put(3, 5, make([]byte, 60), 0)
	r.drain()
	m.advance(m.consumed() - 112) // as if the second had not been passed
	c.store.control.undo(m.consumed(), c.store)
	if got := l.counts.count(wordTaken); got != (model.Count{Packets: 1, Bytes: 60}) {
		t.Errorf("taken after undo %+v", got)
	}
	r.drain()
	if got := l.counts.count(wordTaken); got != (model.Count{Packets: 6, Bytes: 120}) {
		t.Errorf("taken %+v", got)
	}
	c.store.control.undo(m.consumed(), c.store)
	if got := l.counts.count(wordTaken); got != (model.Count{Packets: 6, Bytes: 120}) {
		t.Errorf("a void journal was used: %+v", got)
	}
}

func TestFullBufferShedsAndIsCounted(t *testing.T) {
	_, m, r, l := memoryCapture(t, 1<<20, 1<<20)
	frame := make([]byte, 1514)
	rng := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		for range 200 {
			for i := 0; i+8 <= len(frame); i += 8 { // nothing to compress
				binary.NativeEndian.PutUint64(frame[i:], rng.Uint64())
			}
			m.put(3, 1, frame, 0)
		}
		for m.consumed() < m.produced {
			r.drain()
		}
	}
	l.seal()
	taken, shed := l.counts.count(wordTaken), l.counts.count(wordShed)
	var queued model.Count
	for _, b := range l.queue.live() {
		queued = queued.Add(b.sum)
	}
	if taken.Packets != 4000 || shed.Packets == 0 || shed.Add(queued) != taken {
		t.Errorf("taken %v, shed %v, queued %v", taken, shed, queued)
	}
}

// Random pushes, sends, acks and reconnections: what is kept is what was pushed
// and not acknowledged, in order, byte for byte.
func TestQueueKeepsWhatIsUnacknowledged(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		q := &queue{limit: 1 << 20}
		type item struct {
			sequence uint64
			fill     byte
			n        int
		}
		var model []item
		next, sent := uint64(1), 0 // sent: items of model this connection has
		for range 2000 {
			switch rng.IntN(6) {
			case 0, 1, 2:
				n := 1 + rng.IntN(100_000)
				msg := make([]byte, n)
				fill := byte(rng.Uint32())
				for i := range msg {
					msg[i] = fill
				}
				if q.push(next, modelCount(1), msg) {
					model = append(model, item{next, fill, n})
				}
				next++
			case 3:
				b, msg, ok := q.take()
				if ok != (sent < len(model)) {
					t.Fatalf("seed %d: take says %v with %d of %d sent", seed, ok, sent, len(model))
				}
				if !ok {
					continue
				}
				want := model[sent]
				if b.sequence != want.sequence || len(msg) != want.n || msg[0] != want.fill || msg[len(msg)-1] != want.fill {
					t.Fatalf("seed %d: got batch %d, want %d", seed, b.sequence, want.sequence)
				}
				q.wrote(b.sequence)
				sent++
			case 4:
				if sent == 0 {
					continue
				}
				k := rng.IntN(sent)
				if !q.ack(model[k].sequence) {
					t.Fatalf("seed %d: ack refused", seed)
				}
				model, sent = model[k+1:], sent-k-1
			case 5:
				if q.ack(next + 5) {
					t.Fatal("an ack of the future was taken")
				}
				last, k := uint64(0), 0
				if len(model) > 0 && rng.IntN(2) == 0 {
					k = rng.IntN(len(model)) + 1
					last = model[k-1].sequence
				}
				q.rewind(last)
				model, sent = model[k:], 0
			}
			if q.empty() != (len(model) == 0) {
				t.Fatalf("seed %d: empty is %v with %d kept", seed, q.empty(), len(model))
			}
		}
	}
}

func modelCount(n uint64) model.Count { return model.Count{Packets: n} }

func TestTotalsOfTheTool(t *testing.T) {
	words := [32]uint64{}
	c := counts{&words}
	c.reset(1)
	n := func(p uint64) model.Count { return model.Count{Packets: p, Bytes: p * 10} }
	c.meet(7, n(0), n(0))
	c.heard(n(5), n(1))
	c.meet(7, n(8), n(1)) // acks were lost, the tool knows better
	if c.count(wordDelivered) != n(8) || c.count(wordFailed) != n(1) {
		t.Errorf("%v", words)
	}
	c.meet(9, n(0), n(0)) // the tool's agent has restarted
	c.heard(n(2), n(0))
	if c.count(wordDelivered) != n(10) || c.count(wordFailed) != n(1) {
		t.Errorf("%v", words)
	}
	c.store(wordInstance, 0) // killed in the midst of meeting
	c.meet(9, n(3), n(0))
	c.heard(n(4), n(0))
	if c.count(wordDelivered) != n(11) {
		t.Errorf("%v", words)
	}
}

func TestOrphansAreLostUnlessTheToolHasThem(t *testing.T) {
	words := [32]uint64{}
	c := counts{&words}
	c.reset(1)
	c.meet(7, model.Count{}, model.Count{})
	c.set(wordTaken, model.Count{Packets: 10, Bytes: 100})
	c.set(wordShed, model.Count{Packets: 1, Bytes: 10})
	l := newLine("l", 0, c, 1<<20, new([]byte), time.Now())
	l.settle(tapstream.Accept{Instance: 7, Totals: tapstream.Totals{DeliveredPackets: 6, DeliveredBytes: 60, FailedPackets: 1, FailedBytes: 10}})
	if got := c.count(wordLost); got != (model.Count{Packets: 2, Bytes: 20}) {
		t.Errorf("lost %v", got)
	}
	if got := c.outstanding(); got != (model.Count{}) {
		t.Errorf("outstanding %v", got)
	}
	l.settle(tapstream.Accept{Instance: 7, Totals: tapstream.Totals{DeliveredPackets: 6, DeliveredBytes: 60, FailedPackets: 1, FailedBytes: 10}})
	if got := c.count(wordLost); got.Packets != 2 {
		t.Errorf("settled twice: %v", got)
	}
}

func TestBadConfigsAreRefused(t *testing.T) {
	deps := Deps{Log: slog.New(slog.DiscardHandler), Dial: func(context.Context, string, *wirepb.Peer) (Conn, error) { return nil, nil }}
	for want, cfg := range map[string]Config{
		"BPF file system": {},
		"power of two":    {BPFDir: "x", RingBytes: 5000},
		"1 MiB at least":  {BPFDir: "x", BufferBytes: 5},
	} {
		if _, err := New(cfg, deps); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func TestDirectoryThatIsNoBPFFS(t *testing.T) {
	dir := t.TempDir()
	if err := checkBPFFS(dir); err == nil || !strings.Contains(err.Error(), "mount -t bpf bpf "+dir) {
		t.Errorf("%v", err)
	}
}

func BenchmarkDrain(b *testing.B) {
	_, m, r, l := memoryCapture(b, 1<<20, 4<<20)
	frame := make([]byte, 1514)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range frame {
		frame[i] = byte(rng.Uint32() % 64)
	}
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m.put(3, 1, frame, 0)
		if i%64 == 63 {
			r.drain()
			for q, _, ok := l.queue.take(); ok; q, _, ok = l.queue.take() {
				l.queue.wrote(q.sequence)
				l.queue.ack(q.sequence)
			}
		}
	}
}
