package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/controller/api"
	"weft/model"
)

func newPolicyDiffCommand(o *options) *cobra.Command {
	var files []string
	var selector, since, output string
	c := &cobra.Command{
		Use:   "diff -f FILE|DIR|-",
		Short: "Show exactly which packets policies would turn down or let through",
		Long: `Show exactly which packets would be turned down or let through were the policies
and groups in files stored, and those policies active. Each change comes with a
packet that shows it, and with the recorded conversations that it hits. The exit
status is 0 where nothing changes, 1 where something does or on an error.`,
		Example: `  weft policy diff -f orders-db.yaml
  weft policy diff -f policies/ -l app=orders -o json`,
		Args: exactly(0, "no arguments but -f"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output, "text", "json"); err != nil {
				return err
			}
			q, err := whatIf(cmd, files, selector, since)
			if err != nil {
				return err
			}
			cl, err := o.connect()
			if err != nil {
				return err
			}
			d, err := cl.DiffPolicies(cmd.Context(), q)
			if err != nil {
				return explainProblem(err)
			}
			if output == "json" {
				if err := show.JSON(cmd.OutOrStdout(), d); err != nil {
					return err
				}
			} else {
				printDiff(cmd, d)
			}
			if len(d.Changes) > 0 {
				return &exitError{code: 1}
			}
			return nil
		},
	}
	addFiles(c, &files)
	c.Flags().StringVarP(&selector, "selector", "l", "", "compare only workloads that this label selector matches, and the world")
	c.Flags().StringVar(&since, "since", "", "count hits among conversations heard of so long ago or later, as 24h or 7d")
	c.Flags().StringVarP(&output, "output", "o", "text", "text|json")
	return c
}

func printDiff(cmd *cobra.Command, d *api.PolicyDiff) {
	w := cmd.OutOrStdout()
	if len(d.Changes) == 0 {
		fmt.Fprintln(w, "nothing changes for any packet")
		return
	}
	hit := 0
	for _, c := range d.Changes {
		fmt.Fprintf(w, "%s -> %s  %s  %s => %s\n", c.Before, c.After, c.Service, who(c.Source), who(c.Destination))
		fmt.Fprintf(w, "    packet: %s => %s  %s\n", witness(c.Witness.Source, c.Source), witness(c.Witness.Destination, c.Destination), c.Witness.Service)
		if c.Connections > 0 {
			hit++
			fmt.Fprintf(w, "    hits %d recorded connections: %s\n", c.Connections, strings.Join(c.Conversations, " "))
		}
	}
	fmt.Fprintf(w, "%s; %d of them hit recorded conversations (%d looked at)\n", show.Plural(len(d.Changes), "change"), hit, d.Recorded)
}

func who(labels map[string]string) string {
	if labels == nil {
		return "world"
	}
	return show.Labels(labels)
}

func witness(e api.WitnessEnd, labels map[string]string) string {
	text := e.Address
	if labels != nil {
		text = "a workload at " + text
	}
	if e.Entities != "" {
		text += " [" + e.Entities + "]"
	}
	if len(e.Names) > 0 {
		text += " " + strings.Join(e.Names, ",")
	}
	if e.Process != (model.PolicyProcess{}) {
		text += show.Processes([]model.PolicyProcess{e.Process})
	}
	return text
}
