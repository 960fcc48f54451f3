package main

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/spf13/cobra"

	"weft/controller/api"
	"weft/controller/api/client"
	"weft/controller/flowstore"
)

// parquetFlow is a row of a file of flows.
type parquetFlow struct {
	ID              uint64            `parquet:"id,delta"`
	Time            time.Time         `parquet:"time,timestamp(millisecond)"`
	First           time.Time         `parquet:"first,timestamp(millisecond)"`
	Last            time.Time         `parquet:"last,timestamp(millisecond)"`
	Host            string            `parquet:"host,dict"`
	Reporter        string            `parquet:"reporter,dict"`
	Counted         bool              `parquet:"counted"`
	Client          string            `parquet:"client,dict"`
	ClientLabels    map[string]string `parquet:"client_labels"`
	ClientAddress   string            `parquet:"client_address,dict"`
	ClientPort      uint32            `parquet:"client_port"`
	Server          string            `parquet:"server,dict"`
	ServerLabels    map[string]string `parquet:"server_labels"`
	ServerAddress   string            `parquet:"server_address,dict"`
	Port            uint32            `parquet:"port"`
	Protocol        uint32            `parquet:"protocol"`
	Process         string            `parquet:"process,dict"`
	PID             uint32            `parquet:"pid"`
	User            string            `parquet:"user,dict"`
	Command         string            `parquet:"command,dict"`
	Name            string            `parquet:"name,dict"`
	Dialled         string            `parquet:"dialled,dict"`
	Action          string            `parquet:"action,dict"`
	Rule            uint64            `parquet:"rule"`
	New             bool              `parquet:"new"`
	Ended           bool              `parquet:"ended"`
	SentPackets     uint64            `parquet:"sent_packets"`
	SentBytes       uint64            `parquet:"sent_bytes"`
	ReceivedPackets uint64            `parquet:"received_packets"`
	ReceivedBytes   uint64            `parquet:"received_bytes"`
	RTT             uint64            `parquet:"rtt_us"`
	Retransmits     uint32            `parquet:"retransmits"`
	Application     string            `parquet:"application,dict"`
	ServerName      string            `parquet:"server_name,dict"`
	Method          string            `parquet:"method,dict"`
	Path            string            `parquet:"path,dict"`
	Status          uint32            `parquet:"status"`
	Latency         uint64            `parquet:"latency_us"`
	CommunityID     string            `parquet:"community_id"`
	ClientCountry   string            `parquet:"client_country,dict"`
	ClientAS        uint32            `parquet:"client_as,dict"`
	ClientOrg       string            `parquet:"client_organization,dict"`
	ServerCountry   string            `parquet:"server_country,dict"`
	ServerAS        uint32            `parquet:"server_as,dict"`
	ServerOrg       string            `parquet:"server_organization,dict"`
	TCPState        string            `parquet:"tcp_state,dict"`
	ClientFlags     string            `parquet:"client_flags,dict"`
	ServerFlags     string            `parquet:"server_flags,dict"`
	Drops           uint32            `parquet:"drops"`
	DropReason      string            `parquet:"drop_reason,dict"`
}

func newParquetFlow(x *flowstore.Flow) parquetFlow {
	out := parquetFlow{ID: x.ID, Time: x.Time, First: x.First, Last: x.Last, Host: x.Host, Reporter: reporterOf(x), Counted: x.Counted,
		Client: x.Client.Workload, ClientLabels: x.Client.Labels, ClientAddress: x.Client.Address.String(), ClientPort: uint32(x.Client.Port),
		Server: x.Server.Workload, ServerLabels: x.Server.Labels, ServerAddress: x.Server.Address.String(), Port: uint32(x.Server.Port), Protocol: uint32(x.Protocol),
		Process: x.Process, PID: x.PID, User: x.User, Command: x.Command, Name: x.Name, Action: string(x.Action), Rule: x.Rule, New: x.New, Ended: x.Ended,
		SentPackets: x.Sent.Packets, SentBytes: x.Sent.Bytes, ReceivedPackets: x.Received.Packets, ReceivedBytes: x.Received.Bytes, RTT: uint64(x.RTT.Microseconds()), Retransmits: x.Retransmits,
		Application: x.Application.Protocol, ServerName: x.Application.Name, Method: x.Application.Method, Path: x.Application.Path, Status: uint32(x.Application.Status), Latency: uint64(x.Application.Latency.Microseconds()), CommunityID: x.CommunityID,
		TCPState: x.TCPState, ClientFlags: x.ClientFlags, ServerFlags: x.ServerFlags, Drops: x.Drops, DropReason: x.DropReason,
		ClientCountry: x.Client.Country, ClientAS: x.Client.AS, ClientOrg: x.Client.Organization, ServerCountry: x.Server.Country, ServerAS: x.Server.AS, ServerOrg: x.Server.Organization}
	if x.Dialled.IsValid() {
		out.Dialled = x.Dialled.String()
	}
	return out
}

