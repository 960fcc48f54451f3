package captures

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"

	"weft/model"
	"weft/wire"
	"weft/wire/tapstream"
	"weft/wire/wirepb"
)

// udp is a packet from 192.0.2.1:53 to 192.0.2.2:4660.
var udp = []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0, 53, 0x12, 0x34, 0, 8, 0, 0}

func workload(name string) *model.Workload {
	w := &model.Workload{}
	w.Metadata.Name, w.Metadata.Labels = name, map[string]string{"app": name}
	return w
}

func target(host string) Target {
	return Target{UID: "uid-" + host, Host: host, Line: &wirepb.CaptureLine{Workloads: []string{"host"}, Filter: "udp"}, Workloads: map[string]*model.Workload{"host": workload(host)}}
}

func batch(t testing.TB, flags uint8, times ...int64) []byte {
	t.Helper()
	var e tapstream.Encoder
	for _, at := range times {
		if !e.Add(&tapstream.Record{Time: at, Length: uint32(len(udp)), Workload: 1, Segments: 1, Flags: flags, Data: udp}) {
			t.Fatal("the batch is full")
		}
	}
	return e.Seal(nil, 1)[tapstream.HeaderLen:]
}

type host struct {
	c     *Captures
	id    wire.Identity
	order *wirepb.CaptureOrder
}

// ordered is a host whose session has been told.
func ordered(t testing.TB, c *Captures, name string) *host {
	t.Helper()
	o, _, _, _ := c.Wanted("uid-"+name, 0)
	if len(o.GetOrders()) != 1 {
		t.Fatalf("%s is told %v", name, o)
	}
	return &host{c, wire.Identity{Name: name, UID: "uid-" + name}, o.Orders[0]}
}

func (h *host) says(p *wirepb.CapturePiece) {
	p.Id = h.order.Id
	h.c.Take(h.id, p)
}

