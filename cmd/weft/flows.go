package main

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/controller/api"
	"weft/controller/api/client"
	"weft/controller/flowstore"
	"weft/model"
)

// flowFlags are the flags of `weft flows`.
type flowFlags struct {
	filter client.FlowFilter
	output string
	follow bool
	// disagree asks for connections whose ends do.
	disagree bool
}

func newFlowsCommand(o *options) *cobra.Command {
	var f flowFlags
	c := &cobra.Command{
		Use:   "flows",
		Short: "Show who talks to whom, by which process, and how much",
		Long: `Show who talks to whom, by which process, and how much.

Without --group-by each line is what one end reported of a connection, the
newest first. With it connections are summed up, each once, whichever ends have
an agent.

--where narrows by fields and by labels of an end, in the words of selectors:
client, server, client-address, client-port, server-address, port, protocol,
process, user, command, pid, name, application, server-name, method, path,
status, action, rule, host, reporter (client, server or observer), tcp-state,
client-flags, server-flags, drop-reason, client.LABEL, server.LABEL. -l asks for
labels of either end. --group-by takes minute, hour and day too.

country, as (the autonomous system, by its number) and group are of either end in
--where, and of both in --group-by; client-country, server-group and so on are of
one. What is outside the fleet has a country and a system, where the controller
has files of them (weft controller --geoip). A workload counts in each Group that
it is in, so that rows may come to more than there was; it is found by the labels
it had, of groups as they are now. client-host and server-host are what ends are
on; host is what reports.`,
		Example: `  weft flows -f
  weft flows -l app=orders --since 15m
  weft flows --group-by app,port --top 10
  weft flows --group-by client,process,server --where 'server.role=db,port=5432'
  weft flows --group-by server-name,application --order connections -o json
  weft flows --group-by method,path,status --where application=http
  weft flows --group-by server-country,server-as --where 'country!=DE'
  weft flows --group-by group,port --since 24h
  weft flows --group-by minute,server --where server=db-1
  weft flows --where 'tcp-state in (syn-sent,syn-received)'
  weft flows --group-by drop-reason,server --where drop-reason --order drops
  weft flows --query top-apps --since 24h
  weft flows --disagree --since 24h
  weft flows import capture.pcap`,
		Args: exactly(0, "no arguments but flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(f.output, f.outputs()...); err != nil {
				return err
			}
			var err error
			for _, text := range []*string{&f.filter.Since, &f.filter.Until} {
				if *text, err = hours(*text); err != nil {
					return err
				}
			}
			cl, err := o.connect()
			if err != nil {
				return err
			}
			if f.disagree {
				if f.follow || f.filter.By != "" {
					return usage(errors.New("--disagree lists connections that are over; it goes with neither --follow nor --group-by"))
				}
				return f.disagreements(cmd, cl)
			}
			if f.filter.Query != "" {
				f.onlyGiven(cmd)
			}
			if f.filter.By != "" || f.filter.Query != "" {
				if f.follow {
					return usage(errors.New("--follow shows flows as they come, and --group-by sums; take one of them"))
				}
				return f.sums(cmd, cl)
			}
			return f.list(cmd, cl)
		},
	}
	c.AddCommand(newFlowsImportCommand(o))
	flags := c.Flags()
	flags.StringVar(&f.filter.Since, "since", "1h", "reported so long ago or later, as 15m, 24h or 7d")
	flags.StringVar(&f.filter.Until, "until", "", "reported so long ago or earlier")
	flags.StringVarP(&f.filter.Selector, "selector", "l", "", "label selector that an end matches")
	flags.StringVar(&f.filter.Where, "where", "", "only flows whose fields fulfil this, as 'port=443,client.app in (web,api)'")
	flags.StringVar(&f.filter.By, "group-by", "", "sum up by fields or labels, as app,port,process")
	flags.StringVar(&f.filter.Query, "query", "", "ask a saved question (weft get flowqueries); other flags go over what it says")
	flags.StringVar(&f.filter.Order, "order", "", "what sums are sorted by: bytes (unless given), packets, connections, drops or time")
	flags.IntVar(&f.filter.Limit, "top", 20, "how many lines")
	flags.BoolVarP(&f.follow, "follow", "f", false, "go on with flows as they come")
	flags.BoolVar(&f.disagree, "disagree", false, "connections of which both ends have told all, and not the same")
	flags.StringVarP(&f.output, "output", "o", "table", "table|wide|json|csv|parquet")
	for name, complete := range map[string]cobra.CompletionFunc{
		"group-by": completeEach("", slices.Concat(flowstore.Fields(), flowstore.Times(), flowstore.Pairs())), "where": completeEach("=", slices.Concat(flowstore.Fields(), flowstore.Pairs())),
		"order": cobra.FixedCompletions(flowstore.Orders(), cobra.ShellCompDirectiveNoFileComp), "output": cobra.FixedCompletions([]string{"table", "wide", "json", "csv", "parquet"}, cobra.ShellCompDirectiveNoFileComp),
		"query": completeNames(o, model.MustKind(model.KindFlowQuery)),
	} {
		if err := c.RegisterFlagCompletionFunc(name, complete); err != nil {
			panic(err) // a flag of that name is above
		}
	}
	c.AddCommand(newFlowsExplainCommand(o), newFlowsGraphCommand(o))
	return c
}

