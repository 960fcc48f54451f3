package flowwire

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/proto"

	"weft/model"
	"weft/packet"
	"weft/wire/wirepb"
)

func sample(when time.Time) []Record {
	return []Record{
		{Workload: "host", Process: Process{PID: 7, Exe: "/usr/bin/curl", User: "ann", Comm: "curl"}, Name: "example.org",
			Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.MustParseAddrPort("10.96.0.1:80"), Translated: netip.MustParseAddrPort("10.0.0.2:8080"),
			Protocol: 6, Egress: true, New: true, Action: model.ActionAllow, Rule: 1 << 60, Peer: 9,
			First: when.Add(-3 * time.Second), Last: when.Add(-time.Millisecond), Sent: Count{5, 600}, Received: Count{4, 6000}, RTT: 350 * time.Microsecond, Retransmits: 2,
			TCPState: packet.TCPClosing, SentFlags: packet.TCPSyn | packet.TCPAck, ReceivedFlags: packet.TCPSyn | packet.TCPAck | packet.TCPFin, Drops: 3, DropReason: "TCP_CSUM",
			Application: Application{Protocol: "http", Host: "example.org", ALPN: "h2", Method: "GET", Path: "/users/{id}", Status: 200, Software: "x"}, Latency: 7 * time.Millisecond},
		{Workload: "c1", Local: netip.MustParseAddrPort("[2001:db8::1]:53"), Remote: netip.MustParseAddrPort("[2001:db8::2]:999"), Protocol: 17, NetNS: 77, Began: 1 << 50, Ended: true, Refused: true,
			Action: model.ActionDeny, First: when.Add(-time.Hour), Last: when.Add(-time.Minute), Received: Count{1, 80}},
		{Workload: "host", Local: netip.MustParseAddrPort("10.0.0.1:0"), Remote: netip.MustParseAddrPort("10.0.0.3:0"), Protocol: 1, Egress: true, Action: model.ActionReject,
			First: when, Last: when, Sent: Count{1, 84}},
		{Local: netip.MustParseAddrPort("10.0.0.4:1"), Remote: netip.MustParseAddrPort("10.0.0.5:2"), Protocol: 17, Egress: true, Observed: true, Action: model.ActionAllow, First: when, Last: when},
	}
}

func encode(tb testing.TB, when time.Time, records []Record) *wirepb.FlowBatch {
	tb.Helper()
	b, err := Encode(when, records)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestRecordsComeBack(t *testing.T) {
	when := time.Unix(1_700_000_000, 123_000_000)
	want := sample(when)
	raw, err := proto.Marshal(encode(t, when, want))
	if err != nil {
		t.Fatal(err)
	}
	var b wirepb.FlowBatch
	if err := proto.Unmarshal(raw, &b); err != nil {
		t.Fatal(err)
	}
	got, err := Decode(&b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
		t.Error(d)
	}
	if c := columns(when, want); len(c.Workloads) != 2 || len(c.Processes) != 1 {
		t.Errorf("%d workloads and %d processes are listed; each once is 2 and 1", len(c.Workloads), len(c.Processes))
	}
}

func TestBadBatchesNameTheColumn(t *testing.T) {
	for name, spoil := range map[string]func(*wirepb.FlowColumns){
		"local":       func(c *wirepb.FlowColumns) { c.Local = c.Local[:20] },
		"remote_port": func(c *wirepb.FlowColumns) { c.RemotePort[1] = 70_000 },
		"workload":    func(c *wirepb.FlowColumns) { c.Workload[2] = 3 },
		"sent_bytes":  func(c *wirepb.FlowColumns) { c.SentBytes = append(c.SentBytes, 1) },
		"action":      func(c *wirepb.FlowColumns) { c.Action[0] = 4 },
		"first":       func(c *wirepb.FlowColumns) { c.First[0] = 1 << 62 },
		"application": func(c *wirepb.FlowColumns) { c.Applications[0].Status = 1 << 16 },
		"translation": func(c *wirepb.FlowColumns) { c.Translations[0].Address = []byte{1} },
		"tcp":         func(c *wirepb.FlowColumns) { c.Tcp[1] = 6 << 16 },
		"drops":       func(c *wirepb.FlowColumns) { c.Drops = c.Drops[:1] },
		"drop_reason": func(c *wirepb.FlowColumns) { c.DropReason[0] = 2 },
		"records":     func(c *wirepb.FlowColumns) { c.Workload = make([]uint32, MaxRecords+1) },
	} {
		when := time.Unix(1, 0)
		c := columns(when, sample(when))
		spoil(c)
		packed, err := pack(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(&wirepb.FlowBatch{Records: uint32(len(c.Workload)), UnixNanos: when.UnixNano(), Columns: packed}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s spoilt: %v", name, err)
		}
	}
	when := time.Unix(1, 0)
	short := encode(t, when, sample(when))
	short.Records--
	if _, err := Decode(short); err == nil || !strings.Contains(err.Error(), "announced") {
		t.Errorf("one record too many: %v", err)
	}
}

// A column that nobody has anything for takes no room.
func TestColumnsOfNothingAreLeftOut(t *testing.T) {
	when := time.Unix(1, 0)
	c := columns(when, sample(when)[1:])
	if c.Tcp != nil || c.Drops != nil || c.DropReason != nil {
		t.Errorf("tcp %v, drops %v, reasons %v", c.Tcp, c.Drops, c.DropReason)
	}
}

// Little that is sent must not become much that is kept.
func TestABombIsNotUnpacked(t *testing.T) {
	packed, err := pack(&wirepb.FlowColumns{Local: make([]byte, 4*maxUnpacked)})
	if err != nil {
		t.Fatal(err)
	}
	if len(packed) > 1<<16 {
		t.Fatalf("%d bytes packed", len(packed))
	}
	if _, err := Decode(&wirepb.FlowBatch{Columns: packed}); err == nil {
		t.Error("it was unpacked")
	}
}

// A program can have any name.
func TestNamesThatAreNoText(t *testing.T) {
	when := time.Unix(1, 0)
	r := sample(when)[:1]
	r[0].Process.Comm, r[0].Process.Exe, r[0].Name = "a\xffb", "/tmp/\xc3", "\x80.org"
	got, err := Decode(encode(t, when, r))
	if err != nil {
		t.Fatal(err)
	}
	if p := got[0].Process; p.Comm != "a\ufffdb" || p.Exe != "/tmp/\ufffd" || got[0].Name != "\ufffd.org" {
		t.Errorf("%+v", got[0])
	}
}

func FuzzDecode(f *testing.F) {
	raw, err := proto.Marshal(columns(time.Unix(1, 0), sample(time.Unix(1, 0))))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, int64(0))
	f.Fuzz(func(t *testing.T, raw []byte, nanos int64) {
		var c wirepb.FlowColumns
		if proto.Unmarshal(raw, &c) != nil {
			return
		}
		when := time.Unix(0, nanos)
		records, err := read(when, &c)
		if err != nil {
			return
		}
		again, err := Decode(encode(t, when, records))
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if d := cmp.Diff(records, again, cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
			t.Error(d)
		}
	})
}
