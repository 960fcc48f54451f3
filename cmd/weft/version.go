package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"weft/internal/version"
	"weft/wire"
)

func newVersionCommand(o *options) *cobra.Command {
	var clientOnly bool
	c := &cobra.Command{
		Use:   "version",
		Short: "Print the versions of this program and of the controller",
		Example: `  weft version
  weft version --client`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(cmd.OutOrStdout(), "weft        %s (agent protocol %d)\n", version.Version, wire.Version)
			if clientOnly {
				return nil
			}
			cl, err := o.connect()
			if err != nil {
				return err
			}
			v, err := cl.Version(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "controller  %s (%s) at %s\n", v.Version, v.API, cl.Server())
			return nil
		},
	}
	c.Flags().BoolVar(&clientOnly, "client", false, "only of this program; asks nobody")
	o.flags(c)
	return c
}
