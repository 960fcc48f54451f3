package top

import (
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// Options are the flags that both programs have.
type Options struct {
	Interval time.Duration
	Sort     string
	Once     bool
	Output   string
}

// Register adds the flags.
func (o *Options) Register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.DurationVar(&o.Interval, "interval", 2*time.Second, "time between two samples")
	f.StringVar(&o.Sort, "sort", "cpu", "what processes are sorted by: "+strings.Join(Orders(), ", "))
	f.BoolVar(&o.Once, "once", false, "print the figures once and end; for scripts")
	f.StringVarP(&o.Output, "output", "o", "table", "table|json, with --once")
	for name, list := range map[string][]string{"sort": Orders(), "output": {"table", "json"}} {
		if err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			panic(err) // a flag of that name is above
		}
	}
}

// Run shows the screen, or prints once. Without a terminal the width is given.
func (o *Options) Run(cmd *cobra.Command, cfg Config, width int) error {
	cfg.Interval, cfg.Sort = o.Interval, o.Sort
	if o.Once || o.Output != "table" {
		return Once(cmd.Context(), cfg, cmd.OutOrStdout(), width, o.Output)
	}
	return Run(cmd.Context(), cfg, os.Stdin, os.Stdout)
}
