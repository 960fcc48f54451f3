package recording

import (
	"context"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"weft/agent/connection"
	"weft/internal/testreq"
	"weft/wire/tapstream"
	"weft/wire/wirepb"
)

// keeping is Recordings with a ring for the line "tap/".
func keeping(t *testing.T, dir string) *Recordings {
	t.Helper()
	r := New(Config{Rings: dir}, Deps{Ledger: func(string) *wirepb.Ledger { return nil }, Apply: func(context.Context, string) error { return nil }})
	keep(t, r)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx, func() {}) }() //nolint:errcheck // it has none
	t.Cleanup(func() { r.HangUp(); cancel(); <-done })
	return r
}

func keep(t *testing.T, r *Recordings) {
	t.Helper()
	if err := r.Keep(&wirepb.CaptureSection{Lines: []*wirepb.CaptureLine{{Line: "tap/"}}, Rings: []*wirepb.Ring{{Line: "tap/", Tap: "tap", Bytes: 32 << 20, Seconds: 3600}}}); err != nil {
		t.Fatal(err)
	}
}

// brings hands packets at these times to the ring.
func (s *source) brings(times ...time.Time) {
	s.t.Helper()
	var e tapstream.Encoder
	for _, at := range times {
		e.Add(&tapstream.Record{Time: at.UnixNano(), Length: uint32(len(udp)), Workload: 1, Segments: 1, Flags: tapstream.FlagEgress, Data: udp})
	}
	if _, err := s.conn.Write(e.Seal(nil, s.next)); err != nil {
		s.t.Fatal(err)
	}
	s.next++
	if kind, payload, err := s.in.Next(); err != nil || kind != tapstream.TypeAck {
		s.t.Fatal(kind, err)
	} else if ack, err := tapstream.ParseAck(payload); err != nil || ack.Totals.FailedPackets != 0 {
		s.t.Fatalf("%+v, %v", ack, err)
	}
}

func openRing(t *testing.T, r *Recordings) *source {
	t.Helper()
	s := open(t, r, "tap/")
	if _, err := s.conn.Write(tapstream.AppendNames(nil, []tapstream.Name{{Number: 1, ID: "web"}, {Number: 2, ID: "other"}})); err != nil {
		t.Fatal(err)
	}
	return s
}

func pastOrder(since time.Duration) *wirepb.CaptureOrder {
	o := order()
	o.ForMillis, o.PastMillis, o.Line.Workloads = 0, uint64(since.Milliseconds()), []string{"web"}
	o.PastUntilMillis = uint64((settled + time.Second).Milliseconds()) // nothing has to be waited for
	return o
}

// asked takes all that an order brings.
func asked(t *testing.T, r *Recordings, o *wirepb.CaptureOrder) (times []int64, processes int, last *wirepb.CapturePiece) {
	t.Helper()
	r.Want(&wirepb.CaptureOrders{Orders: []*wirepb.CaptureOrder{o}})
	defer r.Want(&wirepb.CaptureOrders{})
	names := map[uint32]string{}
	through := int64(0)
	_, last = until(t, r, func(p *wirepb.CapturePiece) {
		for _, n := range p.Names {
			names[n.Number] = n.Workload
		}
		processes += len(p.Processes)
		if b, err := tapstream.ParseBatch(p.Batch); err == nil {
			var d tapstream.Decoder
			if err := d.Open(b); err != nil {
				t.Fatal(err)
			}
			var rec tapstream.Record
			for ok, err := d.Next(&rec); ok || err != nil; ok, err = d.Next(&rec) {
				if err != nil {
					t.Fatal(err)
				}
				if names[rec.Workload] != "web" {
					t.Errorf("a packet is of %q", names[rec.Workload])
				}
				if rec.Time < through {
					t.Errorf("a packet of %d comes after it was said that none before %d would", rec.Time, through)
				}
				times = append(times, rec.Time)
			}
		}
		through = max(through, p.ThroughUnixNanos)
	})
	return times, processes, last
}

