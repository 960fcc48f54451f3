package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"weft/agent/collector"
	"weft/controller/export"
	"weft/controller/flowstore"
	"weft/model"
	"weft/wire/flowwire"
)

// What a controller exports by IPFIX an agent's collector takes: it reads of a
// biflow what the client sent, once.
func TestExportsAreCollected(t *testing.T) {
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.LocalAddr().String()
	free.Close()
	var mu sync.Mutex
	var got []flowwire.Record
	c, err := collector.New(collector.Config{Listeners: []collector.Listener{{Address: address, From: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}}, collector.Deps{Records: func(list []flowwire.Record) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, list...)
	}})
	if err != nil {
		t.Fatal(err)
	}
	store, err := flowstore.Open(t.Context(), flowstore.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	file := filepath.Join(t.TempDir(), "exports.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "exporters:\n- {name: c, ipfix: {address: '%s', enterprise: 99999}}\n", address), 0o600); err != nil {
		t.Fatal(err)
	}
	settings, err := export.ReadSettings(file)
	if err != nil {
		t.Fatal(err)
	}
	e, err := export.New(export.Config{Exporters: settings.Exporters, Poll: 5 * time.Millisecond}, export.Deps{Flows: store, Keep: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	ready := make(chan struct{})
	all.Go(func() { _ = c.Run(ctx, func() { close(ready) }) })
	<-ready
	all.Go(func() { _ = e.Run(ctx, func() {}) })
	now := time.Now()
	f := flowstore.Flow{Time: now, First: now.Add(-time.Second), Last: now, Host: "web-1", Counted: true, Protocol: 6, Action: model.ActionAllow, User: "ann", Process: "/srv/api", Sent: model.Count{Packets: 3, Bytes: 300}, Received: model.Count{Packets: 5, Bytes: 7000},
		Client: flowstore.End{Address: netip.MustParseAddr("10.0.0.1"), Port: 40000}, Server: flowstore.End{Address: netip.MustParseAddr("10.0.0.2"), Port: 5432}}
	g := f
	g.Client.Address, g.Server.Address = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	if err := store.Append(t.Context(), []flowstore.Batch{{HostUID: "h", Epoch: 1, Number: 1, Flows: []flowstore.Flow{f, g}}}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		mu.Lock()
		n := len(got)
		mu.Unlock()
		if n == 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d records within 20 s", n)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for i, want := range []flowstore.Flow{f, g} {
		if r := got[i]; r.Local.Addr() != want.Client.Address || r.Remote != netip.AddrPortFrom(want.Server.Address, 5432) || r.Sent != (flowwire.Count{Packets: 3, Bytes: 300}) || r.First.UnixMilli() != f.First.UnixMilli() {
			t.Errorf("it took %+v", r)
		}
	}
}
