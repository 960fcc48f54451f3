package export

import (
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	collogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logsv1 "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	"weft/controller/flowstore"
	"weft/model"
)

// A receiver decodes flows with OpenTelemetry's own package, and refuses one.
func TestOTLPIsLogRecords(t *testing.T) {
	var mu sync.Mutex
	var got []*logsv1.LogRecord
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var in collogs.ExportLogsServiceRequest
		z, err := gzip.NewReader(r.Body)
		if err != nil || r.URL.Path != "/v1/logs" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%v: %s, %v", err, r.URL, r.Header)
			return
		}
		body, err := io.ReadAll(z)
		if err == nil {
			err = proto.Unmarshal(body, &in)
		}
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		answer := &collogs.ExportLogsServiceResponse{}
		if len(got) == 0 {
			answer.PartialSuccess = &collogs.ExportLogsPartialSuccess{RejectedLogRecords: 1, ErrorMessage: "no"}
		}
		for _, x := range in.GetResourceLogs() {
			for _, y := range x.GetScopeLogs() {
				got = append(got, y.GetLogRecords()...)
			}
		}
		out, _ := proto.Marshal(answer)
		_, _ = rw.Write(out)
	}))
	defer server.Close()
	w := newWorld(t)
	e, stop := w.run(fmt.Sprintf("exporters:\n- {name: o, otlp: {url: '%s/v1/logs'}}\n", server.URL), Deps{})
	w.add(4000, 3, func(i int, f *flowstore.Flow) {
		if i == 2 {
			f.Action = model.ActionDeny
			f.Client.Country, f.Client.AS, f.Client.Organization = "NO", 64500, "Example"
		}
	})
	await(t, "flows", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) == 3 })
	await(t, "the account", func() bool { return e.followers[0].state().Sent == 2 })
	stop()
	if s := e.followers[0].state(); s.Refused != 1 || s.Failures != 0 {
		t.Errorf("%+v", s)
	}
	values := map[string]string{}
	for _, a := range got[2].GetAttributes() {
		values[a.GetKey()] = a.GetValue().GetStringValue()
		if n := a.GetValue().GetIntValue(); n != 0 {
			values[a.GetKey()] = fmt.Sprint(n)
		}
	}
	for key, want := range map[string]string{"source.geo.country.iso_code": "NO", "source.as.number": "64500", "source.as.organization.name": "Example", "destination.geo.country.iso_code": "", "destination.as.number": "",
		"source.address": "10.0.0.1", "source.port": "4002", "destination.address": "10.0.0.2", "destination.port": "5432", "network.transport": "tcp", "network.type": "ipv4",
		"server.address": "db.example.org", "host.name": "web-1", "process.executable.path": "/srv/orders/api", "process.pid": "7", "user.name": "ann", "weft.client.label.app": "web", "weft.server.workload": "db-1",
		"weft.action": "Deny", "weft.sent.bytes": "300", "weft.received.packets": "5", "weft.rtt_us": "300"} {
		if values[key] != want {
			t.Errorf("%s is %q, not %q", key, values[key], want)
		}
	}
	if r := got[2]; r.GetSeverityText() != "WARN" || r.GetEventName() != "weft.flow" || r.GetBody().GetStringValue() != "web-1 -> db-1 tcp/5432 Deny" || r.GetTimeUnixNano() >= r.GetObservedTimeUnixNano() {
		t.Errorf("the record is %v", r)
	}
}

// What an agent says may be no UTF-8, which protobuf would not take.
func TestOTLPTakesAnyText(t *testing.T) {
	f := sample(1)
	f.User, f.Client.Labels = "\xff", map[string]string{"\xfe": "\xfd"}
	if _, err := proto.Marshal(logRequest([]flowstore.Flow{f})); err != nil {
		t.Error(err)
	}
}
