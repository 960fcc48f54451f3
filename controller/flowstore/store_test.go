package flowstore

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weft/internal/clickhousetest"
	"weft/internal/testreq"
	"weft/model"
	"weft/packet"
)

var noon = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// backends runs a test on each database. Stores that a test opens by the same
// name are the same.
func backends(t *testing.T, test func(t *testing.T, open func(t *testing.T, cfg Config) *Store)) {
	t.Helper()
	run := func(name string, where func(t *testing.T) Config) {
		t.Run(name, func(t *testing.T) {
			place := where(t)
			test(t, func(t *testing.T, cfg Config) *Store {
				t.Helper()
				if cfg.Now == nil {
					cfg.Now = func() time.Time { return noon.Add(time.Second) }
				}
				cfg.Dir, cfg.ClickHouse = place.Dir, place.ClickHouse
				s, err := Open(context.Background(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close() })
				return s
			})
		})
	}
	run("DuckDB", func(t *testing.T) Config { return Config{Dir: t.TempDir()} })
	run("ClickHouse", func(t *testing.T) Config {
		testreq.Need(t, clickhousetest.Program)
		return Config{ClickHouse: sharedServer(t) + "/" + fmt.Sprintf("t%d", databases.Add(1))}
	})
}

var (
	databases atomic.Int64
	server    struct {
		sync.Mutex
		*clickhousetest.Server
	}
)

// sharedServer is one server for all tests, which TestMain ends.
func sharedServer(t *testing.T) string {
	t.Helper()
	server.Lock()
	defer server.Unlock()
	if server.Server == nil {
		dir, err := os.MkdirTemp("", "weft-flowstore")
		if err != nil {
			t.Fatal(err)
		}
		if server.Server, err = clickhousetest.Start(context.Background(), dir); err != nil {
			t.Fatal(err)
		}
	}
	return server.URL
}

func TestMain(m *testing.M) {
	if where := os.Getenv(keeperEnv); where != "" {
		fmt.Fprintln(os.Stderr, keeper(where))
		os.Exit(1)
	}
	code := m.Run()
	if server.Server != nil {
		server.Remove()
	}
	os.Exit(code)
}

func flow(client, server string, port uint16, bytes uint64) Flow {
	return Flow{
		Time: noon, First: noon.Add(-time.Second), Last: noon.Add(-time.Millisecond), Host: client, Counted: true,
		Client:   End{Workload: client, Labels: map[string]string{"app": client}, Address: netip.MustParseAddr("10.0.0.1"), Port: 40000},
		Server:   End{Workload: server, Labels: map[string]string{"app": server, "env": "prod"}, Address: netip.MustParseAddr("10.0.0.2"), Port: port},
		Protocol: 6, Process: "/usr/bin/" + client, PID: 7, User: "ann", Action: model.ActionAllow, Rule: 1<<63 + 1, New: true,
		Sent: model.Count{Packets: 1, Bytes: bytes}, Received: model.Count{Packets: 2, Bytes: 2 * bytes}, RTT: 300 * time.Microsecond, Retransmits: 1,
	}
}

// What the called end's host throws away is in no report of the caller's.
func TestDropsOfBothEndsAreSummedUp(t *testing.T) { backends(t, testDropsOfBothEndsAreSummedUp) }

func testDropsOfBothEndsAreSummedUp(t *testing.T, open func(*testing.T, Config) *Store) {
	s := open(t, Config{})
	caller := flow("web", "db", 5432, 1000)
	caller.Drops, caller.DropReason, caller.TCPState, caller.ClientFlags, caller.ServerFlags = 2, "TCP_CSUM", "closed", "SFA", "SFA"
	called := caller
	called.Counted, called.AtServer, called.Host, called.Drops, called.DropReason = false, true, "db", 5, "SOCKET_RCVBUFF"
	quiet := called
	quiet.Drops, quiet.DropReason, quiet.TCPState = 0, "", "established"
	appendTo(t, s, Batch{HostUID: "u", Epoch: 1, Number: 1, Flows: []Flow{caller, called, quiet, flow("api", "db", 5432, 1)}})
	for _, rolled := range []bool{false, true} {
		if rolled {
			if err := s.Roll(context.Background(), true); err != nil {
				t.Fatal(err)
			}
		}
		got := sums(t, s, "client=web", Query{})
		if len(got) != 1 || got[0].Drops != 7 || got[0].Connections != 1 || got[0].Sent.Bytes != 1000 || got[0].Received.Packets != 2 || got[0].Retransmits != 1 || got[0].RTT != 300*time.Microsecond {
			t.Errorf("rolled up: %v: %+v", rolled, got)
		}
		var list []string
		for _, x := range sums(t, s, "drop-reason", Query{By: []string{"drop-reason", "host"}, Order: "drops"}) {
			list = append(list, fmt.Sprint(x.Key["drop-reason"], " ", x.Key["host"], " ", x.Drops))
		}
		if d := cmp.Diff([]string{"SOCKET_RCVBUFF db 5", "TCP_CSUM web 2"}, list); d != "" {
			t.Errorf("rolled up: %v: %s", rolled, d)
		}
	}
	for where, connections := range map[string]int{"tcp-state=closed": 1, "tcp-state": 1, "!tcp-state": 1, "server-flags=SFA": 1, "tcp-state=established": 0} {
		if got := sums(t, s, where, Query{By: []string{"client"}}); len(got) != connections {
			t.Errorf("%s: %+v", where, got)
		}
	}
	newest, _, err := s.List(context.Background(), Query{}, Cursor{})
	if err != nil {
		t.Fatal(err)
	}
	x, err := s.Explain(context.Background(), newest[len(newest)-1].ID)
	if err != nil {
		t.Fatal(err)
	}
	if r := x.AtServer; r.Drops != 5 || len(r.DropReasons) != 1 || r.TCPState != "established" || r.ServerFlags != "SFA" || x.AtClient.Drops != 2 {
		t.Errorf("at the server %+v, at the client %+v", r, x.AtClient)
	}
}

