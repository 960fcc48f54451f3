package flowstore

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"weft/model"
	"weft/wire"
	"weft/wire/flowwire"
	"weft/wire/wirepb"
)

type nobody struct{}

func (nobody) Workloads() []*model.Workload             { return nil }
func (nobody) Interfaces() map[string][]model.Interface { return nil }
func (nobody) InventoryChanged() <-chan struct{}        { return make(chan struct{}) }

func wireBatch(number uint64) *wirepb.FlowBatch {
	b, err := flowwire.Encode(noon, []flowwire.Record{{
		Workload: "1", Process: flowwire.Process{Exe: "/usr/bin/curl"}, Protocol: 6, Egress: true, New: true, Action: model.ActionAllow, First: noon, Last: noon,
		Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.MustParseAddrPort("172.30.0.1:80"), Translated: netip.MustParseAddrPort("10.0.0.2:8080"), Sent: flowwire.Count{Packets: 1, Bytes: 100},
	}})
	if err != nil {
		panic(err) // nothing in it is not to be encoded
	}
	b.Epoch, b.Number = 1, number
	return b
}

// What waits is bounded over all hosts. A host that is refused is told once there
// is room, and sends it all again.
func TestIngestRefusesWhatDoesNotFit(t *testing.T) {
	s, err := Open(context.Background(), Config{Now: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	i := NewIngest(s, nobody{}, nil, slog.New(slog.DiscardHandler))
	i.room = 3 * memoryOf(wireBatch(1))
	acks, again := make(chan uint64, 10), make(chan string, 10)
	take := func(host string, number uint64) bool {
		t.Helper()
		taken, err := i.Take(wire.Identity{Role: model.RoleHost, UID: host, Name: host}, wireBatch(number), func(a *wirepb.FlowAck) { acks <- a.Number }, func() { again <- host })
		if err != nil {
			t.Fatal(err)
		}
		return taken
	}
	if !take("a", 1) || !take("a", 2) || !take("b", 1) {
		t.Fatal("what fits was not taken")
	}
	if second := take("b", 2); second || take("b", 2) || take("c", 1) {
		t.Fatal("more was taken than may wait")
	}
	if q := i.Queue(); q.Batches != 3 || q.Refused != 2 || q.Bytes != i.room {
		t.Errorf("%+v wait", q)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- i.Run(ctx, func() {}) }()
	for range 3 {
		<-acks
	}
	told := map[string]bool{<-again: true, <-again: true}
	if !told["b"] || !told["c"] {
		t.Errorf("told were %v", told)
	}
	if !take("b", 2) || !take("c", 1) {
		t.Error("there is room, and it was not taken")
	}
	<-acks
	<-acks
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	list, _, err := s.List(context.Background(), Query{}, Cursor{})
	if err != nil || len(list) != 5 {
		t.Fatalf("%d flows, %v", len(list), err)
	}
	if f := list[0]; f.Dialled != netip.MustParseAddrPort("172.30.0.1:80") || f.Server.Address != netip.MustParseAddr("10.0.0.2") || f.Server.Port != 8080 {
		t.Errorf("called %s, sent to %+v", f.Dialled, f.Server)
	}
	if q := i.Queue(); q != (Queue{}) {
		t.Errorf("%+v wait in the end", q)
	}
}
