package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"weft/lab"
	"weft/lab/topology"
)

func newLabStartCommand() *cobra.Command {
	var which string
	c := &cobra.Command{
		Use:     "start HOST",
		Short:   "Start a host that the topology says comes later",
		Example: "  sudo weft lab start web-3",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(which)
			if err != nil {
				return err
			}
			if err := l.StartHost(args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "host %s started\n", args[0])
			return nil
		},
	}
	c.Flags().StringVarP(&which, "lab", "l", "", "id or topology name of the lab, where several are up")
	return c
}

func newLabLinkCommand() *cobra.Command {
	var which, rate, loss, reorder string
	var delay, jitter time.Duration
	var seed uint64
	var cut, heal, perfect bool
	c := &cobra.Command{
		Use:   "link [LINK]",
		Short: "Show links, or change what one does: delay, loss, a cut",
		Example: "  weft lab link web-1 --delay 20ms --loss 1%\n" +
			"  weft lab link web-1@cloud-a --cut\n" +
			"  weft lab link web-1 --heal --perfect",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(which)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
				fmt.Fprintln(tw, "LINK\tDEVICE\tSTATE\tIMPAIRMENT")
				for _, k := range l.State().Links {
					state := "up"
					if k.Cut {
						state = "cut"
					}
					fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", k.Name, k.Device, state, k.Impairment)
				}
				return tw.Flush()
			}
			if cut && heal {
				return fmt.Errorf("--cut and --heal exclude each other; give one")
			}
			i := lab.Impairment{Delay: topology.Duration(delay), Jitter: topology.Duration(jitter), Seed: seed}
			if rate != "" {
				if i.Rate, err = topology.ParseRate(rate); err != nil {
					return err
				}
			}
			if loss != "" {
				if i.Loss, err = topology.ParsePercent(loss); err != nil {
					return err
				}
			}
			if reorder != "" {
				if i.Reorder, err = topology.ParsePercent(reorder); err != nil {
					return err
				}
			}
			if err := i.Check(); err != nil {
				return err
			}
			if i.Active() || perfect {
				if err := l.SetLink(args[0], i); err != nil {
					return err
				}
			}
			switch {
			case cut:
				return l.Cut(args[0])
			case heal:
				return l.Heal(args[0])
			case !i.Active() && !perfect:
				return fmt.Errorf("nothing to change; give for example --delay 20ms, --cut, --heal or --perfect")
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVarP(&which, "lab", "l", "", "id or topology name of the lab, where several are up")
	f.StringVar(&rate, "rate", "", "bits per second, for example 100Mbit")
	f.DurationVar(&delay, "delay", 0, "delay one way")
	f.DurationVar(&jitter, "jitter", 0, "how far the delay varies")
	f.StringVar(&loss, "loss", "", "share of frames lost, for example 1%")
	f.StringVar(&reorder, "reorder", "", "share of frames that overtake, for example 2%")
	f.Uint64Var(&seed, "seed", 0, "seed of the draws")
	f.BoolVar(&cut, "cut", false, "lose everything, with the carrier kept")
	f.BoolVar(&heal, "heal", false, "end a cut")
	f.BoolVar(&perfect, "perfect", false, "take the impairment away")
	return c
}
