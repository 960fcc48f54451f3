package recording

import (
	"bufio"
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"weft/agent/connection"
	"weft/wire/tapstream"
	"weft/wire/wirepb"
)

var udp = []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0, 53, 0x12, 0x34, 0, 8, 0, 0}

// source is the line's end of a stream, as agent/capture has it.
type source struct {
	t    *testing.T
	conn net.Conn
	in   *tapstream.Reader
	next uint64
}

func open(t *testing.T, r *Recordings, line string) *source {
	t.Helper()
	conn, err := r.Dial(line)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s := &source{t: t, conn: conn, in: tapstream.NewReader(bufio.NewReader(conn)), next: 1}
	if _, err := conn.Write(tapstream.Hello{Min: 1, Max: 1, Line: line, Epoch: 1, Next: 1}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	if kind, _, err := s.in.Next(); kind != tapstream.TypeAccept || err != nil {
		t.Fatalf("the answer is %d, %v", kind, err)
	}
	return s
}

// sends sends a batch of so many packets and waits for the acknowledgement.
func (s *source) sends(packets int) { s.sendsOf(packets, udp) }

func (s *source) sendsOf(packets int, data []byte) {
	var e tapstream.Encoder
	for range packets {
		e.Add(&tapstream.Record{Time: time.Now().UnixNano(), Length: uint32(len(data)), Workload: 1, Segments: 1, Flags: tapstream.FlagEgress, Data: data})
	}
	if _, err := s.conn.Write(e.Seal(nil, s.next)); err != nil {
		return // it has ended
	}
	s.next++
	s.in.Next() //nolint:errcheck // as above
}

// recordings that tap nothing, and what they applied.
func begin(t *testing.T, cfg Config, o *wirepb.CaptureOrder) (*Recordings, func() int) {
	t.Helper()
	var mu sync.Mutex
	lines := 0
	var r *Recordings
	r = New(cfg, Deps{Ledger: func(string) *wirepb.Ledger { return &wirepb.Ledger{Shed: &wirepb.Count{Packets: 1}} },
		Apply: func(context.Context, string) error {
			n := len(r.Lines())
			mu.Lock()
			defer mu.Unlock()
			lines = n
			return nil
		}})
	t.Cleanup(r.HangUp)
	r.Want(&wirepb.CaptureOrders{Orders: []*wirepb.CaptureOrder{o}})
	return r, func() int { mu.Lock(); defer mu.Unlock(); return lines }
}

// until takes pieces to the one that ends, and counts records.
func until(t *testing.T, r *Recordings, seen func(*wirepb.CapturePiece)) (records int, last *wirepb.CapturePiece) {
	t.Helper()
	for p := range r.Pieces() {
		if b, err := tapstream.ParseBatch(p.Batch); err == nil {
			records += int(b.Records)
			r.Acknowledge(&wirepb.CaptureAck{Id: p.Id, Bytes: 1 << 40})
		}
		if seen != nil {
			seen(p)
		}
		if p.Ended {
			return records, p
		}
	}
	return records, nil
}

func order() *wirepb.CaptureOrder {
	return &wirepb.CaptureOrder{Id: 7, SentUnixNanos: 1, Line: &wirepb.CaptureLine{Workloads: []string{"host"}}, ForMillis: 60_000, Packets: 1000, Bytes: 1 << 20, Window: 1 << 20}
}

func TestPacketsEndARecording(t *testing.T) {
	t.Parallel()
	o := order()
	o.Packets = 25
	r, lines := begin(t, Config{}, o)
	if p := <-r.Pieces(); p.OrderUnixNanos != 1 || p.ReceivedUnixNanos == 0 || lines() != 1 {
		t.Fatalf("the first piece is %v, of %d lines", p, lines())
	}
	s := open(t, r, "capture/7")
	go func() {
		for range 5 {
			s.sends(10)
		}
	}()
	records, last := until(t, r, nil)
	if records != 25 || last.Message != "so many packets as were asked for" || last.Ledger.GetShed().GetPackets() != 1 {
		t.Errorf("%d records, then %v", records, last)
	}
	if lines() != 0 {
		t.Error("the line is still there")
	}
	r.Want(&wirepb.CaptureOrders{Orders: []*wirepb.CaptureOrder{o}}) // the controller has not heard yet
	if len(r.Lines()) != 0 {
		t.Error("it began again")
	}
}

func TestTimeEndsARecording(t *testing.T) {
	t.Parallel()
	o := order()
	o.ForMillis = 1
	r, lines := begin(t, Config{}, o)
	if _, last := until(t, r, nil); last.Message != "the time is up" || lines() != 0 {
		t.Errorf("the end is %v, of %d lines", last, lines())
	}
}

func TestOffRefuses(t *testing.T) {
	r, lines := begin(t, Config{Off: true}, order())
	if _, last := until(t, r, nil); last.Message == "" || lines() != 0 {
		t.Errorf("the end is %v, of %d lines", last, lines())
	}
}

// Whose a connection is, is told of those that packets came of, once.
func TestProcessIsTold(t *testing.T) {
	t.Parallel()
	r, _ := begin(t, Config{}, order())
	<-r.Pieces()
	s := open(t, r, "capture/7")
	go s.sends(1)
	l := &connection.Line{Key: connection.Key{Local: netip.MustParseAddrPort("192.0.2.1:53"), Remote: netip.MustParseAddrPort("192.0.2.2:4660"), Protocol: 17}, Process: connection.Process{PID: 9, Exe: "/bin/x"}}
	other := *l
	other.Local = netip.MustParseAddrPort("192.0.2.1:54")
	told := 0
	until(t, r, func(p *wirepb.CapturePiece) {
		if p.Batch != nil {
			r.See(l)
			r.See(l)
			r.See(&other)
		}
		if told += len(p.Processes); told > 0 {
			r.Want(&wirepb.CaptureOrders{})
		}
	})
	if told != 1 {
		t.Errorf("%d processes are told", told)
	}
}

// Whoever captured is gone and makes no room any more: the recording ends all the
// same, and counts what it could not send.
func TestEndsWithoutRoom(t *testing.T) {
	t.Parallel()
	o := order()
	o.Window, o.Packets, o.Bytes = 0, 1<<30, 1<<40 // the least window: one batch
	r, lines := begin(t, Config{}, o)
	<-r.Pieces()
	s := open(t, r, "capture/7")
	sent := make(chan struct{})
	noise := make([]byte, 100_000)
	rand.NewChaCha8([32]byte{}).Read(noise) //nolint:errcheck // it has no end
	go func() {
		defer close(sent)
		for range 100 {
			s.sendsOf(1, noise)
		}
	}()
	under, words := 0, 0
	for p := range r.Pieces() {
		if under += len(p.Batch); p.Batch == nil && under > 0 {
			if words++; words == 3 { // they go on while packets wait
				r.Want(&wirepb.CaptureOrders{})
			}
		}
		if p.Ended {
			if p.Ledger.GetPathDropped().GetPackets() == 0 || under == 0 || under > tapstream.MaxRaw {
				t.Errorf("the last is %v after %d bytes", p, under)
			}
			break
		}
	}
	<-sent
	if lines() != 0 {
		t.Error("the line is still there")
	}
}

// Where nobody takes what it sends, it holds one batch and the line's queue the rest.
func TestSlowReaderHoldsUpTheLine(t *testing.T) {
	t.Parallel()
	o := order()
	o.Window = 0 // the least: one batch
	r, _ := begin(t, Config{}, o)
	<-r.Pieces()
	s := open(t, r, "capture/7")
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range 100 {
			s.sends(1)
		}
	}()
	select {
	case <-sent:
		t.Error("a hundred batches went where nobody reads")
	case <-time.After(200 * time.Millisecond):
	}
	r.HangUp()
	<-sent
}