// completeEach completes each of several words that commas part; ending comes
// after one.
func completeEach(ending string, words []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		before := begun[:strings.LastIndexByte(begun, ',')+1]
		out := make([]string, len(words))
		for i, w := range words {
			out[i] = before + w + ending
		}
		return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}
}

// onlyGiven leaves to a saved question what no flag says.
func (f *flowFlags) onlyGiven(cmd *cobra.Command) {
	for name, clear := range map[string]func(){"since": func() { f.filter.Since = "" }, "top": func() { f.filter.Limit = 0 }} {
		if !cmd.Flags().Changed(name) {
			clear()
		}
	}
}

// outputs are the forms that an answer can have.
func (f *flowFlags) outputs() []string {
	switch {
	case f.disagree:
		return []string{"table", "json"}
	case f.filter.By != "" || f.filter.Query != "":
		return []string{"table", "json", "csv", "parquet"}
	}
	return []string{"table", "wide", "json", "csv", "parquet"}
}

func warnLost(cmd *cobra.Command, lost uint64) {
	if lost > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: agents could not keep %d records of flows while the controller was away\n", lost)
	}
}

// warnUnlabelled says which labels that sums were asked by nobody has: what is no
// field is taken for a label.
func warnUnlabelled(cmd *cobra.Command, list *api.FlowSums) {
	for _, k := range list.By {
		_, label, is := strings.Cut(k, ".")
		has := func(x flowstore.Sum) bool {
			return x.Key["client."+label] != "" || x.Key["server."+label] != ""
		}
		if is && len(list.Items) > 0 && !slices.ContainsFunc(list.Items, has) {
			fmt.Fprintf(cmd.ErrOrStderr(), "warning: none of these ends has the label %s; fields are %s\n", label, strings.Join(flowstore.Fields(), ", "))
			return
		}
	}
}

func (f *flowFlags) sums(cmd *cobra.Command, cl *client.Client) error {
	list, err := cl.FlowSums(cmd.Context(), f.filter)
	if err != nil {
		return explainProblem(err)
	}
	warnLost(cmd, list.Lost)
	warnUnlabelled(cmd, list)
	switch f.output {
	case "json":
		return show.JSON(cmd.OutOrStdout(), list.Items)
	case "parquet":
		if err := notForPeople(cmd); err != nil {
			return err
		}
		return writeSumsParquet(cmd.OutOrStdout(), list)
	case "csv":
		w := csv.NewWriter(cmd.OutOrStdout())
		header := append(append([]string{}, list.By...), "connections", "sent_packets", "sent_bytes", "received_packets", "received_bytes", "rtt_us", "retransmits", "latency_us", "drops")
		if err := w.Write(header); err != nil {
			return err
		}
		for _, x := range list.Items {
			var row []string
			for _, k := range list.By {
				row = append(row, x.Key[k])
			}
			for _, n := range sumNumbers(&x) {
				row = append(row, strconv.FormatUint(n, 10))
			}
			if err := w.Write(row); err != nil {
				return err
			}
		}
		w.Flush()
		return w.Error()
	}
	if len(list.Items) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "no flows")
		return nil
	}
	t, by := show.Table{}, withPlaces(list)
	for _, k := range by {
		t.Columns = append(t.Columns, show.Column{Title: strings.ToUpper(k), Flexible: true})
	}
	t.Columns = append(t.Columns, show.Column{Title: "CONNS"}, show.Column{Title: "SENT"}, show.Column{Title: "RECEIVED"}, show.Column{Title: "RTT"}, show.Column{Title: "RETRANS"})
	answers := slices.ContainsFunc(list.Items, func(x flowstore.Sum) bool { return x.Latency > 0 })
	if answers {
		t.Columns = append(t.Columns, show.Column{Title: "LATENCY"})
	}
	dropped := slices.ContainsFunc(list.Items, func(x flowstore.Sum) bool { return x.Drops > 0 })
	if dropped {
		t.Columns = append(t.Columns, show.Column{Title: "DROPS"})
	}
	t.Width, _ = screen(cmd)
	for _, x := range list.Items {
		var row []string
		for _, k := range by {
			value := x.Key[k]
			if k == "process" {
				value = baseName(value)
			}
			row = append(row, value)
		}
		row = append(row, show.Number(x.Connections), show.Bytes(x.Sent.Bytes), show.Bytes(x.Received.Bytes), rttText(x.RTT), show.Number(x.Retransmits))
		if answers {
			row = append(row, rttText(x.Latency))
		}
		if dropped {
			row = append(row, show.Number(x.Drops))
		}
		t.Row(row...)
	}
	return t.Flush(cmd.OutOrStdout())
}

