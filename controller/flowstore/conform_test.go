package flowstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weft/internal/clickhousetest"
	"weft/internal/testreq"
	"weft/model"
)

// fleet makes flows of a made-up fleet, the same for the same seed.
type fleet struct {
	*rand.Rand
	workloads []End
	processes []string
	clock     time.Time
	number    uint64
}

func newFleet(seed uint64, from time.Time) *fleet {
	f := &fleet{Rand: rand.New(rand.NewPCG(seed, 1)), clock: from}
	for i := range 60 {
		labels := map[string]string{"app": fmt.Sprintf("app-%d", i%12), "env": []string{"prod", "stage"}[i%2]}
		if i%5 == 0 {
			labels["team"] = "shop"
		}
		f.workloads = append(f.workloads, End{Workload: fmt.Sprintf("web-%d:app", i), Labels: labels, Address: netip.AddrFrom4([4]byte{10, 0, byte(i / 8), byte(i)})})
	}
	f.processes = []string{"/usr/bin/curl", "/usr/lib/postgresql/15/bin/postgres", "/usr/sbin/nginx", "/opt/api/bin/api-server", ""}
	return f
}

// batch makes reports of both ends of connections, within the next so many
// seconds.
func (f *fleet) batch(flows int, within time.Duration) Batch {
	f.number++
	b := Batch{HostUID: "u", Epoch: 1, Number: f.number}
	for len(b.Flows) < flows {
		at := f.clock.Add(time.Duration(f.Int64N(int64(within)))).Truncate(time.Millisecond)
		client, server := f.workloads[f.IntN(len(f.workloads))], f.workloads[f.IntN(8)]
		client.Port, server.Port = uint16(32768+f.IntN(28000)), []uint16{80, 443, 5432, 6379}[f.IntN(4)]
		x := Flow{
			Time: at, First: at.Add(-time.Duration(f.IntN(20_000)) * time.Millisecond), Last: at, Host: client.Workload[:5], Counted: true, Client: client, Server: server, Protocol: []uint8{6, 6, 6, 17}[f.IntN(4)],
			Process: f.processes[f.IntN(len(f.processes))], PID: uint32(f.IntN(30_000)), User: []string{"root", "www-data", "deploy"}[f.IntN(3)], Command: "worker",
			Action: model.ActionAllow, Rule: []uint64{0, 1<<63 + 7, 12345678901234567}[f.IntN(3)], New: f.IntN(3) > 0, Ended: f.IntN(3) > 0,
			Sent: model.Count{Packets: 1 + f.Uint64N(100), Bytes: 60 + f.Uint64N(1<<20)}, Received: model.Count{Packets: f.Uint64N(100), Bytes: f.Uint64N(1 << 24)},
			RTT: time.Duration(f.IntN(3)*f.IntN(90_000)) * time.Microsecond, Retransmits: uint32(max(0, f.IntN(20)-16)),
		}
		if x.Protocol == 6 {
			x.TCPState, x.ClientFlags, x.ServerFlags = []string{"syn-sent", "established", "closed"}[f.IntN(3)], "SPA", []string{"", "SA", "FSA"}[f.IntN(3)]
		}
		if f.IntN(15) == 0 {
			x.Drops, x.DropReason = uint32(1+f.IntN(9)), []string{"SOCKET_RCVBUFF", "NETFILTER_DROP", "POLICY"}[f.IntN(3)]
		}
		switch f.IntN(10) {
		case 0: // the world
			x.Server = End{Address: netip.AddrFrom4([4]byte{198, 51, 100, byte(f.IntN(256))}), Port: 443}
			x.Server.Country = []string{"", "NO", "SE", "DE"}[f.IntN(4)]
			if x.Server.AS = []uint32{0, 64500, 6450, 645}[f.IntN(4)]; x.Server.AS == 64500 {
				x.Server.Organization = "Example of 64500, Inc."
			}
			if f.IntN(2) == 0 {
				x.Name = fmt.Sprintf("host-%d.example.org", f.IntN(40))
			}
		case 1:
			x.Action = model.ActionDeny
		case 3:
			x.Application = Application{Protocol: "http", Name: fmt.Sprintf("shop-%d.example.org", f.IntN(9)), Method: "GET", Path: fmt.Sprintf("/orders/%d", f.IntN(20)), Status: uint16(200 + f.IntN(5)), Latency: time.Duration(f.IntN(900)) * time.Microsecond, Software: "x"}
		case 4:
			x.Application = Application{Protocol: "tls", ALPN: "h2"}
			x.Observed, x.Counted = true, f.IntN(2) == 0
		case 2:
			x.Dialled = netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 30, 0, byte(f.IntN(9))}), 80)
		}
		b.Flows = append(b.Flows, x)
		if x.Server.Workload != "" && x.Dialled.IsValid() == false {
			if x.Received.Bytes%50 == 0 { // lost on the way
				x.Received.Bytes += 3000
			}
			x.Observed = false
			x.AtServer, x.Counted, x.Host, x.Process = true, false, server.Workload[:5], "/usr/sbin/nginx"
			b.Flows = append(b.Flows, x)
		}
	}
	f.clock = f.clock.Add(within)
	return b
}

