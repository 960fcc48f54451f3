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

func newConfirmCommand(o *options) *cobra.Command {
	var back, list bool
	c := &cobra.Command{
		Use:   "confirm [ID]",
		Short: "Keep what was applied with --confirm",
		Long: `Keep what was applied with --confirm. Without an id, what waits must be one set of
writes. What nobody confirms in time, the controller rolls back by itself.`,
		Example: `  weft apply --confirm 5m -f policies/ && weft confirm
  weft confirm --list
  weft confirm --roll-back 1f0c9a2e`,
		Args: between(0, 1, "at most one id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := o.connect()
			if err != nil {
				return err
			}
			if list {
				return listConfirmations(cmd, o)
			}
			id := ""
			if len(args) == 1 {
				id = args[0]
			} else {
				waiting, err := cl.Confirmations(cmd.Context())
				if err != nil {
					return err
				}
				switch len(waiting) {
				case 0:
					return errors.New("nothing waits for confirmation; what was not confirmed in time has been rolled back: weft audit")
				case 1:
					id = waiting[0].ID
				default:
					return fmt.Errorf("%d sets of writes wait for confirmation; name one: weft confirm --list", len(waiting))
				}
			}
			settle, verb := cl.Confirm, "confirmed"
			if back {
				settle, verb = cl.RollBack, "rolled back"
			}
			done, err := settle(cmd.Context(), id)
			if err != nil {
				return explainProblem(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", verb, resources(done))
			return nil
		},
	}
	c.Flags().BoolVar(&back, "roll-back", false, "take it back now")
	c.Flags().BoolVar(&list, "list", false, "show what waits")
	return c
}

func resources(c *api.Confirmation) string {
	if len(c.Resources) == 0 {
		return "no writes"
	}
	return strings.Join(c.Resources, " ")
}

func listConfirmations(cmd *cobra.Command, o *options) error {
	cl, err := o.connect()
	if err != nil {
		return err
	}
	waiting, err := cl.Confirmations(cmd.Context())
	if err != nil {
		return err
	}
	if len(waiting) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "nothing waits for confirmation")
		return nil
	}
	t := show.Table{Columns: []show.Column{{Title: "ID"}, {Title: "BY"}, {Title: "LEFT"}, {Title: "WRITES", Flexible: true}}}
	t.Width, _ = screen(cmd)
	for i := range waiting {
		t.Row(waiting[i].ID, waiting[i].Actor, show.Age(time.Until(waiting[i].Deadline)), resources(&waiting[i]))
	}
	return t.Flush(cmd.OutOrStdout())
}
