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
	"weft/wire/wirepb"
)

func sample(when time.Time) []Record {
	return []Record{
		{Workload: "host", Process: Process{PID: 7, Exe: "/usr/bin/curl", User: "ann", Comm: "curl"}, Name: "example.org",
			Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.MustParseAddrPort("10.96.0.1:80"), Translated: netip.MustParseAddrPort("10.0.0.2:8080"),
			Protocol: 6, Egress: true, New: true, Action: model.ActionAllow, Rule: 1 << 60, Peer: 9,
			First: when.Add(-3 * time.Second), Last: when.Add(-time.Millisecond), Sent: Count{5, 600}, Received: Count{4, 6000}, RTT: 350 * time.Microsecond, Retransmits: 2},
		{Workload: "c1", Local: netip.MustParseAddrPort("[2001:db8::1]:53"), Remote: netip.MustParseAddrPort("[2001:db8::2]:999"), Protocol: 17, NetNS: 77, Began: 1 << 50, Ended: true, Refused: true,
			Action: model.ActionDeny, First: when.Add(-time.Hour), Last: when.Add(-time.Minute), Received: Count{1, 80}},
		{Workload: "host", Local: netip.MustParseAddrPort("10.0.0.1:0"), Remote: netip.MustParseAddrPort("10.0.0.3:0"), Protocol: 1, Egress: true, Action: model.ActionReject,
			First: when, Last: when, Sent: Count{1, 84}},
		{Local: netip.MustParseAddrPort("10.0.0.4:1"), Remote: netip.MustParseAddrPort("10.0.0.5:2"), Protocol: 17, Egress: true, Observed: true, Action: model.ActionAllow, First: when, Last: when},
	}
}

func TestRecordsComeBack(t *testing.T) {
	when := time.Unix(1_700_000_000, 123_000_000)
	want := sample(when)
	raw, err := proto.Marshal(Encode(when, want))
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
	if len(b.Workloads) != 2 || len(b.Processes) != 1 {
		t.Errorf("%d workloads and %d processes are listed; each once is 2 and 1", len(b.Workloads), len(b.Processes))
	}
}

func TestBadBatchesNameTheColumn(t *testing.T) {
	for name, spoil := range map[string]func(*wirepb.FlowBatch){
		"local":       func(b *wirepb.FlowBatch) { b.Local = b.Local[:20] },
		"remote_port": func(b *wirepb.FlowBatch) { b.RemotePort[1] = 70_000 },
		"workload":    func(b *wirepb.FlowBatch) { b.Workload[2] = 3 },
		"sent_bytes":  func(b *wirepb.FlowBatch) { b.SentBytes = append(b.SentBytes, 1) },
		"action":      func(b *wirepb.FlowBatch) { b.Action[0] = 4 },
		"first":       func(b *wirepb.FlowBatch) { b.First[0] = 1 << 62 },
		"translation": func(b *wirepb.FlowBatch) { b.Translations[0].Address = []byte{1} },
		"records":     func(b *wirepb.FlowBatch) { b.Workload = make([]uint32, MaxRecords+1) },
	} {
		b := Encode(time.Unix(1, 0), sample(time.Unix(1, 0)))
		spoil(b)
		if _, err := Decode(b); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s spoilt: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	raw, err := proto.Marshal(Encode(time.Unix(1, 0), sample(time.Unix(1, 0))))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var b wirepb.FlowBatch
		if proto.Unmarshal(raw, &b) != nil {
			return
		}
		records, err := Decode(&b)
		if err != nil {
			return
		}
		again, err := Decode(Encode(time.Unix(0, b.UnixNanos), records))
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if d := cmp.Diff(records, again, cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
			t.Error(d)
		}
	})
}
