package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/top"
	"weft/controller/api/client"
	"weft/model"
)

// agentStateDir is where this machine's agent keeps its state, unless it was told
// otherwise.
const agentStateDir = "/var/lib/weft-agent"

func newTopCommand(o *options) *cobra.Command {
	var shared top.Options
	var all, local bool
	cmd := &cobra.Command{
		Use:   "top [HOST]",
		Short: "Show what machines are doing, live: a host, all of them, or this machine",
		Long: `Show what machines are doing, live: processors, memory, disks, file systems,
interfaces, sensors, containers, units and processes. It changes nothing.

With HOST, that host, by way of the controller. Without, all hosts, the worst
first, of which enter opens one; and where no controller is known, or with
--local, this machine by itself. Agents sample only while somebody looks. A host
that does not answer is shown with the age of its figures.

Command lines are shown to admins only.`,
		Example: `  weft top
  weft top web1 --sort memory
  weft top --local
  weft top web1 --once -o json | jq '.processes[] | select(.cpu > 50)'
  weft top --all --once`,
		Args: between(0, 1, "at most one HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			width, _ := screen(cmd)
			if local && (all || len(args) > 0) {
				return usage(errors.New("--local is about this machine; give no HOST and no --all with it"))
			}
			if all && len(args) > 0 {
				return usage(errors.New("give a HOST or --all, not both"))
			}
			if local {
				return shared.Run(cmd, top.Config{Feed: top.Local(agentStateDir, shared.Interval)}, width)
			}
			cl, err := o.connect()
			if errors.Is(err, errNoController) && !all && len(args) == 0 {
				return shared.Run(cmd, top.Config{Feed: top.Local(agentStateDir, shared.Interval)}, width)
			}
			if err != nil {
				return err
			}
			cfg := top.Config{Feed: remote(cl, shared.Interval)}
			if len(args) > 0 {
				if _, err := cl.Get(cmd.Context(), model.MustKind(model.KindHost), args[0]); err != nil {
					return err
				}
				cfg.Host = args[0]
				return shared.Run(cmd, cfg, width)
			}
			wait := time.Duration(0)
			if shared.Once || shared.Output != "table" {
				wait = shared.Interval + 3*time.Second
			}
			cfg.Fleet = func(ctx context.Context) ([]model.Glance, error) {
				return cl.Glances(ctx, shared.Interval, min(wait, 15*time.Second))
			}
			return shared.Run(cmd, cfg, width)
		},
		ValidArgsFunction: completeNames(o, model.MustKind(model.KindHost)),
	}
	shared.Register(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all hosts, also where this machine could be shown")
	cmd.Flags().BoolVar(&local, "local", false, "this machine, without a controller")
	return cmd
}

// remote feeds from a controller. What is given again, because nothing newer has
// come, is left out: the screen shows how old it is.
func remote(cl *client.Client, interval time.Duration) top.Feed {
	return func(ctx context.Context, host string, give func(*model.Sample, time.Duration)) error {
		for last := uint64(0); ctx.Err() == nil; {
			began := time.Now()
			x, err := cl.Sample(ctx, host, interval, last)
			if err != nil {
				return err
			}
			if x.Sample != nil && x.Number != last {
				last = x.Number
				give(x.Sample, time.Duration(x.Age*float64(time.Second)))
				continue
			}
			if x.State != model.HostOnline {
				return fmt.Errorf("host %s is %s: its agent has no session; weft describe host %s", host, x.State, host)
			}
			// An answer that says nothing new came after a wait, or in haste.
			if rest := time.Second - time.Since(began); rest > 0 {
				select {
				case <-ctx.Done():
				case <-time.After(rest):
				}
			}
		}
		return ctx.Err()
	}
}
