package export

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	collogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	logsv1 "go.opentelemetry.io/proto/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"

	"weft/controller/endpoint"
	"weft/controller/flowstore"
	"weft/internal/version"
	"weft/model"
)

// OTLP posts flows as log records in OTLP/HTTP with protobuf. Attributes have the
// names of OpenTelemetry's semantic conventions where there are such, and begin with
// weft. where not.
type OTLP struct {
	// Endpoint is that of logs, which ends with /v1/logs for most receivers.
	endpoint.Endpoint `yaml:",inline"`
}

func (o *OTLP) check() error { return o.Endpoint.Check() }

func (o *OTLP) sender(deps Deps) (sender, error) {
	p, err := newPoster(&o.Endpoint)
	return &logs{poster: p, said: func(n int64, why string) {
		deps.Log.Warn("an OTLP receiver does not take some flows", "flows", n, "why", why)
	}}, err
}

type logs struct {
	*poster
	said    func(n int64, why string)
	refused uint64
}

func (l *logs) refusals() uint64 { return l.refused }

func (l *logs) send(ctx context.Context, flows []flowstore.Flow) (int, error) {
	return halve(flows, func() { l.refused++ }, func(part []flowstore.Flow) error {
		body, err := proto.Marshal(logRequest(part))
		if err != nil {
			return fmt.Errorf("encode flows: %w", err)
		}
		answer, err := l.post(ctx, "application/x-protobuf", body)
		if err != nil {
			return err
		}
		var said collogs.ExportLogsServiceResponse
		if err := proto.Unmarshal(answer, &said); err != nil {
			return errors.New("the answer is none of OTLP's; is this the URL of logs, as http://HOST:4318/v1/logs?")
		}
		// What is partly taken must not be sent again (OTLP, partial success).
		if n := said.GetPartialSuccess().GetRejectedLogRecords(); n > 0 {
			l.refused += uint64(min(n, int64(len(part))))
			l.said(n, said.GetPartialSuccess().GetErrorMessage())
		}
		return nil
	})
}

// eventName is what all the records are.
const eventName = "weft.flow"

func logRequest(flows []flowstore.Flow) *collogs.ExportLogsServiceRequest {
	records := make([]*logsv1.LogRecord, len(flows))
	for i := range flows {
		records[i] = logRecord(&flows[i])
	}
	return &collogs.ExportLogsServiceRequest{ResourceLogs: []*logsv1.ResourceLogs{{
		Resource:  &resource.Resource{Attributes: []*commonv1.KeyValue{textAttribute("service.name", "weft"), textAttribute("service.version", version.Version)}},
		ScopeLogs: []*logsv1.ScopeLogs{{Scope: &commonv1.InstrumentationScope{Name: "weft/controller/export", Version: version.Version}, LogRecords: records}},
	}}}
}

func logRecord(f *flowstore.Flow) *logsv1.LogRecord {
	r := &logsv1.LogRecord{TimeUnixNano: uint64(max(f.Last.UnixNano(), 0)), ObservedTimeUnixNano: uint64(max(f.Time.UnixNano(), 0)), EventName: eventName,
		SeverityNumber: logsv1.SeverityNumber_SEVERITY_NUMBER_INFO, SeverityText: "INFO"}
	if f.Action != model.ActionAllow {
		r.SeverityNumber, r.SeverityText = logsv1.SeverityNumber_SEVERITY_NUMBER_WARN, "WARN"
	}
	text := func(key, value string) {
		if value != "" {
			r.Attributes = append(r.Attributes, textAttribute(key, value))
		}
	}
	number := func(key string, n uint64) {
		r.Attributes = append(r.Attributes, &commonv1.KeyValue{Key: key, Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_IntValue{IntValue: int64(n)}}}) //nolint:gosec // counts are below 2^63
	}
	truth := func(key string, x bool) {
		r.Attributes = append(r.Attributes, &commonv1.KeyValue{Key: key, Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_BoolValue{BoolValue: x}}})
	}
	server := cmp.Or(f.Server.Workload, f.Name, f.Server.Address.String())
	r.Body = textAttribute("", strings.Join([]string{cmp.Or(f.Client.Workload, f.Client.Address.String()), "->", server, protocolName(f.Protocol) + "/" + strconv.Itoa(int(f.Server.Port)), string(f.Action)}, " ")).Value
	text("source.address", f.Client.Address.String())
	number("source.port", uint64(f.Client.Port))
	text("destination.address", f.Server.Address.String())
	number("destination.port", uint64(f.Server.Port))
	text("network.transport", protocolName(f.Protocol))
	if f.Client.Address.Is4() {
		text("network.type", "ipv4")
	} else {
		text("network.type", "ipv6")
	}
	for end, e := range map[string]*flowstore.End{"source": &f.Client, "destination": &f.Server} {
		text(end+".geo.country.iso_code", e.Country)
		if e.AS > 0 { // of which OpenTelemetry has no names, and ECS has
			number(end+".as.number", uint64(e.AS))
			text(end+".as.organization.name", e.Organization)
		}
	}
	text("server.address", f.Name)
	text("host.name", f.Host)
	text("process.executable.path", f.Process)
	text("process.command", f.Command)
	if f.PID > 0 {
		number("process.pid", uint64(f.PID))
	}
	text("user.name", f.User)
	number("weft.flow.id", f.ID)
	text("weft.client.workload", f.Client.Workload)
	text("weft.server.workload", f.Server.Workload)
	for end, labels := range map[string]map[string]string{"client": f.Client.Labels, "server": f.Server.Labels} {
		for _, key := range slices.Sorted(maps.Keys(labels)) {
			text("weft."+end+".label."+key, labels[key])
		}
	}
	text("weft.action", string(f.Action))
	text("weft.rule", strconv.FormatUint(f.Rule, 10))
	text("weft.reporter", reporter(f))
	truth("weft.counted", f.Counted)
	truth("weft.new", f.New)
	truth("weft.ended", f.Ended)
	number("weft.sent.packets", f.Sent.Packets)
	number("weft.sent.bytes", f.Sent.Bytes)
	number("weft.received.packets", f.Received.Packets)
	number("weft.received.bytes", f.Received.Bytes)
	number("weft.rtt_us", uint64(f.RTT.Microseconds()))
	number("weft.retransmits", uint64(f.Retransmits))
	text("weft.tcp.state", f.TCPState)
	text("weft.tcp.client_flags", f.ClientFlags)
	text("weft.tcp.server_flags", f.ServerFlags)
	if f.Drops > 0 {
		number("weft.drops", uint64(f.Drops))
		text("weft.drop_reason", f.DropReason)
	}
	return r
}

// textAttribute is an attribute with a text, of which protobuf takes UTF-8 only.
func textAttribute(key, value string) *commonv1.KeyValue {
	return &commonv1.KeyValue{Key: strings.ToValidUTF8(key, "\uFFFD"), Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: strings.ToValidUTF8(value, "\uFFFD")}}}
}

func reporter(f *flowstore.Flow) string {
	if f.AtServer {
		return "server"
	}
	return "client"
}

// protocolName is a protocol as `weft flows` says it.
func protocolName(p uint8) string {
	switch p {
	case 1:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 58:
		return "icmpv6"
	case 132:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}
