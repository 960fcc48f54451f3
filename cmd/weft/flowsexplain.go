package main

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/controller/api"
	"weft/controller/api/client"
	"weft/controller/flowstore"
)

func newFlowsExplainCommand(o *options) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "explain ID",
		Short: "Show what both ends of a connection say of it, and where they disagree",
		Long: `Show what both ends of a connection say of it, and where they disagree.

A connection between two machines with an agent is in two books: each end
reports what it sent and received, and which rule let it through. What one sent
and the other did not receive was lost on the way, or one of the two is wrong.

ID is that of any flow of the connection: weft flows -o wide shows it.`,
		Example: `  weft flows -o wide --where port=5432
  weft flows explain 4711
  weft flows --disagree --since 24h`,
		Args: exactly(1, "the ID of a flow"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output, "text", "json"); err != nil {
				return err
			}
			id, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil {
				return usage(fmt.Errorf("%q is no ID of a flow, which is a number: see weft flows -o wide", args[0]))
			}
			cl, err := o.connect()
			if err != nil {
				return err
			}
			x, err := cl.ExplainFlow(cmd.Context(), id)
			if err != nil {
				return explainProblem(err)
			}
			if output == "json" {
				return show.JSON(cmd.OutOrStdout(), x)
			}
			width, _ := screen(cmd)
			return explainFlow(cmd.OutOrStdout(), x, width)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "text", "text|json")
	return c
}

// explainFlow prints a connection: a column for each end's report.
func explainFlow(out io.Writer, x *api.ExplainedFlow, width int) error {
	name := cmp.Or(nameIn(x.AtClient), nameIn(x.AtServer))
	f := flowstore.Flow{Protocol: x.Protocol, Server: x.Server}
	fmt.Fprintf(out, "%s -> %s  %s\n", endName(&x.Client, ""), endName(&x.Server, name), flowService(&f))
	for _, t := range x.Translations {
		fmt.Fprintln(out, wrap("Path: "+t+".", "", 78))
	}
	fmt.Fprintln(out)
	t := show.Table{Columns: []show.Column{{Title: ""}, {Title: "AT CLIENT", Flexible: true}, {Title: "AT SERVER", Flexible: true}}, Width: width}
	row := func(title string, cell func(r *flowstore.Report) string) {
		cells := []string{title, "", ""}
		for i, r := range []*flowstore.Report{x.AtClient, x.AtServer} {
			if r != nil {
				cells[i+1] = cell(r)
			}
		}
		t.Row(cells...)
	}
	end := func(e *flowstore.End) string { return e.Address.String() + " " + strconv.Itoa(int(e.Port)) }
	clock := func(at time.Time) string { return at.Local().Format("2006-01-02 15:04:05.000") }
	row("host", func(r *flowstore.Report) string { return r.Host })
	row("client", func(r *flowstore.Report) string { return end(&r.Client) })
	row("server", func(r *flowstore.Report) string { return end(&r.Server) })
	row("process", func(r *flowstore.Report) string { return cmp.Or(r.Process, r.Command) })
	row("user", func(r *flowstore.Report) string { return r.User })
	row("action", func(r *flowstore.Report) string { return string(r.Action) })
	t.Row("rule", x.RuleAtClient, x.RuleAtServer)
	row("first packet", func(r *flowstore.Report) string { return clock(r.First) })
	row("last packet", func(r *flowstore.Report) string { return clock(r.Last) })
	row("sent", func(r *flowstore.Report) string {
		return fmt.Sprintf("%s in %d", show.Bytes(r.Sent.Bytes), r.Sent.Packets)
	})
	row("received", func(r *flowstore.Report) string {
		return fmt.Sprintf("%s in %d", show.Bytes(r.Received.Bytes), r.Received.Packets)
	})
	row("rtt", func(r *flowstore.Report) string { return rttText(r.RTT) })
	row("retransmits", func(r *flowstore.Report) string { return show.Number(uint64(r.Retransmits)) })
	row("tcp state", func(r *flowstore.Report) string { return r.TCPState })
	row("tcp flags", func(r *flowstore.Report) string {
		return flagsText(&flowstore.Flow{ClientFlags: r.ClientFlags, ServerFlags: r.ServerFlags})
	})
	row("drops", func(r *flowstore.Report) string {
		return strings.TrimSpace(show.Number(r.Drops) + " " + strings.Join(r.DropReasons, ", "))
	})
	row("reports", func(r *flowstore.Report) string {
		if !r.Whole {
			return fmt.Sprintf("%d, not all", r.Reports)
		}
		return strconv.Itoa(r.Reports)
	})
	if err := t.Flush(out); err != nil {
		return err
	}
	fmt.Fprintln(out)
	if x.Lost != nil {
		fmt.Fprintln(out, wrap(difference(x.Lost), "", 78))
	}
	for _, n := range x.Notes {
		fmt.Fprintln(out, wrap("Note: "+n+".", "", 78))
	}
	return nil
}

func nameIn(r *flowstore.Report) string {
	if r == nil {
		return ""
	}
	return r.Name
}

// difference says in words where two books differ.
func difference(d *flowstore.Difference) string {
	if *d == (flowstore.Difference{}) {
		return "Both ends agree: what was sent arrived."
	}
	out := ""
	for _, x := range []struct {
		n        int64
		from, to string
	}{{d.Sent, "client", "server"}, {d.Received, "server", "client"}} {
		switch {
		case x.n > 0:
			out += fmt.Sprintf("%s that the %s sent did not arrive at the %s: they were lost on the path. ", show.Bytes(uint64(x.n)), x.from, x.to)
		case x.n < 0:
			out += fmt.Sprintf("The %s received %s more than the %s says it sent: one of the two is wrong, or something between them sends too. ", x.to, show.Bytes(uint64(-x.n)), x.from)
		}
	}
	return out
}

// disagreements lists connections whose ends disagree.
func (f *flowFlags) disagreements(cmd *cobra.Command, cl *client.Client) error {
	list, err := cl.FlowDisagreements(cmd.Context(), f.filter)
	if err != nil {
		return explainProblem(err)
	}
	if f.output == "json" {
		return show.JSON(cmd.OutOrStdout(), list.Items)
	}
	if len(list.Items) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "no connection whose ends disagree")
		return nil
	}
	t := show.Table{Columns: []show.Column{{Title: "ID"}, {Title: "CLIENT", Flexible: true}, {Title: "SERVER", Flexible: true}, {Title: "SERVICE"}, {Title: "SENT"}, {Title: "LOST"}, {Title: "RECEIVED"}, {Title: "LOST"}}}
	t.Width, _ = screen(cmd)
	signed := func(n int64) string {
		if n < 0 {
			return "-" + show.Bytes(uint64(-n))
		}
		return show.Bytes(uint64(n))
	}
	for _, x := range list.Items {
		service := flowService(&flowstore.Flow{Protocol: x.Protocol, Server: flowstore.End{Port: x.Port}})
		t.Row(strconv.FormatUint(x.ID, 10), x.Client, x.Server, service, show.Bytes(x.Sent.Bytes), signed(x.Lost.Sent), show.Bytes(x.Received.Bytes), signed(x.Lost.Received))
	}
	return t.Flush(cmd.OutOrStdout())
}