// withPlaces is what a table has columns of: not of places of an end that has none in
// any row, as where only servers are outside.
func withPlaces(list *api.FlowSums) []string {
	return slices.DeleteFunc(slices.Clone(list.By), func(k string) bool {
		place := strings.HasSuffix(k, "-country") || strings.HasSuffix(k, "-as")
		return place && !slices.ContainsFunc(list.Items, func(x flowstore.Sum) bool { return x.Key[k] != "" })
	})
}

// followEvery is how often flows are asked for that have come since.
const followEvery = time.Second

func (f *flowFlags) list(cmd *cobra.Command, cl *client.Client) error {
	if f.output == "parquet" {
		if f.follow {
			return usage(errors.New("a parquet file has an end, and --follow none; take one of them"))
		}
		return f.parquet(cmd, cl)
	}
	list, err := cl.Flows(cmd.Context(), f.filter)
	if err != nil {
		return explainProblem(err)
	}
	warnLost(cmd, list.Lost)
	if len(list.Items) == 0 && !f.follow {
		fmt.Fprintln(cmd.ErrOrStderr(), "no flows")
		return nil
	}
	first, t := true, &show.Table{Columns: []show.Column{{Title: "LAST"}, {Title: "CLIENT", Flexible: true}, {Title: "SERVER", Flexible: true}, {Title: "SERVICE"}, {Title: "PROCESS", Flexible: true}, {Title: "SENT"}, {Title: "RECEIVED"}, {Title: "ACTION"}}}
	if t.Width, _ = screen(cmd); f.output == "wide" {
		t.Columns, t.Width = append([]show.Column{{Title: "ID"}}, t.Columns...), 0
		t.Columns = append(t.Columns, show.Column{Title: "STATE"}, show.Column{Title: "FLAGS"}, show.Column{Title: "RETRANS"}, show.Column{Title: "DROPS"})
	}
	print := func(items []flowstore.Flow) error {
		defer func() { first = false }()
		return f.print(cmd, t, items, first)
	}
	if !f.follow {
		return print(list.Items)
	}
	for i, j := 0, len(list.Items)-1; i < j; i, j = i+1, j-1 { // a tail reads downwards
		list.Items[i], list.Items[j] = list.Items[j], list.Items[i]
	}
	ask := f.filter
	ask.Limit = 10_000
	for after := list.After; ; {
		if err := print(list.Items); err != nil {
			return err
		}
		select {
		case <-cmd.Context().Done():
			return nil
		case <-time.After(followEvery):
		}
		if ask.After = after; after == 0 {
			ask.After = 1
		}
		if list, err = cl.Flows(cmd.Context(), ask); err != nil {
			if cmd.Context().Err() != nil {
				return nil
			}
			return explainProblem(err)
		}
		after = max(after, list.After)
	}
}

