package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/controller/api"
)

func newPolicyProposeCommand(o *options) *cobra.Command {
	var group, since, output string
	c := &cobra.Command{
		Use:   "propose --group GROUP",
		Short: "Write policies that allow what a group was seen to do",
		Long: `Write policies that allow what the members of a group were seen to do, each rule
with its evidence. The stage is Staged: applied, they show what they would deny
and deny nothing. Read them first: what was seen need not be what is right.`,
		Example: `  weft policy propose --group orders > proposed.yaml
  weft policy propose --group orders --since 7d -o json`,
		Args: exactly(0, "no arguments but flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if group == "" {
				return usage(errors.New("give --group GROUP"))
			}
			if err := checkOutput(output, "yaml", "json"); err != nil {
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
			p, err := cl.Proposal(cmd.Context(), group, since)
			if err != nil {
				return explainProblem(err)
			}
			warn(cmd, "proposal", p.Notes)
			if output == "json" {
				return show.JSON(cmd.OutOrStdout(), p)
			}
			text, err := proposalYAML(p)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write([]byte(text))
			return err
		},
	}
	c.Flags().StringVar(&group, "group", "", "group whose members are the subject")
	c.Flags().StringVar(&since, "since", "", "from conversations heard of so long ago or later, as 24h or 7d")
	c.Flags().StringVarP(&output, "output", "o", "yaml", "yaml|json")
	c.RegisterFlagCompletionFunc("group", completeGroups(o)) //nolint:errcheck // the flag exists
	return c
}

// proposalYAML writes the policies with the evidence above each rule.
func proposalYAML(p *api.Proposal) (string, error) {
	var b strings.Builder
	next := 0
	for i := range p.Policies {
		if i > 0 {
			b.WriteString("---\n")
		}
		intent, err := show.Intent(&p.Policies[i], false)
		if err != nil {
			return "", err
		}
		text, err := show.YAML(intent)
		if err != nil {
			return "", err
		}
		policy := p.Policies[i].Metadata.Name
		// Keys are sorted: egress stands before ingress, and the rules of each are
		// begun by their action.
		direction := ""
		queues := map[string][]api.Evidence{}
		for ; next < len(p.Evidence) && p.Evidence[next].Policy == policy; next++ {
			e := p.Evidence[next]
			queues[e.Direction] = append(queues[e.Direction], e)
		}
		for line := range strings.Lines(string(text)) {
			if d := strings.TrimSuffix(strings.TrimSpace(line), ":"); d == "ingress" || d == "egress" {
				direction = d
			}
			indent := line[:len(line)-len(strings.TrimLeft(line, " "))]
			if q := queues[direction]; strings.HasPrefix(line[len(indent):], "- action:") && len(q) > 0 {
				for _, c := range comments(q[0]) {
					fmt.Fprintf(&b, "%s# %s\n", indent, c)
				}
				queues[direction] = q[1:]
			}
			b.WriteString(line)
		}
	}
	return b.String(), nil
}

func comments(e api.Evidence) []string {
	out := []string{fmt.Sprintf("%d connections, first seen %s, last seen %s", e.Connections, e.First.UTC().Format(time.RFC3339), e.Last.UTC().Format(time.RFC3339)),
		fmt.Sprintf("%s with %s", printable(e.Workloads), printable(e.Peers))}
	if len(e.Processes) > 0 {
		out = append(out, "run by "+printable(e.Processes))
	}
	return out
}

// printable keeps what agents report on the line of its comment.
func printable(list []string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 {
			return '?'
		}
		return r
	}, strings.Join(list, ", "))
}