func appendTo(t *testing.T, s *Store, batches ...Batch) {
	t.Helper()
	if err := s.Append(context.Background(), batches); err != nil {
		t.Fatal(err)
	}
}

func sums(t *testing.T, s *Store, where string, q Query) []Sum {
	t.Helper()
	if where != "" {
		sel, err := model.ParseSelector(where)
		if err != nil {
			t.Fatal(err)
		}
		q.Where = &sel
	}
	out, err := s.Sums(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	return out.Items
}

func TestSumsByFieldsAndLabels(t *testing.T) { backends(t, testSumsByFieldsAndLabels) }

func testSumsByFieldsAndLabels(t *testing.T, open func(*testing.T, Config) *Store) {
	s := open(t, Config{})
	twice := flow("web", "db", 5432, 1000)
	twice.Counted, twice.AtServer, twice.Host = false, true, "db"
	world := flow("web", "", 443, 10)
	world.Server.Labels = nil
	appendTo(t, s, Batch{HostUID: "u", Epoch: 1, Number: 1, Flows: []Flow{flow("web", "db", 5432, 1000), twice, flow("web", "db", 5432, 500), flow("api", "db", 5432, 1), world}})

	got := sums(t, s, "", Query{By: []string{"client.app", "server.app", "port"}})
	want := []Sum{
		{Key: map[string]string{"client.app": "web", "server.app": "db", "port": "5432"}, Connections: 2, Sent: model.Count{Packets: 2, Bytes: 1500}, Received: model.Count{Packets: 4, Bytes: 3000}, RTT: 300 * time.Microsecond, Retransmits: 2, First: noon.Add(-time.Second), Last: noon.Add(-time.Millisecond)},
		{Key: map[string]string{"client.app": "web", "server.app": "", "port": "443"}, Connections: 1, Sent: model.Count{Packets: 1, Bytes: 10}, Received: model.Count{Packets: 2, Bytes: 20}, RTT: 300 * time.Microsecond, Retransmits: 1, First: noon.Add(-time.Second), Last: noon.Add(-time.Millisecond)},
		{Key: map[string]string{"client.app": "api", "server.app": "db", "port": "5432"}, Connections: 1, Sent: model.Count{Packets: 1, Bytes: 1}, Received: model.Count{Packets: 2, Bytes: 2}, RTT: 300 * time.Microsecond, Retransmits: 1, First: noon.Add(-time.Second), Last: noon.Add(-time.Millisecond)},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for where, connections := range map[string]uint64{
		"client.app=web": 3, "server.app!=db": 1, "app=db": 3, "app!=db": 1, "env": 3, "!env": 1, "port in (443,5432)": 4, "port notin (443)": 3, "protocol=tcp,process=/usr/bin/api": 1, "server=10.0.0.2": 1, "client in (web,nobody)": 3,
	} {
		if got := sums(t, s, where, Query{}); len(got) != 1 || got[0].Connections != connections {
			t.Errorf("%s: %+v, want %d connections", where, got, connections)
		}
	}
	if got := sums(t, s, "app=nobody", Query{}); len(got) != 0 {
		t.Errorf("of nobody: %+v", got)
	}
	if got := sums(t, s, "", Query{By: []string{"client"}, Limit: 1, Order: "connections"}); len(got) != 1 || got[0].Key["client"] != "web" {
		t.Errorf("top 1 by connections: %+v", got)
	}
	if got := sums(t, s, "", Query{Until: noon}); len(got) != 0 {
		t.Errorf("before noon: %+v", got)
	}
	if _, err := s.Sums(context.Background(), Query{By: []string{"clinet"}}); err == nil {
		t.Error("a field that does not exist was taken")
	}
}

// What is asked goes to the database as values, never as its language.
func TestNothingAskedIsSQL(t *testing.T) { backends(t, testNothingAskedIsSQL) }

func testNothingAskedIsSQL(t *testing.T, open func(*testing.T, Config) *Store) {
	s := open(t, Config{})
	appendTo(t, s, Batch{HostUID: "u", Epoch: 1, Number: 1, Flows: []Flow{flow("web", "db", 5432, 1)}})
	for _, evil := range []string{"x'; DROP TABLE reports; --", `x\'; DROP TABLE reports; --`, "?", `\`, "''", "\x00"} {
		where := &model.Selector{Requirements: []model.Requirement{{Key: "client", Operator: model.OpIn, Values: []string{evil}}, {Key: evil, Operator: model.OpExists}}}
		if got, err := s.Sums(context.Background(), Query{Where: where, By: []string{"client." + evil}}); err != nil || len(got.Items) != 0 {
			t.Errorf("%v, %v", got, err)
		}
	}
	if got := sums(t, s, "", Query{}); len(got) != 1 {
		t.Error("the flow is gone")
	}
}

func TestBatchesAreKeptOnce(t *testing.T) { backends(t, testBatchesAreKeptOnce) }

func testBatchesAreKeptOnce(t *testing.T, open func(*testing.T, Config) *Store) {
	s := open(t, Config{})
	batch := func(host string, epoch, number uint64) Batch {
		return Batch{HostUID: host, Epoch: epoch, Number: number, Lost: 3, Flows: []Flow{flow("web", fmt.Sprint(host, epoch, number), 80, 1)}}
	}
	appendTo(t, s, batch("a", 1, 1), batch("a", 1, 2), batch("b", 1, 1))
	appendTo(t, s, batch("a", 1, 2), batch("a", 1, 3)) // the first is sent again
	appendTo(t, s, batch("a", 1, 1))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, Config{})
	appendTo(t, s, batch("a", 1, 3), batch("a", 2, 1), batch("b", 1, 1))
	if got := sums(t, s, "", Query{}); got[0].Connections != 5 {
		t.Errorf("%d connections, want 5", got[0].Connections)
	}
	if !s.Has("a", 2, 1) || s.Has("a", 2, 2) || s.Has("c", 1, 1) {
		t.Error("the store does not know what it has")
	}
	if s.Lost() != 9 {
		t.Errorf("%d lost, want 3 of each account", s.Lost())
	}
	// Sets of labels are the same numbers after a restart.
	if got := sums(t, s, "client.app=web", Query{}); got[0].Connections != 5 {
		t.Errorf("%d of web, want 5", got[0].Connections)
	}
}

func TestListPages(t *testing.T) { backends(t, testListPages) }

func testListPages(t *testing.T, open func(*testing.T, Config) *Store) {
	s := open(t, Config{})
	var flows []Flow
	for n := range 10 {
		flows = append(flows, flow("web", "db", uint16(n), uint64(n)))
	}
	use := Application{Protocol: "http", Name: "shop.example.org", ALPN: "h2", Method: "GET", Path: "/orders/{id}", Status: 200, Latency: 7 * time.Millisecond, Software: "nginx"}
	flows[9].Application = use
	appendTo(t, s, Batch{HostUID: "u", Epoch: 1, Number: 1, Flows: flows})
	list := func(q Query, at Cursor) ([]Flow, Cursor) {
		t.Helper()
		out, next, err := s.List(context.Background(), q, at)
		if err != nil {
			t.Fatal(err)
		}
		return out, next
	}
	newest, at := list(Query{Limit: 4}, Cursor{})
	older, _ := list(Query{Limit: 4}, at)
	if newest[0].Server.Port != 9 || older[0].Server.Port != 5 {
		t.Errorf("newest %d, then %d", newest[0].Server.Port, older[0].Server.Port)
	}
	tail, at := list(Query{Limit: 100}, Cursor{After: newest[1].ID})
	if len(tail) != 1 || tail[0].Server.Port != 9 {
		t.Errorf("after the one before the last: %v", tail)
	}
	if tail, next := list(Query{}, at); len(tail) != 0 || next != at {
		t.Errorf("after the last: %v, %v", tail, next)
	}
	want := flow("web", "db", 9, 9)
	want.ID, want.Application = newest[0].ID, use
	want.CommunityID = packet.CommunityID(0, 6, netip.MustParseAddrPort("10.0.0.2:9"), netip.MustParseAddrPort("10.0.0.1:40000"))
	if d := cmp.Diff(want, newest[0], cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); d != "" {
		t.Error(d)
	}
}

func TestWhenPacketsWere(t *testing.T) { backends(t, testWhenPacketsWere) }

// A last packet may have been a little after its report; one that claims to be much
// later than it was a little later, and took as long as it says.
func testWhenPacketsWere(t *testing.T, open func(*testing.T, Config) *Store) {
	s := open(t, Config{})
	const most = aheadMost * time.Millisecond
	times := []struct{ first, last, wantFirst, wantLast time.Time }{
		{noon.Add(-time.Hour), noon.Add(-time.Millisecond), noon.Add(-time.Hour), noon.Add(-time.Millisecond)},
		{noon.Add(-400 * 24 * time.Hour), noon.Add(-30 * 24 * time.Hour), noon.Add(-400 * 24 * time.Hour), noon.Add(-30 * 24 * time.Hour)},
		{noon.Add(time.Second), noon.Add(2 * time.Second), noon.Add(time.Second), noon.Add(2 * time.Second)},
		{noon.Add(time.Hour), noon.Add(time.Hour + time.Second), noon.Add(most - time.Second), noon.Add(most)},
		{noon, noon.Add(-time.Second), noon.Add(-time.Second), noon.Add(-time.Second)}, // it began after it ended
		{time.UnixMilli(0), time.UnixMilli(0), time.UnixMilli(0), time.UnixMilli(0)},
	}
	b := Batch{HostUID: "u", Epoch: 1, Number: 1}
	for _, x := range times {
		f := flow("web", "db", uint16(1+len(b.Flows)), 1)
		f.First, f.Last = x.first, x.last
		b.Flows = append(b.Flows, f)
	}
	appendTo(t, s, b)
	check := func(from string) {
		t.Helper()
		for i := range b.Flows {
			want := times[i]
			got := sums(t, s, fmt.Sprintf("port=%d", 1+i), Query{})
			if len(got) != 1 || !got[0].First.Equal(want.wantFirst) || !got[0].Last.Equal(want.wantLast) {
				t.Errorf("%s: %d is %+v, want %s and %s", from, i, got, want.wantFirst, want.wantLast)
			}
		}
	}
	check("reports")
	list, _, err := s.List(context.Background(), Query{}, Cursor{})
	if err != nil || len(list) != len(b.Flows) {
		t.Fatalf("%d of %d, %v", len(list), len(b.Flows), err)
	}
	for i, f := range list {
		if want := times[len(list)-1-i]; !f.First.Equal(want.wantFirst) || !f.Last.Equal(want.wantLast) {
			t.Errorf("listed: %s and %s, want %s and %s", f.First, f.Last, want.wantFirst, want.wantLast)
		}
	}
	if err := s.Roll(context.Background(), true); err != nil {
		t.Fatal(err)
	}
	check("sums")
}

func TestPrune(t *testing.T) { backends(t, testPrune) }

func testPrune(t *testing.T, open func(*testing.T, Config) *Store) {
	now := noon
	s := open(t, Config{Now: func() time.Time { return now }})
	old := flow("web", "db", 1, 1)
	old.Time = noon.Add(-8 * 24 * time.Hour)
	appendTo(t, s, Batch{HostUID: "u", Epoch: 1, Number: 1, Flows: []Flow{old, flow("web", "db", 1, 1)}})
	if err := s.Prune(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got, _, err := s.List(context.Background(), Query{}, Cursor{}); err != nil || len(got) != 1 {
		t.Errorf("%d reports are left, want 1; %v", len(got), err)
	}
	if got := sums(t, s, "", Query{}); got[0].Connections != 2 {
		t.Errorf("sums know of %d connections, want both", got[0].Connections)
	}
	now = now.Add(24 * 24 * time.Hour) // 32 days after the older one, 24 after the other
	if err := s.Prune(context.Background()); err != nil {
		t.Fatal(err)
	}
	before, recent := noon.Add(-9*24*time.Hour), noon.Add(-24*time.Hour)
	for since, want := range map[time.Time]uint64{{}: 2, before: 2, recent: 1} {
		if got := sums(t, s, "", Query{Since: since}); got[0].Connections != want {
			t.Errorf("since %s: %d connections, want %d", since, got[0].Connections, want)
		}
	}
	a, err := s.Sums(context.Background(), Query{Since: before.Add(time.Minute)})
	if err != nil || !a.Since.Equal(before) {
		t.Errorf("asked about a minute past %s, the answer is about the time from %s, %v", before, a.Since, err)
	}
	if _, err := s.Sums(context.Background(), Query{Since: before, By: []string{"pid"}}); !errors.Is(err, ErrQuery) {
		t.Errorf("by pid, of what is forgotten: %v", err)
	}
	now = now.Add(400 * 24 * time.Hour)
	if err := s.Prune(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := sums(t, s, "", Query{}); len(got) != 0 {
		t.Errorf("after all that time: %v", got)
	}
}