// What was kept comes in order, of the time that is asked for, with whose it was,
// also after the agent was killed in the middle of a write.
func TestThePastComes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := keeping(t, dir)
	s := openRing(t, r)
	now := time.Now()
	s.brings(now.Add(-10*time.Minute), now.Add(-9*time.Minute-59*time.Second))
	s.brings(now.Add(-time.Minute), now.Add(-59*time.Second))
	r.Begin()
	r.Begin() // it is told in the second
	r.See(&connection.Line{Key: connection.Key{Local: netip.MustParseAddrPort("192.0.2.1:53"), Remote: netip.MustParseAddrPort("192.0.2.2:4660"), Protocol: 17}, Process: connection.Process{PID: 9, Exe: "/bin/x"}})
	r.End()
	times, processes, last := asked(t, r, pastOrder(5*time.Minute))
	if len(times) != 2 || times[0] != now.Add(-time.Minute).UnixNano() || processes != 1 {
		t.Errorf("came %v, %d processes, then %v", times, processes, last)
	}
	if last.Message != "" || last.Past {
		t.Errorf("the end is %v", last)
	}
	if times, _, last = asked(t, r, pastOrder(time.Hour)); len(times) != 4 || !strings.Contains(last.Message, "reaches back to") {
		t.Errorf("came %v, then %v", times, last)
	}
	o := pastOrder(time.Hour)
	o.PastUntilMillis = uint64((5 * time.Minute).Milliseconds())
	if times, _, _ = asked(t, r, o); len(times) != 2 || times[0] != now.Add(-10*time.Minute).UnixNano() {
		t.Errorf("came %v of before five minutes ago", times)
	}
	o = pastOrder(time.Hour)
	o.Packets = 3
	if times, _, last = asked(t, r, o); len(times) != 3 || last.Message != "so many packets as were asked for" {
		t.Errorf("came %v, then %v", times, last)
	}
	o = pastOrder(time.Hour)
	o.Line.FilterEthernet = program(t, bpf.LoadAbsolute{Off: 23, Size: 1}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: 6, SkipFalse: 1}, bpf.RetConstant{Val: 65535}, bpf.RetConstant{})
	if times, _, _ = asked(t, r, o); len(times) != 0 {
		t.Errorf("came %v, and none is of TCP", times)
	}
	o.Line.FilterEthernet = program(t, bpf.LoadAbsolute{Off: 23, Size: 1}, bpf.JumpIf{Cond: bpf.JumpEqual, Val: 17, SkipFalse: 1}, bpf.RetConstant{Val: 65535}, bpf.RetConstant{})
	if times, _, _ = asked(t, r, o); len(times) != 4 {
		t.Errorf("came %v, and all are of UDP", times)
	}
	o = pastOrder(time.Hour)
	o.Line.Workloads = []string{"other"}
	if times, _, _ = asked(t, r, o); len(times) != 0 {
		t.Errorf("came %v of another workload", times)
	}

	// The next agent takes up what a killed one has written, to the last whole block.
	segments, _ := filepath.Glob(filepath.Join(dir, "*", "*"))
	if len(segments) != 1 {
		t.Fatalf("segments are %v", segments)
	}
	f, err := os.OpenFile(segments[0], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte{0, 0, 1, 0, 1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	f.Close()
	next := keeping(t, dir)
	s = openRing(t, next)
	s.brings(time.Now().Add(-10 * time.Second))
	if times, _, _ = asked(t, next, pastOrder(time.Hour)); len(times) != 5 {
		t.Errorf("after a kill came %d", len(times))
	}
	// The last workload is gone, and the agent starts anew: what was kept stays.
	gone := &wirepb.CaptureSection{Rings: []*wirepb.Ring{{Line: "tap/", Tap: "tap", Bytes: 32 << 20, Seconds: 3600}, {Line: "others/", Tap: "others", Bytes: 32 << 20, Seconds: 3600}}}
	next = New(Config{Rings: dir}, next.deps)
	if err := next.Keep(gone); err != nil {
		t.Fatal(err)
	}
	defer next.HangUp()
	if times, _, _ = asked(t, next, pastOrder(time.Hour)); len(times) != 5 || len(next.Rings()) != 1 {
		t.Errorf("without a line there are %d, in %v", len(times), next.Rings())
	}
	// A ring that there is no more is taken away.
	if err := next.Keep(&wirepb.CaptureSection{}); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
		t.Errorf("there are still %v", left)
	}
}