// questions are of every kind.
func questions(now time.Time) []Query {
	where := func(text string) *model.Selector {
		s, err := model.ParseSelector(text)
		if err != nil {
			panic(err)
		}
		return &s
	}
	var out []Query
	for _, f := range Fields() {
		out = append(out, Query{By: []string{f}})
	}
	for _, by := range [][]string{{}, {"client.app", "server.app", "port"}, {"client", "server"}, {"client", "process", "server", "port"}, {"client.none"}, {"server.team", "action"}, {"name", "protocol", "reporter"}, {"application", "method", "path", "status"}, {"drop-reason", "server"},
		{"client-country", "server-country", "server-as"}, {"client-host", "server-host"}, {"client-group", "server-group"}, {"server-group", "client.app", "port"}, {"client-group", "client"}} {
		out = append(out, Query{By: by, Order: Orders()[len(by)%4], Limit: 25})
	}
	for _, by := range [][]string{{}, {"client", "server.app", "port"}, {"minute"}, {"server.app", "hour"}, {"day", "protocol"}} {
		for _, t := range [][2]time.Duration{{time.Hour, 0}, {90 * time.Second, 0}, {3*time.Hour + 1234*time.Millisecond, 0}, {26 * time.Hour, 25*time.Hour + 700*time.Millisecond}, {2 * time.Hour, 2*time.Hour - time.Millisecond}, {48 * time.Hour, 3 * time.Hour}, {7 * time.Hour, 5 * time.Hour}} {
			out = append(out, Query{By: by, Since: now.Add(-t[0]), Until: now.Add(-t[1])})
		}
	}
	for _, w := range []string{"port=443", "port in (80,443),client.app=app-3", "app=app-1", "app notin (app-1,app-2)", "!team", "team", "server.team", "!server.team", "client.env!=prod", "name", "!name", "protocol=udp,action!=Deny", "process=/usr/sbin/nginx", "rule=9223372036854775815", "server in (host-3.example.org,web-1:app)", "client-port=40000", "reporter=server", "reporter=observer", "tcp-state in (syn-sent,closed)", "client-flags", "server-flags=FSA,!drop-reason", "drop-reason", "drop-reason=SOCKET_RCVBUFF", "protocol=17", "application=http,status in (200,201)", "!application", "server-name", "none", "!none",
		"country=no", "country!=DE", "!country", "server-country in (DE,SE)", "as=64500", "as notin (AS645)", "!as", "server-as", "client-host=web-1", "group=shop", "group!=shop,client-group in (stages,apps)", "!server-group", "client-group", "group=none"} {
		out = append(out, Query{By: []string{"client", "server"}, Where: where(w), Since: now.Add(-5 * time.Hour)})
	}
	return append(out, Query{By: []string{"client.app"}, Labels: where("env=prod,app!=app-4")})
}

// Both databases answer every question alike, and neither's answers depend on what
// is summed up already.
func TestDatabasesAnswerAlike(t *testing.T) {
	testreq.Need(t, clickhousetest.Program)
	total := 200_000
	if os.Getenv("WEFT_REQUIRE") == "" { // at home the whole suite is to take less than a minute
		total = 20_000
	}
	from := noon.Add(-30 * time.Hour)
	now := noon
	ctx := context.Background()
	open := func(cfg Config) *Store {
		cfg.Now, cfg.Groups = func() time.Time { return now }, someGroups
		s, err := Open(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	plain, duck, click := open(Config{}), open(Config{Dir: t.TempDir()}), open(Config{ClickHouse: sharedServer(t) + "/alike"})
	f := newFleet(7, from)
	const batches = 8
	for i := range batches {
		b := []Batch{f.batch(total/batches, 30*time.Hour/batches)}
		for _, s := range []*Store{plain, duck, click} {
			if err := s.Append(ctx, b); err != nil {
				t.Fatal(err)
			}
			if s != plain && i%3 == 0 { // the last one stays as it is
				if err := s.Roll(ctx, i < batches/2); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	list := questions(noon)
	for i := range list {
		if os.Getenv("WEFT_REQUIRE") == "" && i%2 == 1 {
			continue
		}
		q := list[i]
		want, err := plain.Sums(ctx, q)
		if err != nil {
			t.Fatalf("%+v: %v", q, err)
		}
		for name, s := range map[string]*Store{"DuckDB": duck, "ClickHouse": click} {
			got, err := s.Sums(ctx, q)
			if err != nil {
				t.Fatalf("%s: %+v: %v", name, q, err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatalf("%s: %+v where %v:\n%s", name, q, q.Where, d)
			}
		}
		if i%5 > 0 {
			continue
		}
		q.Limit = 200
		reports, _, err := plain.List(ctx, q, Cursor{})
		if err != nil {
			t.Fatal(err)
		}
		for name, s := range map[string]*Store{"DuckDB": duck, "ClickHouse": click} {
			got, _, err := s.List(ctx, q, Cursor{})
			if err != nil {
				t.Fatalf("%s: %+v: %v", name, q, err)
			}
			if d := cmp.Diff(reports, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.IgnoreFields(Flow{}, "ID")); d != "" {
				t.Fatalf("%s: list %+v:\n%s", name, q, d)
			}
		}
	}
	want, err := plain.Disagreements(ctx, Query{Limit: 500})
	if err != nil || len(want) == 0 {
		t.Fatalf("%d disagreements, %v", len(want), err)
	}
	for name, s := range map[string]*Store{"DuckDB": duck, "ClickHouse": click} {
		got, err := s.Disagreements(ctx, Query{Limit: 500})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := cmp.Diff(want, got, cmpopts.IgnoreFields(Disagreement{}, "ID")); d != "" {
			t.Errorf("%s: disagreements:\n%s", name, d)
		}
	}
}