// reporterOf is the end that reports.
func reporterOf(x *flowstore.Flow) string {
	switch {
	case x.Observed:
		return "observer"
	case x.AtServer:
		return "server"
	}
	return "client"
}

// notForPeople refuses to write a file to a terminal.
func notForPeople(cmd *cobra.Command) error {
	if terminal(cmd.OutOrStdout()) {
		return usage(errors.New("-o parquet writes a file; send it to one: weft flows -o parquet > flows.parquet"))
	}
	return nil
}

// page is how many flows one answer can have.
const flowsPage = 10_000

// parquet writes flows as a file, page by page, the newest first.
func (f *flowFlags) parquet(cmd *cobra.Command, cl *client.Client) error {
	if err := notForPeople(cmd); err != nil {
		return err
	}
	w := parquet.NewGenericWriter[parquetFlow](cmd.OutOrStdout(), parquet.Compression(&parquet.Zstd), parquet.CreatedBy("weft", "", ""))
	ask, left := f.filter, f.filter.Limit
	for left > 0 {
		ask.Limit = min(left, flowsPage)
		list, err := cl.Flows(cmd.Context(), ask)
		if err != nil {
			return explainProblem(err)
		}
		rows := make([]parquetFlow, len(list.Items))
		for i := range rows {
			rows[i] = newParquetFlow(&list.Items[i])
		}
		if _, err := w.Write(rows); err != nil {
			return fmt.Errorf("write flows: %w", err)
		}
		left -= len(rows)
		if ask.Before = list.Before; len(rows) < ask.Limit || ask.Before == 0 {
			warnLost(cmd, list.Lost)
			break
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("write flows: %w", err)
	}
	return nil
}

// writeSumsParquet writes sums; what they were summed up by is a column each.
func writeSumsParquet(out io.Writer, list *api.FlowSums) error {
	var fields []reflect.StructField
	add := func(name string, of any, options string) {
		fields = append(fields, reflect.StructField{Name: fmt.Sprintf("F%d", len(fields)), Type: reflect.TypeOf(of), Tag: reflect.StructTag(fmt.Sprintf(`parquet:%q`, name+options))})
	}
	for _, k := range list.By {
		add(k, "", ",dict")
	}
	for _, name := range []string{"connections", "sent_packets", "sent_bytes", "received_packets", "received_bytes", "rtt_us", "retransmits", "latency_us", "drops"} {
		add(name, uint64(0), "")
	}
	row := reflect.New(reflect.StructOf(fields))
	w := parquet.NewWriter(out, parquet.SchemaOf(row.Interface()), parquet.Compression(&parquet.Zstd))
	for _, x := range list.Items {
		v := row.Elem()
		for i, k := range list.By {
			v.Field(i).SetString(x.Key[k])
		}
		for i, n := range sumNumbers(&x) {
			v.Field(len(list.By) + i).SetUint(n)
		}
		if err := w.Write(row.Interface()); err != nil {
			return fmt.Errorf("write sums: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("write sums: %w", err)
	}
	return nil
}

// sumNumbers are a row's amounts, in the order of a file's columns.
func sumNumbers(x *flowstore.Sum) []uint64 {
	return []uint64{x.Connections, x.Sent.Packets, x.Sent.Bytes, x.Received.Packets, x.Received.Bytes, uint64(x.RTT.Microseconds()), x.Retransmits, uint64(x.Latency.Microseconds()), x.Drops}
}
