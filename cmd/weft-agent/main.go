// Command weft-agent runs on every machine: it taps, sees, segments and
// connects, as the controller says.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"weft/internal/run"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	var o options
	root := &cobra.Command{Use: "weft-agent", SilenceUsage: true, SilenceErrors: true}
	c := &cobra.Command{Use: "run", RunE: func(cmd *cobra.Command, _ []string) error {
		log := slog.New(slog.NewTextHandler(os.Stderr, nil))
		if o.Name == "" {
			name, err := hostName()
			if err != nil {
				return err
			}
			o.Name = strings.ToLower(name)
		}
		services, closeAll, err := buildAgent(o, log)
		if err != nil {
			return err
		}
		defer closeAll()
		return run.All(cmd.Context(), log, services...)
	}}
	f := c.Flags()
	f.StringVar(&o.Controller, "controller", "", "")
	f.StringVar(&o.TokenFile, "token-file", "", "")
	f.StringVar(&o.StateDir, "state-dir", "/var/lib/weft-agent", "")
	f.StringVar(&o.CgroupRoot, "cgroup-root", "", "")
	f.StringVar(&o.BPFDir, "bpf-dir", "/sys/fs/bpf/weft", "")
	f.StringToStringVar(&o.Labels, "labels", nil, "")
	root.AddCommand(c)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "weft-agent: %v\n", err)
		os.Exit(1)
	}
}