// Packets of two hosts whose clocks differ by a minute are in the order of time,
// with workload and process, and what was lost is in the statistics.
func TestCapturesAreMerged(t *testing.T) {
	c := New()
	x, err := c.Start(Spec{Targets: []Target{target("a"), target("b")}, For: time.Minute, Packets: 100, Bytes: 1e6, Rate: 1e6})
	if err != nil {
		t.Fatal(err)
	}
	base := time.Now()
	for _, s := range []struct {
		name  string
		skew  time.Duration
		flags uint8
		times []time.Duration
	}{{"a", 0, tapstream.FlagEgress, []time.Duration{10, 30, 50}}, {"b", time.Minute, 0, []time.Duration{20, 40}}} {
		h := ordered(t, c, s.name)
		now := time.Now().Add(s.skew).UnixNano()
		h.says(&wirepb.CapturePiece{OrderUnixNanos: h.order.SentUnixNanos, ReceivedUnixNanos: now, SentUnixNanos: now, Names: []*wirepb.CaptureName{{Number: 1, Workload: "host"}}})
		var times []int64
		for _, at := range s.times {
			times = append(times, base.Add(s.skew+at*time.Millisecond).UnixNano())
		}
		local, remote := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		p := &wirepb.CapturePiece{Batch: batch(t, s.flags, times...)}
		if s.name == "a" {
			p.Processes = []*wirepb.CaptureProcess{{Local: &wirepb.FlowAddress{Address: local.AsSlice(), Port: 53}, Remote: &wirepb.FlowAddress{Address: remote.AsSlice(), Port: 4660},
				Protocol: 17, Process: &wirepb.FlowProcess{Pid: 7, Exe: "/usr/bin/named\n", User: "bind"}}}
		}
		h.says(p)
		h.says(&wirepb.CapturePiece{Ended: true, Ledger: &wirepb.Ledger{Shed: &wirepb.Count{Packets: 3}}})
	}
	var file bytes.Buffer
	if err := x.Run(context.Background(), &file, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	r, err := pcapgo.NewNgReader(&file, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	var last time.Time
	comment := ""
	for {
		_, ci, options, err := r.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		i, err := r.Interface(ci.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		order = append(order, i.Name)
		if ci.Timestamp.Before(last) {
			t.Errorf("%v is before %v", ci.Timestamp, last)
		}
		if last = ci.Timestamp; i.Name == "a" {
			comment = options.Comments[0]
		}
	}
	if len(order) != 5 || order[0] != "a" || order[1] != "b" || order[4] != "a" {
		t.Errorf("the order is %v", order)
	}
	if want := "workload=a process=/usr/bin/named? pid=7 user=bind"; comment != want {
		t.Errorf("the comment is %q, want %q", comment, want)
	}
	a, err := r.Interface(0)
	if err != nil || a.Description != "app=a" || a.Filter != "udp" || a.Statistics.PacketsDropped != 3 || a.Statistics.PacketsReceived != 6 {
		t.Errorf("the interface is %+v, %v", a, err)
	}
	if c.Stop(x.ID) {
		t.Error("it runs still")
	}
	if f := c.Get(x.ID).Figures(); len(f) != 2 || f[0].Packets != 3 || !f[0].Ended {
		t.Errorf("the figures are %+v", f)
	}
	if o, _, _, _ := c.Wanted("uid-a", 1); len(o.GetOrders()) != 0 {
		t.Errorf("the host is still told %v", o)
	}
}

// A host that sends without room takes part no more, and costs no more memory.
func TestHostSendsTooMuch(t *testing.T) {
	c := New()
	x, err := c.Start(Spec{Targets: []Target{target("a")}, For: time.Minute, Packets: 100, Bytes: 1e6, Rate: 1e6})
	if err != nil {
		t.Fatal(err)
	}
	h := ordered(t, c, "a")
	for range 1000 {
		h.says(&wirepb.CapturePiece{Batch: make([]byte, tapstream.MaxRaw)})
	}
	held := 0
	for _, a := range x.came {
		held += len(a.piece.Batch)
	}
	if held > window+tapstream.MaxRaw {
		t.Errorf("%d bytes are held", held)
	}
	if err := x.Run(context.Background(), io.Discard, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if m := x.Figures()[0].Message; m == "" {
		t.Error("nobody is told")
	}
}

// A limit is of all hosts together, and exact: who has much may send it while others
// are silent.
func TestLimitsAreShared(t *testing.T) {
	for _, test := range []struct {
		name           string
		packets, bytes uint64
		want           int
	}{{"packets", 7, 1 << 20, 7}, {"bytes", 100, uint64(5*len(udp) + 3), 5}} {
		t.Run(test.name, func(t *testing.T) {
			c := New()
			x, err := c.Start(Spec{Targets: []Target{target("loud"), target("silent"), target("quiet")}, For: time.Minute, Packets: test.packets, Bytes: test.bytes, Rate: 1e6})
			if err != nil {
				t.Fatal(err)
			}
			base := time.Now().UnixNano()
			end := make(chan error, 1)
			var file bytes.Buffer
			hosts := []*host{ordered(t, c, "loud"), ordered(t, c, "silent"), ordered(t, c, "quiet")}
			for _, h := range hosts {
				h.says(&wirepb.CapturePiece{OrderUnixNanos: h.order.SentUnixNanos, ReceivedUnixNanos: base, SentUnixNanos: base, Names: []*wirepb.CaptureName{{Number: 1, Workload: "host"}}})
				if h.order.Packets != test.packets || h.order.Bytes != test.bytes {
					t.Errorf("a host is told of %d packets, %d bytes", h.order.Packets, h.order.Bytes)
				}
			}
			hosts[2].says(&wirepb.CapturePiece{Batch: batch(t, 0, base+1)})
			hosts[0].says(&wirepb.CapturePiece{Batch: batch(t, 0, base+2, base+3, base+4, base+5, base+6, base+7, base+8, base+9, base+10)})
			go func() { end <- x.Run(context.Background(), &file, func() error { return nil }) }()
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) { // the hosts are told to end
				if o, _, _, _ := c.Wanted("uid-silent", 0); len(o.GetOrders()) == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the capture goes on")
				}
				for _, h := range hosts {
					h.says(&wirepb.CapturePiece{ThroughUnixNanos: time.Now().UnixNano()})
				}
			}
			for _, h := range hosts {
				h.says(&wirepb.CapturePiece{Ended: true, Batch: batch(t, 0, base+20)})
			}
			if err := <-end; err != nil {
				t.Fatal(err)
			}
			r, err := pcapgo.NewNgReader(&file, pcapgo.NgReaderOptions{WantMixedLinkType: true})
			n := 0
			for ; err == nil; n++ {
				_, _, err = r.ReadPacketData()
			}
			if n--; n != test.want || !errors.Is(err, io.EOF) {
				t.Errorf("%d packets, want %d: %v", n, test.want, err)
			}
		})
	}
}

// While nobody reads, hosts go on saying how far they are: that gathers nowhere.
func TestWordsDoNotGather(t *testing.T) {
	c := New()
	x, err := c.Start(Spec{Targets: []Target{target("a"), target("b")}, For: time.Minute, Packets: 100, Bytes: 1e6, Rate: 1e6})
	if err != nil {
		t.Fatal(err)
	}
	a, b := ordered(t, c, "a"), ordered(t, c, "b")
	for _, h := range []*host{a, b} {
		h.says(&wirepb.CapturePiece{OrderUnixNanos: h.order.SentUnixNanos, ReceivedUnixNanos: 1, SentUnixNanos: 1, Names: []*wirepb.CaptureName{{Number: 1, Workload: "host"}}})
	}
	for i := range 2 * maxWaiting {
		a.says(&wirepb.CapturePiece{ThroughUnixNanos: int64(i)})
		b.says(&wirepb.CapturePiece{ThroughUnixNanos: int64(i)})
	}
	if n := len(x.came); n != 4 {
		t.Errorf("%d pieces are held", n)
	}
	a.says(&wirepb.CapturePiece{Batch: batch(t, 0, 1)})
	a.says(&wirepb.CapturePiece{ThroughUnixNanos: 5})
	for _, h := range []*host{a, b} {
		h.says(&wirepb.CapturePiece{Ended: true})
	}
	if err := x.Run(context.Background(), io.Discard, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if f := x.Figures(); f[0].Packets != 1 || f[0].Message != "" {
		t.Errorf("%+v", f)
	}
}

// While rings are read, packets wait for those of the host that is slowest, however
// long ago they were, and each is of the process that had its ports then.
func TestThePastIsMerged(t *testing.T) {
	c := New()
	x, err := c.Start(Spec{Targets: []Target{target("fast"), target("slow")}, Past: time.Hour, Packets: 100, Bytes: 1e6, Rate: 1e6})
	if err != nil {
		t.Fatal(err)
	}
	fast, slow := ordered(t, c, "fast"), ordered(t, c, "slow")
	if fast.order.PastMillis != 3_600_000 || fast.order.ForMillis != 0 {
		t.Errorf("the order is %v", fast.order)
	}
	base := time.Now().Add(-30 * time.Minute)
	at := func(s int) int64 { return base.Add(time.Duration(s) * time.Second).UnixNano() }
	for _, h := range []*host{fast, slow} {
		now := time.Now().UnixNano()
		h.says(&wirepb.CapturePiece{Past: true, OrderUnixNanos: h.order.SentUnixNanos, ReceivedUnixNanos: now, SentUnixNanos: now, Names: []*wirepb.CaptureName{{Number: 1, Workload: "host"}}})
	}
	whose := func(exe string) []*wirepb.CaptureProcess {
		return []*wirepb.CaptureProcess{{Local: &wirepb.FlowAddress{Address: []byte{192, 0, 2, 1}, Port: 53}, Remote: &wirepb.FlowAddress{Address: []byte{192, 0, 2, 2}, Port: 4660}, Protocol: 17, Process: &wirepb.FlowProcess{Exe: exe}}}
	}
	var file bytes.Buffer
	end := make(chan error, 1)
	go func() { end <- x.Run(context.Background(), &file, func() error { return nil }) }()
	fast.says(&wirepb.CapturePiece{Past: true, Batch: batch(t, tapstream.FlagEgress, at(2)), Processes: whose("/first"), ThroughUnixNanos: at(2)})
	fast.says(&wirepb.CapturePiece{Past: true, Batch: batch(t, tapstream.FlagEgress, at(4)), Processes: whose("/second"), ThroughUnixNanos: at(4)})
	fast.says(&wirepb.CapturePiece{Ended: true})
	slow.says(&wirepb.CapturePiece{Past: true, ThroughUnixNanos: at(0)})
	time.Sleep(300 * time.Millisecond) // it looks each tenth of a second
	if n := x.Figures()[0].Packets; n != 0 {
		t.Errorf("%d packets are written that others may come before", n)
	}
	slow.says(&wirepb.CapturePiece{Past: true, Batch: batch(t, 0, at(1)), ThroughUnixNanos: at(1)})
	slow.says(&wirepb.CapturePiece{Past: true, Batch: batch(t, 0, at(3)), ThroughUnixNanos: at(3)})
	slow.says(&wirepb.CapturePiece{Ended: true})
	if err := <-end; err != nil {
		t.Fatal(err)
	}
	r, err := pcapgo.NewNgReader(&file, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		_, ci, options, err := r.ReadPacketDataWithOptions()
		if err != nil {
			break
		}
		i, err := r.Interface(ci.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		_, who, _ := strings.Cut(options.Comments[0], "process=")
		who, _, _ = strings.Cut(who, " ")
		got = append(got, i.Name+who)
	}
	if want := []string{"slow", "fast/first", "slow", "fast/second"}; !slices.Equal(got, want) {
		t.Errorf("the order is %v, want %v", got, want)
	}
}

// Whatever a host says, the file is one.
func FuzzPiece(f *testing.F) {
	f.Add(batch(f, 0, 1, 2), int64(1), "host")
	f.Add([]byte("x"), int64(-1<<62), "\x00")
	f.Fuzz(func(t *testing.T, b []byte, at int64, id string) {
		c := New()
		x, err := c.Start(Spec{Targets: []Target{target("a")}, For: time.Minute, Packets: 100, Bytes: 1e6, Rate: 1e6})
		if err != nil {
			t.Fatal(err)
		}
		h := ordered(t, c, "a")
		h.says(&wirepb.CapturePiece{OrderUnixNanos: h.order.SentUnixNanos, ReceivedUnixNanos: at, SentUnixNanos: -at, Names: []*wirepb.CaptureName{{Number: 1, Workload: id}}, Batch: b, ThroughUnixNanos: at})
		h.says(&wirepb.CapturePiece{Ended: true, Message: id})
		if err := x.Run(context.Background(), io.Discard, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
	})
}
