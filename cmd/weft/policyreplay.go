package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
)

func newPolicyReplayCommand(o *options) *cobra.Command {
	var files []string
	var since, output string
	c := &cobra.Command{
		Use:   "replay -f FILE|DIR|-",
		Short: "Judge recorded conversations by policies that are not stored yet",
		Long: `Judge recorded conversations as they would have been were the policies and groups
in files stored, and those policies active. The exit status is 1 where something
that was let through would be turned down.`,
		Example: `  weft policy replay -f orders-db.yaml --since 7d`,
		Args:    exactly(0, "no arguments but -f"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output, "text", "json"); err != nil {
				return err
			}
			q, err := whatIf(cmd, files, "", since)
			if err != nil {
				return err
			}
			cl, err := o.connect()
			if err != nil {
				return err
			}
			r, err := cl.ReplayPolicies(cmd.Context(), q)
			if err != nil {
				return explainProblem(err)
			}
			w := cmd.OutOrStdout()
			if output == "json" {
				err = show.JSON(w, r)
			} else {
				fmt.Fprintf(w, "%s, %d connections: %d allowed, %d denied\n", show.Plural(r.Recorded, "conversation"), r.Flows, r.Allowed, r.Denied)
				fmt.Fprintf(w, "newly denied:  %d\nnewly allowed: %d\n", r.NewDenied, r.NewAllowed)
				for _, d := range r.Denies {
					fmt.Fprintf(w, "\n%d by %s: %s\n", d.Count, d.Direction, d.Verdict)
					for _, s := range d.Samples {
						fmt.Fprintf(w, "    %s\n", s)
					}
				}
				if r.Missing > 0 {
					fmt.Fprintf(cmd.ErrOrStderr(), "warning: %d conversations were seen and are not remembered\n", r.Missing)
				}
			}
			if err == nil && r.NewDenied > 0 {
				err = &exitError{code: 1}
			}
			return err
		},
	}
	addFiles(c, &files)
	c.Flags().StringVar(&since, "since", "", "only conversations heard of so long ago or later, as 24h or 7d")
	c.Flags().StringVarP(&output, "output", "o", "text", "text|json")
	return c
}
