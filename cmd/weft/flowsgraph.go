package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/controller/api/client"
	"weft/controller/flowstore"
)

// graph is who talks to whom.
type graph struct {
	Nodes []node `json:"nodes"`
	Edges []edge `json:"edges"`
}

// node is a workload, or all ends that are alike in something.
type node struct {
	Name     string `json:"name"`
	Sent     uint64 `json:"sentBytes"`
	Received uint64 `json:"receivedBytes"`
}

// edge is all connections that one node made to another.
type edge struct {
	From        string `json:"from"`
	To          string `json:"to"`
	Service     string `json:"service,omitempty"`
	Connections uint64 `json:"connections"`
	Sent        uint64 `json:"sentBytes"`
	Received    uint64 `json:"receivedBytes"`
}

func newFlowsGraphCommand(o *options) *cobra.Command {
	var filter client.FlowFilter
	var by, output string
	var ports bool
	c := &cobra.Command{
		Use:   "graph",
		Short: "Show who talks to whom as a graph",
		Long: `Show who talks to whom as a graph, for Graphviz (DOT) or as JSON.

Nodes are workloads, and names or addresses of what is none; with --by host the
machines that workloads are on. With --by group they are Groups, with --by country
or as the places of what is outside the fleet (weft controller --geoip), and with
--by KEY the values of a label: all that have none are one node.

A workload in several groups is in each of them: what it said to another is an edge
between each group of the one and each of the other, so that edges may come to more
than there was. Members are found by the labels that they had when they talked, of
groups as they are now. --where 'group in (web,db)' leaves connections of these.`,
		Example: `  weft flows graph --by app | dot -Tsvg > apps.svg
  weft flows graph --ports --where client.env=prod --since 24h
  weft flows graph --by group --since 24h | dot -Tsvg > groups.svg
  weft flows graph --by team -o json`,
		Args: exactly(0, "no arguments but flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output, "dot", "json"); err != nil {
				return err
			}
			var err error
			for _, text := range []*string{&filter.Since, &filter.Until} {
				if *text, err = hours(*text); err != nil {
					return err
				}
			}
			cl, err := o.connect()
			if err != nil {
				return err
			}
			from, to := "client", "server"
			if by != "" && by != "workload" {
				from, to = flowstore.Pair(by)
			}
			if filter.By = from + "," + to; ports {
				filter.By += ",protocol,port"
			}
			list, err := cl.FlowSums(cmd.Context(), filter)
			if err != nil {
				return explainProblem(err)
			}
			warnLost(cmd, list.Lost)
			if list.Next > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: these are the %d edges with most bytes; --top shows more\n", len(list.Items))
			}
			g := newGraph(list.Items, from, to)
			if output == "json" {
				return show.JSON(cmd.OutOrStdout(), g)
			}
			return g.dot(cmd.OutOrStdout())
		},
	}
	flags := c.Flags()
	flags.StringVar(&filter.Since, "since", "1h", "reported so long ago or later, as 15m, 24h or 7d")
	flags.StringVar(&filter.Until, "until", "", "reported so long ago or earlier")
	flags.StringVarP(&filter.Selector, "selector", "l", "", "label selector that an end matches")
	flags.StringVar(&filter.Where, "where", "", "only flows whose fields fulfil this, as 'port=443,client.app in (web,api)'")
	flags.StringVar(&by, "by", "workload", "what a node is: workload, host, group, country, as, address, or the key of a label")
	flags.BoolVar(&ports, "ports", false, "an edge for each service, in place of one for all")
	flags.IntVar(&filter.Limit, "top", 500, "how many edges, those with most bytes")
	flags.StringVarP(&output, "output", "o", "dot", "dot|json")
	for name, complete := range map[string]cobra.CompletionFunc{
		"by": cobra.FixedCompletions(append(flowstore.Pairs(), "workload", "host"), cobra.ShellCompDirectiveNoFileComp), "output": cobra.FixedCompletions([]string{"dot", "json"}, cobra.ShellCompDirectiveNoFileComp),
		"where": completeEach("=", slices.Concat(flowstore.Fields(), flowstore.Pairs())),
	} {
		if err := c.RegisterFlagCompletionFunc(name, complete); err != nil {
			panic(err) // a flag of that name is above
		}
	}
	return c
}

// newGraph makes a graph of sums by two fields.
func newGraph(sums []flowstore.Sum, from, to string) graph {
	g := graph{Nodes: []node{}, Edges: []edge{}}
	nodes := map[string]*node{}
	at := func(name string) *node {
		if nodes[name] == nil {
			nodes[name] = &node{Name: name}
		}
		return nodes[name]
	}
	for _, x := range sums {
		e := edge{From: cmp.Or(x.Key[from], "(none)"), To: cmp.Or(x.Key[to], "(none)"), Connections: x.Connections, Sent: x.Sent.Bytes, Received: x.Received.Bytes}
		if p := x.Key["protocol"]; p != "" {
			e.Service = p + "/" + x.Key["port"]
		}
		at(e.From).Sent += e.Sent
		at(e.From).Received += e.Received
		at(e.To).Sent += e.Received
		at(e.To).Received += e.Sent
		g.Edges = append(g.Edges, e)
	}
	for _, n := range nodes {
		g.Nodes = append(g.Nodes, *n)
	}
	slices.SortFunc(g.Nodes, func(a, b node) int { return cmp.Compare(a.Name, b.Name) })
	return g
}

// dot writes the language of Graphviz.
func (g *graph) dot(out io.Writer) error {
	var b strings.Builder
	b.WriteString("digraph flows {\n  rankdir=LR\n  node [shape=box]\n")
	for _, n := range g.Nodes {
		fmt.Fprintf(&b, "  %s\n", dotText(n.Name))
	}
	for _, e := range g.Edges {
		label := show.Bytes(e.Sent) + " >, < " + show.Bytes(e.Received)
		if e.Service != "" {
			label = e.Service + "\n" + label
		}
		fmt.Fprintf(&b, "  %s -> %s [label=%s tooltip=%s]\n", dotText(e.From), dotText(e.To), dotText(label), dotText(strconv.FormatUint(e.Connections, 10)+" connections"))
	}
	b.WriteString("}\n")
	_, err := io.WriteString(out, b.String())
	return err
}

// dotText is text as Graphviz takes it: in quotes, with what has a meaning in them
// behind a backslash.
func dotText(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}
