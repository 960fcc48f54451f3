package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"weft/agent"
	"weft/internal/identity"
	"weft/model"
)

func newJoinCommand() *cobra.Command {
	var f flags
	var again bool
	cmd := &cobra.Command{
		Use:   "join",
		Short: "Join with a token and exit; run does so by itself where needed",
		Long: `Join with a token and exit.

The token's secret is read from a file, never from the command line, where
every user of the machine could read it. A machine that has joined already is
left as it is, unless --again is given: a host that was revoked or deleted needs
a new identity. Stop the agent first.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.load()
			if err != nil {
				return err
			}
			state, err := agent.OpenState(c.StateDir)
			if err != nil {
				return err
			}
			defer state.Close()
			id, err := identity.New(identity.Config{Dir: c.StateDir, Controller: c.Controller, TokenFile: c.TokenFile, Role: model.RoleHost, Name: c.Name},
				identity.Deps{Log: c.logger(cmd.ErrOrStderr())})
			if err != nil {
				return err
			}
			if id.Joined() && !again {
				fmt.Fprintf(cmd.OutOrStdout(), "already joined as %s; for a new identity, after this host was revoked or deleted: --again\n", id.ID())
				return nil
			}
			if err := id.Join(cmd.Context()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "joined as %s\n", id.ID())
			return nil
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&again, "again", false, "join although there is an identity, and replace it")
	return cmd
}