func program(t *testing.T, list ...bpf.Instruction) (out []*wirepb.BPFInstruction) {
	t.Helper()
	raw, err := bpf.Assemble(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range raw {
		out = append(out, &wirepb.BPFInstruction{Op: uint32(x.Op), Jt: uint32(x.Jt), Jf: uint32(x.Jf), K: x.K})
	}
	return out
}

// What comes follows what was kept; each packet is there once, whichever of the two
// has it.
func TestThePastGoesOn(t *testing.T) {
	t.Parallel()
	r := keeping(t, t.TempDir())
	kept := openRing(t, r)
	before := time.Now().Add(-time.Second)
	kept.brings(before)
	o := pastOrder(time.Minute)
	o.ForMillis = 60_000
	r.Want(&wirepb.CaptureOrders{Orders: []*wirepb.CaptureOrder{o}})
	<-r.Pieces()
	line := open(t, r, "capture/7")
	if _, err := line.conn.Write(tapstream.AppendNames(nil, []tapstream.Name{{Number: 5, ID: "web"}})); err != nil {
		t.Fatal(err)
	}
	go func() {
		line.brings(before) // which the ring has
		line.brings(time.Now().Add(time.Minute))
	}()
	var times []int64
	inPast := true
	until(t, r, func(p *wirepb.CapturePiece) {
		if p.Past && !inPast {
			t.Error("the past comes again")
		}
		inPast = p.Past
		if b, err := tapstream.ParseBatch(p.Batch); err == nil {
			var d tapstream.Decoder
			if err := d.Open(b); err != nil {
				t.Fatal(err)
			}
			var rec tapstream.Record
			for ok, _ := d.Next(&rec); ok; ok, _ = d.Next(&rec) {
				times = append(times, rec.Time)
			}
			if len(times) == 2 {
				r.Want(&wirepb.CaptureOrders{})
			}
		}
	})
	if len(times) != 2 || times[0] != before.UnixNano() {
		t.Errorf("came %v", times)
	}
}

// Whoever asked is gone: the reading of a ring ends too.
func TestPastEndsWithoutRoom(t *testing.T) {
	t.Parallel()
	r := keeping(t, t.TempDir())
	s := openRing(t, r)
	for range 200 {
		var e tapstream.Encoder
		noise := make([]byte, 20_000)
		for i := range noise {
			noise[i] = byte(i * i >> 3)
		}
		e.Add(&tapstream.Record{Time: time.Now().UnixNano(), Length: 20_000, Workload: 1, Segments: 1, Data: noise})
		if _, err := s.conn.Write(e.Seal(nil, s.next)); err != nil {
			t.Fatal(err)
		}
		s.next++
		s.in.Next() //nolint:errcheck // the write says it
	}
	o := pastOrder(time.Hour)
	o.Window, o.Bytes = 0, 1<<40
	r.Want(&wirepb.CaptureOrders{Orders: []*wirepb.CaptureOrder{o}})
	for p := range r.Pieces() {
		if p.Batch != nil {
			r.Want(&wirepb.CaptureOrders{})
		}
		if p.Ended {
			break
		}
	}
}

// A disk that is full costs packets, which are counted, and says why; nobody waits.
func TestFullDiskIsCounted(t *testing.T) {
	testreq.Need(t, testreq.Root)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20-8<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	r := keeping(t, filepath.Join(dir, "rings"))
	s := openRing(t, r)
	s.sends(10)
	status := r.Rings()
	if len(status) != 1 || !strings.Contains(status[0].Message, "no space") || status[0].OldestUnixNanos != 0 {
		t.Errorf("it says %v", status)
	}
	if k := r.kept("")[0]; k.totals.FailedPackets != 10 || k.totals.DeliveredPackets != 0 {
		t.Errorf("it counts %+v", k.totals)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	s.sends(5)
	if status := r.Rings()[0]; status.Message != "" || status.OldestUnixNanos == 0 {
		t.Errorf("then it says %v", status)
	}
}

func TestOffKeepsNothing(t *testing.T) {
	dir := t.TempDir()
	r := New(Config{Rings: dir, Off: true}, Deps{})
	keep(t, r)
	if r.Keeps("tap/") || r.Refuses("tap/") == "" {
		t.Error("it keeps packets")
	}
}

// What a packet costs that is kept: no allocation. A batch has one or two.
func TestKeepingDoesNotAllocate(t *testing.T) {
	r := keeping(t, t.TempDir())
	k := r.kept("tap/")[0]
	var e tapstream.Encoder
	for range 500 {
		e.Add(&tapstream.Record{Time: time.Now().UnixNano(), Length: uint32(len(udp)), Workload: 1, Segments: 1, Data: udp})
	}
	payload := e.Seal(nil, 1)[tapstream.HeaderLen:]
	b, err := tapstream.ParseBatch(payload)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(50, func() {
		if err := k.keep(t.Context(), b, payload); err != nil {
			t.Fatal(err)
		}
	}); n > 2 {
		t.Errorf("a batch of 500 packets costs %v allocations", n)
	}
}

// Whatever stands in a segment, reading it ends and takes no more than it may.
func FuzzPast(f *testing.F) {
	var e tapstream.Encoder
	e.Add(&tapstream.Record{Time: 1, Length: uint32(len(udp)), Workload: 1, Segments: 1, Data: udp})
	f.Add(e.Seal(nil, 1)[tapstream.HeaderLen:], int64(1), uint32(1), "web")
	f.Fuzz(func(t *testing.T, batch []byte, at int64, number uint32, id string) {
		if at <= 0 {
			return
		}
		r := keeping(t, t.TempDir())
		k := r.kept("tap/")[0]
		if _, err := k.ring.Turn(1 << 10); err != nil {
			t.Fatal(err)
		}
		k.mu.Lock()
		k.piece.Reset()
		k.piece.Batch, k.piece.Names = batch, []*wirepb.CaptureName{{Number: number, Workload: strings.ToValidUTF8(id, "")}}
		k.piece.ThroughUnixNanos = math.MaxInt64
		err := k.write(at, at)
		k.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		p, err := newPast(pastOrder(time.Hour), &room{10, 1 << 20}, time.Unix(0, 0), time.Unix(0, math.MaxInt64).Add(-time.Hour*24*365))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go p.read(ctx, r.kept(""), func() time.Time { return time.Unix(0, math.MaxInt64) })
		n := 0
		for x := range p.pieces {
			if b, err := tapstream.ParseBatch(x.batch); err == nil {
				n += int(b.Records)
			}
		}
		cancel()
		if n > 10 {
			t.Errorf("%d packets came, of ten", n)
		}
	})
}
