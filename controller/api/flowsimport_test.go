package api_test

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"weft/controller/api"
	"weft/model"
	"weft/wire/flowwire"
)

func importBody(t *testing.T, number uint64) string {
	t.Helper()
	now := time.Now()
	b, err := flowwire.Encode(now, []flowwire.Record{{
		Workload: "web-1", Process: flowwire.Process{Exe: "/bin/false"}, Local: netip.MustParseAddrPort("10.0.0.1:40000"), Remote: netip.MustParseAddrPort("192.0.2.7:443"), Protocol: 6,
		Egress: true, New: true, Action: model.ActionAllow, First: now.Add(-30 * 365 * 24 * time.Hour), Last: now, Sent: flowwire.Count{Packets: 1, Bytes: 60},
	}})
	if err != nil {
		t.Fatal(err)
	}
	b.Number, b.Epoch, b.Lost = number, 99, 7
	out, err := proto.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// A batch is kept once, whatever it says of itself, and its ends are addresses.
func TestImportedFlows(t *testing.T) {
	s, c := start(t)
	s.World.SetAddress("web-1", "10.0.0.1")
	digest := strings.Repeat("0a", 32)
	path := "/api/v1/flows/import?name=trace.pcap&digest=" + digest
	for i, known := range []bool{false, true} {
		got := c.want(http.StatusOK, http.MethodPost, path, importBody(t, 1))
		if got["host"] != "import:trace.pcap" || got["records"] != 1.0 || got["known"] != known {
			t.Errorf("time %d: %v", i+1, got)
		}
	}
	var list api.FlowList
	if err := json.Unmarshal(c.do(http.MethodGet, "/api/v1/flows", "").Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || list.Lost != 0 {
		t.Fatalf("%+v", list)
	}
	if f := list.Items[0]; f.Host != "import:trace.pcap" || f.Client.Workload != "" || f.Process != "" || !f.Counted || f.Server.Port != 443 {
		t.Errorf("%+v", f)
	}
	for query, want := range map[string]string{
		"name=trace.pcap&digest=" + strings.Repeat("0", 63): "digest",
		"name=trace.pcap&digest=" + strings.Repeat("x", 64): "SHA-256",
		"name=a,b&digest=" + digest:                         "has other characters than letters",
		"digest=" + digest:                                  "name",
	} {
		if w := c.do(http.MethodPost, "/api/v1/flows/import?"+query, importBody(t, 1)); w.Code != http.StatusUnprocessableEntity || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
	for body, want := range map[string]string{"no protobuf": "is no FlowBatch", importBody(t, 0): "without a number"} {
		if w := c.do(http.MethodPost, path, body); w.Code/100 != 4 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%q: %d %s", body, w.Code, w.Body)
		}
	}
	c.token = ""
	if w := c.do(http.MethodPost, path, importBody(t, 2)); w.Code != http.StatusUnauthorized {
		t.Errorf("without a token: %d", w.Code)
	}
}
