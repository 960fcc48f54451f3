package main

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"weft/agent/probe"
	"weft/cmd/weft/show"
)

type probeFlags struct {
	spec   probe.Spec
	output string
}

func newProbeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "probe",
		Short: "Ask a service many times from this machine: how long answers take, and which fail",
		Long: `Ask a service many times from this machine, and say how long its answers took,
which failed and why, and how many came a second.

With --rate each question has a time at which it is due, and its latency is
reckoned from then: a service that stands still is seen as it is for users who
do not wait for one another. Without, one question follows another as fast as
answers come, and a service that stands still is asked less.`,
		Example: `  weft probe http https://shop.example.org/ -c 100 -n 100000
  weft probe http http://10.0.0.5:8080/health --rate 200 --time 1m -o json`,
		Args: exactly(0, "http, tcp, dns or icmp"),
		RunE: func(cmd *cobra.Command, _ []string) error { return usage(cmd.Help()) },
	}
	for _, k := range []struct{ kind, target, short, example string }{
		{probe.HTTP, "URL", "Ask for a page; a status from 400 on is an error", "  weft probe http https://shop.example.org/ -c 100 -n 100000"},
		{probe.TCP, "HOST:PORT", "Open connections, and close them", "  weft probe tcp db:5432 --rate 50 --time 30s"},
		{probe.DNS, "NAME@SERVER[:PORT]", "Ask a name server for a name's IPv4 addresses, by UDP", "  weft probe dns shop.example.org@10.0.0.53 -c 10 -n 10000"},
		{probe.ICMP, "HOST", "Send echo requests", "  weft probe icmp gateway --rate 10 -n 100"},
	} {
		c.AddCommand(newProbeKindCommand(k.kind, k.target, k.short, k.example))
	}
	return c
}

func newProbeKindCommand(kind, target, short, example string) *cobra.Command {
	f := probeFlags{spec: probe.Spec{Kind: kind}}
	c := &cobra.Command{
		Use: kind + " " + target, Short: short, Example: example, Args: exactly(1, target),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(f.output, "table", "json"); err != nil {
				return err
			}
			f.spec.Target = args[0]
			if !cmd.Flags().Changed("count") && cmd.Flags().Changed("time") {
				f.spec.Count = probe.MaxCount
			}
			if err := f.spec.Check(); err != nil {
				return usage(err)
			}
			var progress func(uint64)
			if terminal(cmd.ErrOrStderr()) {
				progress = func(done uint64) { fmt.Fprintf(cmd.ErrOrStderr(), "\r%d done ", done) }
			}
			r, err := probe.Run(cmd.Context(), f.spec, progress)
			if progress != nil {
				fmt.Fprint(cmd.ErrOrStderr(), "\r\x1b[K")
			}
			if err != nil {
				return err
			}
			if f.output == "json" {
				err = show.JSON(cmd.OutOrStdout(), r)
			} else {
				err = showProbe(cmd, r)
			}
			if err == nil && r.OK == 0 {
				return &exitError{1, fmt.Errorf("nothing of %s was answered", r.Target)}
			}
			return err
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fl := c.Flags()
	fl.IntVarP(&f.spec.Concurrency, "concurrency", "c", 10, "questions at one time")
	fl.IntVarP(&f.spec.Count, "count", "n", 1000, "questions in all; with --time alone, as many as it takes")
	fl.Float64Var(&f.spec.Rate, "rate", 0, "questions a second, each due at its time; 0 is as fast as answers come")
	fl.DurationVar(&f.spec.Timeout, "timeout", 10*time.Second, "how long one answer is waited for")
	fl.DurationVar(&f.spec.Time, "time", 10*time.Minute, "how long at most")
	fl.StringVarP(&f.output, "output", "o", "table", "table|json")
	if err := c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is above
	}
	return c
}

func showProbe(cmd *cobra.Command, r *probe.Result) error {
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "%s %s: %d asked, %d answered in %.1f s, %.1f a second, %s\n", r.Kind, r.Target, r.Asked, r.OK, r.Seconds, r.Rate, show.Bytes(r.Bytes))
	t := show.Table{Columns: []show.Column{{Title: "MIN"}, {Title: "MEAN"}, {Title: "P50"}, {Title: "P90"}, {Title: "P99"}, {Title: "P99.9"}, {Title: "MAX"}}}
	l := r.Latency
	var row []string
	for _, v := range []float64{l.Min, l.Mean, l.P50, l.P90, l.P99, l.P999, l.Max} {
		row = append(row, latency(v))
	}
	t.Row(row...)
	if err := t.Flush(w); err != nil {
		return err
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Errors)) {
		fmt.Fprintf(w, "error: %s: %d\n", kind, r.Errors[kind])
	}
	return nil
}

// latency writes three digits.
func latency(seconds float64) string {
	switch d := time.Duration(seconds * float64(time.Second)); {
	case d == 0:
		return "-"
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(10 * time.Microsecond).String()
	default:
		return d.Round(10 * time.Millisecond).String()
	}
}
