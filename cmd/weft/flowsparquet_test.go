package main

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"

	"weft/controller/api"
	"weft/controller/flowstore"
	"weft/model"
)

// What is written can be read by others: columns by name, with their types.
func TestParquet(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 5_000_000, time.UTC)
	f := newParquetFlow(&flowstore.Flow{ID: 7, Time: at, First: at, Last: at, Host: "web", AtServer: true, Protocol: 6, Rule: 1<<63 + 1, Action: model.ActionAllow, Sent: model.Count{Packets: 1, Bytes: 2}, RTT: 3 * time.Microsecond,
		Client: flowstore.End{Workload: "web", Labels: map[string]string{"app": "web"}, Address: netip.MustParseAddr("10.0.0.1"), Port: 40000}, Server: flowstore.End{Address: netip.MustParseAddr("2001:db8::1"), Port: 443}})
	var b bytes.Buffer
	w := parquet.NewGenericWriter[parquetFlow](&b)
	if _, err := w.Write([]parquetFlow{f}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := parquet.Read[parquetFlow](bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	for _, x := range []*time.Time{&got[0].Time, &got[0].First, &got[0].Last} {
		*x = x.UTC()
	}
	f.ServerLabels = map[string]string{} // which a file cannot tell from none
	if got[0].ServerLabels == nil {
		f.ServerLabels = nil
	}
	if d := cmp.Diff(f, got[0]); d != "" {
		t.Error(d)
	}

	b.Reset()
	sums := &api.FlowSums{By: []string{"client.app", "port"}, Items: []flowstore.Sum{{Key: map[string]string{"client.app": "web", "port": "443"}, Connections: 3, Received: model.Count{Bytes: 1 << 40}}}}
	if err := writeSumsParquet(&b, sums); err != nil {
		t.Fatal(err)
	}
	type row struct {
		App   string `parquet:"client.app"`
		Port  string `parquet:"port"`
		Count uint64 `parquet:"connections"`
		Bytes uint64 `parquet:"received_bytes"`
	}
	rows, err := parquet.Read[row](bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]row{{"web", "443", 3, 1 << 40}}, rows); d != "" {
		t.Error(d)
	}
}