// print writes some flows; first says that none were before.
func (f *flowFlags) print(cmd *cobra.Command, t *show.Table, items []flowstore.Flow, first bool) error {
	out := cmd.OutOrStdout()
	switch f.output {
	case "json":
		if !f.follow {
			return show.JSON(out, items)
		}
		enc := json.NewEncoder(out) // a line each
		for i := range items {
			if err := enc.Encode(&items[i]); err != nil {
				return fmt.Errorf("write a flow: %w", err)
			}
		}
		return nil
	case "csv":
		return writeFlowsCSV(out, items, first)
	}
	if len(items) == 0 {
		return nil
	}
	for i := range items {
		x := &items[i]
		process := cmp.Or(baseName(x.Process), x.Command)
		if x.AtServer && process != "" {
			process = "<- " + process
		}
		row := []string{x.Last.Local().Format("15:04:05"), endName(&x.Client, ""), endName(&x.Server, cmp.Or(x.Application.Name, x.Name)), flowService(x), process, show.Bytes(x.Sent.Bytes), show.Bytes(x.Received.Bytes), string(x.Action)}
		if f.output == "wide" {
			row = append([]string{strconv.FormatUint(x.ID, 10)}, row...)
			row = append(row, x.TCPState, flagsText(x), show.Number(uint64(x.Retransmits)), dropsText(x))
		}
		t.Row(row...)
	}
	return t.Flush(out)
}

// baseName is the last part of a path.
func baseName(file string) string {
	if file == "" {
		return ""
	}
	return path.Base(file)
}

func endName(e *flowstore.End, name string) string {
	return cmp.Or(e.Workload, name, e.Address.String())
}

func flowService(x *flowstore.Flow) string {
	names := map[uint8]string{1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
	name := cmp.Or(names[x.Protocol], strconv.Itoa(int(x.Protocol)))
	if model.HasPorts(x.Protocol) {
		name = cmp.Or(x.Application.Protocol, name)
		name += "/" + strconv.Itoa(int(x.Server.Port))
	}
	return name
}

// flagsText is TCP's flags of both ends, the client's first.
func flagsText(x *flowstore.Flow) string {
	if x.ClientFlags == "" && x.ServerFlags == "" {
		return ""
	}
	return x.ClientFlags + "/" + x.ServerFlags
}

func dropsText(x *flowstore.Flow) string {
	if x.Drops == 0 {
		return "0"
	}
	return show.Number(uint64(x.Drops)) + " " + x.DropReason
}

func rttText(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return d.Round(10 * time.Microsecond).String()
}

func writeFlowsCSV(out io.Writer, items []flowstore.Flow, header bool) error {
	w := csv.NewWriter(out)
	if header {
		if err := w.Write([]string{"id", "time", "first", "last", "host", "reporter", "counted", "client", "client_address", "server", "server_address", "protocol", "process", "pid", "user", "name", "action", "rule", "new", "ended",
			"sent_packets", "sent_bytes", "received_packets", "received_bytes", "rtt_us", "retransmits", "application", "server_name", "method", "path", "status", "latency_us", "community_id", "tcp_state", "client_flags", "server_flags", "drops", "drop_reason",
			"client_country", "client_as", "client_organization", "server_country", "server_as", "server_organization"}); err != nil {
			return err
		}
	}
	for i := range items {
		x := &items[i]
		number := func(n uint64) string { return strconv.FormatUint(n, 10) }
		system := func(e flowstore.End) string {
			if e.AS == 0 {
				return ""
			}
			return number(uint64(e.AS))
		}
		address := func(e flowstore.End) string { return net.JoinHostPort(e.Address.String(), number(uint64(e.Port))) }
		if err := w.Write([]string{number(x.ID), x.Time.Format(time.RFC3339Nano), x.First.Format(time.RFC3339Nano), x.Last.Format(time.RFC3339Nano), x.Host, reporterOf(x), strconv.FormatBool(x.Counted),
			x.Client.Workload, address(x.Client), x.Server.Workload, address(x.Server), number(uint64(x.Protocol)), x.Process, number(uint64(x.PID)), x.User, x.Name, string(x.Action), number(x.Rule), strconv.FormatBool(x.New), strconv.FormatBool(x.Ended),
			number(x.Sent.Packets), number(x.Sent.Bytes), number(x.Received.Packets), number(x.Received.Bytes), number(uint64(x.RTT.Microseconds())), number(uint64(x.Retransmits)),
			x.Application.Protocol, x.Application.Name, x.Application.Method, x.Application.Path, number(uint64(x.Application.Status)), number(uint64(x.Application.Latency.Microseconds())), x.CommunityID, x.TCPState, x.ClientFlags, x.ServerFlags, number(uint64(x.Drops)), x.DropReason,
			x.Client.Country, system(x.Client), x.Client.Organization, x.Server.Country, system(x.Server), x.Server.Organization}); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}
