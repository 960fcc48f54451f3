package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/model"
)

func newAlertCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "alert",
		Short: "Look at what alerts there were",
		Long: `Look at what alerts there were. Those that there are: weft get alerts. What
becomes one is said by alert rules: weft get alertrules.`,
		Example: "  weft alert history --host web1",
		Args:    exactly(0, "history"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return usage(cmd.Help()) },
	}
	c.AddCommand(newAlertHistoryCommand(o))
	return c
}

func newAlertHistoryCommand(o *options) *cobra.Command {
	var limit int
	var host, output string
	c := &cobra.Command{
		Use:   "history",
		Short: "Show when alerts were raised and were over, the newest first",
		Example: `  weft alert history
  weft alert history --host web1 --limit 20 -o json`,
		Args: exactly(0, "no arguments but flags"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 || limit > 10_000 {
				return usage(fmt.Errorf("--limit %d is outside 1 to 10000", limit))
			}
			if err := checkOutput(output, "table", "json"); err != nil {
				return err
			}
			cl, err := o.connect()
			if err != nil {
				return err
			}
			list, err := cl.AlertHistory(cmd.Context(), host, limit)
			if err != nil {
				return explainProblem(err)
			}
			if output == "json" {
				return show.JSON(cmd.OutOrStdout(), list)
			}
			if len(list) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "no alert so far")
				return nil
			}
			t := show.Table{Columns: []show.Column{{Title: "TIME"}, {Title: "STATE"}, {Title: "SEVERITY", State: true}, {Title: "ALERT", Flexible: true}, {Title: "MESSAGE", Flexible: true}}}
			t.Width, t.Color = screen(cmd)
			for _, x := range list {
				t.Row(x.Time.Local().Format(time.DateTime), x.State, string(x.Alert.Severity), x.Name, x.Alert.Message)
			}
			return t.Flush(cmd.OutOrStdout())
		},
	}
	c.Flags().IntVar(&limit, "limit", 50, "the newest so many")
	c.Flags().StringVar(&host, "host", "", "only of this host")
	c.Flags().StringVarP(&output, "output", "o", "table", "table|json")
	for name, f := range map[string]completer{"host": completeNames(o, model.MustKind(model.KindHost)), "output": cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp)} {
		if err := c.RegisterFlagCompletionFunc(name, f); err != nil {
			panic(err) // a flag of that name is above
		}
	}
	return c
}
