package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/controller/api/client"
	"weft/controller/observe"
	"weft/model"
	"weft/policy"
)

func newPolicyDeniesCommand(o *options) *cobra.Command {
	var staged bool
	var selector, since, output string
	c := &cobra.Command{
		Use:   "denies",
		Short: "Show what was turned down, or would be by staged policies",
		Example: `  weft policy denies --since 1h
  weft policy denies --staged -l app=orders`,
		Args: exactly(0, "no arguments but flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output, "table", "json"); err != nil {
				return err
			}
			since, err := hours(since)
			if err != nil {
				return err
			}
			cl, err := o.connect()
			if err != nil {
				return err
			}
			list, err := cl.Conversations(cmd.Context(), client.ConversationFilter{Since: since, Selector: selector, Denied: !staged, Staged: staged, Limit: observe.MaxConversations})
			if err != nil {
				return explainProblem(err)
			}
			if n := list.Evicted + list.Lost + list.Unread; n > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: %d conversations were seen and are not remembered\n", n)
			}
			if output == "json" {
				return show.JSON(cmd.OutOrStdout(), list.Items)
			}
			if len(list.Items) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "nothing was turned down")
				return nil
			}
			rules, err := ruleNames(cmd, cl)
			if err != nil {
				return err
			}
			t := show.Table{Columns: []show.Column{{Title: "WORKLOAD", Flexible: true}, {Title: ""}, {Title: "PEER", Flexible: true}, {Title: "SERVICE"}, {Title: "BY", Flexible: true}, {Title: "COUNT"}, {Title: "LAST"}, {Title: "ID"}}}
			t.Width, _ = screen(cmd)
			slices.SortStableFunc(list.Items, func(a, b observe.Conversation) int { return cmp.Compare(b.Connections, a.Connections) })
			for i := range list.Items {
				c := &list.Items[i]
				arrow, by := "<-", c.Rule
				if c.PolicyDirection() == policy.Egress {
					arrow = "->"
				}
				if staged {
					by = c.StagedRule
				}
				t.Row(c.Workload, arrow, peerName(c), serviceName(c), cmp.Or(rules[by], by, "default"), show.Number(c.Connections), show.Age(time.Since(c.Last))+" ago", c.ID)
			}
			return t.Flush(cmd.OutOrStdout())
		},
	}
	c.Flags().BoolVar(&staged, "staged", false, "what would be turned down were all staged policies active")
	c.Flags().StringVarP(&selector, "selector", "l", "", "label selector of the workloads")
	c.Flags().StringVar(&since, "since", "", "heard of so long ago or later, as 24h or 7d")
	c.Flags().StringVarP(&output, "output", "o", "table", "table|json")
	return c
}

// ruleNames reads what the ids of rules stand for.
func ruleNames(cmd *cobra.Command, cl *client.Client) (map[string]string, error) {
	list, err := cl.List(cmd.Context(), model.MustKind(model.KindPolicy), "")
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, r := range list {
		p := r.(*model.Policy)
		for _, rule := range p.Status.Rules {
			out[rule.ID] = p.Metadata.Name + "/" + rule.Name
		}
	}
	return out, nil
}

func peerName(c *observe.Conversation) string {
	switch {
	case c.Peer != "":
		return c.Peer
	case len(c.Names) > 0:
		return c.Names[0]
	case c.PeerLabels != nil:
		return show.Labels(c.PeerLabels)
	}
	return c.PeerAddress
}

func serviceName(c *observe.Conversation) string {
	port := policy.Port{Protocol: c.Protocol, First: c.Port, Last: c.Port}
	if !model.HasPorts(c.Protocol) && !model.IsICMP(c.Protocol) {
		port.First, port.Last = 0, 65535
	}
	return strings.ToLower(port.String())
}
