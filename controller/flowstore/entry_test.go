package flowstore

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weft/model"
)

// bothEnds are both ends' reports of a connection; at says when each began by its own
// clock, and lost how many bytes did not arrive.
func bothEnds(port uint16, lost uint64) (client, server Flow) {
	client = flow("web", "db", 5432, 10_000)
	client.Client.Port, client.Ended = port, true
	client.Sent.Packets, client.Received.Packets = 5, 4
	server = client
	server.Host, server.AtServer, server.Counted, server.Process = "db", true, false, "/usr/bin/postgres"
	server.First = client.First.Add(3 * time.Second) // clocks differ
	server.Sent.Bytes -= lost
	if lost > 0 {
		server.Sent.Packets--
	}
	return client, server
}

func TestBothBooks(t *testing.T) { backends(t, testBothBooks) }

func testBothBooks(t *testing.T, open func(*testing.T, Config) *Store) {
	s := open(t, Config{})
	ctx := context.Background()
	var list []Flow
	both := func(port uint16, lost uint64, change func(c, s *Flow)) uint64 {
		c, s := bothEnds(port, lost)
		if change != nil {
			change(&c, &s)
		}
		list = append(list, c, s)
		return uint64(len(list) - 1) // of the client's
	}
	agree := both(1001, 0, nil)
	lossy := both(1002, 1448, nil)
	super := both(1003, 0, func(c, s *Flow) { // three packets that the server got as one
		s.Sent = model.Count{Packets: c.Sent.Packets - 2, Bytes: c.Sent.Bytes - 2*52}
	})
	invented := both(1004, 0, func(c, s *Flow) { c.Received.Bytes += 5000 })
	under := both(1005, 700, func(c, s *Flow) { s.Ended = false })
	masked := both(1006, 0, func(c, s *Flow) {
		c.Client.Workload, c.Client.Address, c.Host = "web:shop", netip.MustParseAddr("172.17.0.2"), "web"
		s.Client = End{Workload: "web", Address: netip.MustParseAddr("10.0.0.1"), Port: 1006}
	})
	hidden := both(1007, 0, func(c, s *Flow) { s.Client.Address, s.Client.Port = netip.MustParseAddr("192.0.2.9"), 6000 })
	dialled := both(1008, 0, func(c, s *Flow) { c.Dialled = netip.MustParseAddrPort("172.30.0.1:80") })
	reused := both(1002, 0, func(c, s *Flow) { c.First, s.First = c.First.Add(-time.Minute), s.First.Add(-time.Minute) })
	// A long connection has many reports.
	for i := range 3 {
		both(1009, 0, func(c, s *Flow) {
			c.New, s.New, c.Ended, s.Ended = i == 0, i == 0, i == 2, i == 2
			s.Sent.Bytes += []uint64{0, 900, 0}[i] // not each of them need agree
			c.Sent.Bytes += []uint64{0, 0, 900}[i]
		})
	}
	long := uint64(len(list) - 1)
	appendTo(t, s, Batch{HostUID: "u", Epoch: 1, Number: 1, Flows: list})
	first := uint64(0)
	if all, _, err := s.List(ctx, Query{}, Cursor{}); err != nil {
		t.Fatal(err)
	} else {
		first = all[len(all)-1].ID
	}
	explain := func(index uint64) *Connection {
		t.Helper()
		var a, b *Connection
		for i, out := range []**Connection{&a, &b} {
			c, err := s.Explain(ctx, first+index-1+uint64(i))
			if err != nil {
				t.Fatal(err)
			}
			*out = c
		}
		if (a.AtClient == nil) != (b.AtClient == nil) && index != hidden {
			t.Errorf("flow %d: asked by either end's flow the answers differ", index)
		}
		return a
	}
	lost := func(c *Connection) Difference {
		if c.Lost == nil {
			return Difference{-1, -1}
		}
		return *c.Lost
	}
	for name, x := range map[string]struct {
		index   uint64
		lost    Difference
		reports int
		say     string
	}{
		"agree":            {agree, Difference{}, 1, ""},
		"loss on the path": {lossy, Difference{Sent: 1448}, 1, ""},
		"super-frames":     {super, Difference{}, 1, ""},
		"never sent":       {invented, Difference{Received: -5000}, 1, ""},
		"under way":        {under, Difference{-1, -1}, 1, "not both ends have told all"},
		"masquerade":       {masked, Difference{}, 1, "172.17.0.2 on its host, and 10.0.0.1 where it arrives"},
		"hidden":           {hidden, Difference{-1, -1}, 1, "an address is rewritten on the way"},
		"rewritten":        {dialled, Difference{}, 1, "called 172.30.0.1:80"},
		"ports used again": {reused, Difference{}, 1, ""},
		"long":             {long, Difference{}, 3, ""},
	} {
		c := explain(x.index)
		if lost(c) != x.lost || c.AtClient.Reports != x.reports {
			t.Errorf("%s: lost %+v, want %+v; %d reports", name, lost(c), x.lost, c.AtClient.Reports)
		}
		if text := strings.Join(append(c.Notes, c.Translations...), "; "); !strings.Contains(text, x.say) || (x.say == "") != (text == "") {
			t.Errorf("%s: it says %q, want %q", name, text, x.say)
		}
	}
	if _, err := s.Explain(ctx, 1<<60); !errors.Is(err, ErrNoFlow) {
		t.Errorf("a flow that is not there: %v", err)
	}
	got, err := s.Disagreements(ctx, Query{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Lost != (Difference{Received: -5000}) || got[1].Lost != (Difference{Sent: 1448}) || got[1].Client != "web" || got[1].Server != "db" || got[1].Port != 5432 {
		t.Errorf("disagreements: %+v", got)
	}
	if got, err := s.Disagreements(ctx, Query{Limit: 1, Since: noon.Add(-time.Hour)}); err != nil || len(got) != 1 {
		t.Errorf("the first: %+v, %v", got, err)
	}
}
