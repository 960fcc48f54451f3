package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
)

func newDescribeCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "describe KIND NAME...",
		Short: "Show all there is to know of a resource",
		Long:  "Show all there is to know of a resource: of a tap its sources, tools, paths and whole ledger, of a host what it can and cannot do.",
		Example: `  weft describe tap web-to-ids
  weft describe host web-1`,
		Args: atLeast(1, "KIND NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			info, names, err := kindAndNames(args)
			if err != nil {
				return err
			}
			if len(names) == 0 {
				return usage(fmt.Errorf("which of the %s? give a name", info.Plural))
			}
			cl, err := o.connect()
			if err != nil {
				return err
			}
			_, color := screen(cmd)
			for i, name := range names {
				r, err := cl.Get(cmd.Context(), info, name)
				if err != nil {
					return err
				}
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				if err := show.Describe(cmd.OutOrStdout(), r, color, time.Now()); err != nil {
					return err
				}
			}
			return nil
		},
		ValidArgsFunction: completeKindAndNames(o),
	}
}
