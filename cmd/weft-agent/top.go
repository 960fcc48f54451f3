package main

import (
	"github.com/spf13/cobra"

	"weft/cmd/top"
)

func newTopCommand() *cobra.Command {
	var f flags
	var o top.Options
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show what this machine is doing, live",
		Long: `Show what this machine is doing, live: processors, memory, disks, file systems,
interfaces, sensors, containers, units and processes. It changes nothing.

No controller and no running agent is needed. Where the agent runs and this user
may ask it, containers have their names and processes their network figures.
Figures of other users' processes need root.`,
		Example: `  weft-agent top
  weft-agent top --sort memory --interval 5s
  weft-agent top --once -o json | jq .cpu`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.load()
			if c.StateDir == "" {
				return err
			}
			return o.Run(cmd, top.Config{Feed: top.Local(c.StateDir, o.Interval)}, 80)
		},
	}
	f.register(cmd)
	o.Register(cmd)
	return cmd
}
