package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"weft/agent/probe"
	"weft/cmd/weft/show"
	"weft/model"
)

type probeFlags struct {
	spec   probe.Spec
	output string
	from   []string
	group  string
}

func newProbeCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "probe",
		Short: "Ask a service many times: how long answers take, and which fail",
		Long: `Ask a service many times, from this machine or from hosts with an agent, and say
how long its answers took, which failed and why, and how many came a second.

With --rate each question has a time at which it is due, and its latency is
reckoned from then: a service that stands still is seen as it is for users who
do not wait for one another. Without, one question follows another as fast as
answers come, and a service that stands still is asked less.

With --from hosts ask, each as much as is asked for, within limits of their own;
they stop when this command ends. What is to be asked all the time is a resource
of kind Probe.`,
		Example: `  weft probe http https://shop.example.org/ -c 100 -n 100000
  weft probe http http://10.0.0.5:8080/health --rate 200 --time 1m -o json
  weft probe tcp db:5432 --from web1,web2 --rate 50 --time 30s`,
		Args: exactly(0, "http, tcp, dns or icmp"),
		RunE: func(cmd *cobra.Command, _ []string) error { return usage(cmd.Help()) },
	}
	for _, k := range []struct {
		kind                   model.ProbeKind
		target, short, example string
	}{
		{model.ProbeHTTP, "URL", "Ask for a page; a status from 400 on is an error", "  weft probe http https://shop.example.org/ -c 100 -n 100000\n  weft probe http http://10.0.0.5/ --from web1 --expect 200"},
		{model.ProbeTCP, "HOST:PORT", "Open connections, and close them", "  weft probe tcp db:5432 --rate 50 --time 30s"},
		{model.ProbeDNS, "NAME@SERVER[:PORT]", "Ask a name server for a name's IPv4 addresses, by UDP", "  weft probe dns shop.example.org@10.0.0.53 -c 10 -n 10000"},
		{model.ProbeICMP, "HOST", "Send echo requests", "  weft probe icmp gateway --rate 10 -n 100\n  weft probe icmp gateway --from-group web"},
	} {
		c.AddCommand(newProbeKindCommand(o, k.kind, k.target, k.short, k.example))
	}
	return c
}

func newProbeKindCommand(o *options, kind model.ProbeKind, target, short, example string) *cobra.Command {
	f := probeFlags{spec: probe.Spec{Kind: kind}}
	c := &cobra.Command{
		Use: string(kind) + " " + target, Short: short, Example: example, Args: exactly(1, target),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(f.output, "table", "json"); err != nil {
				return err
			}
			f.spec.Target = args[0]
			switch given := cmd.Flags().Changed("count"); {
			case given && f.spec.Count < 1:
				return usage(fmt.Errorf("-n %d: take one from 1 to %d", f.spec.Count, probe.MaxCount))
			case !given && cmd.Flags().Changed("time"):
				f.spec.Count = 0
			}
			if err := f.spec.Check(); err != nil {
				return usage(err)
			}
			if len(f.from) > 0 || f.group != "" {
				return f.runFrom(cmd, o)
			}
			return f.runHere(cmd)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fl := c.Flags()
	fl.IntVarP(&f.spec.Concurrency, "concurrency", "c", 10, "questions at one time")
	fl.IntVarP(&f.spec.Count, "count", "n", 1000, "questions in all; with --time alone, as many as it takes")
	fl.Float64Var(&f.spec.Rate, "rate", 0, "questions a second, each due at its time; 0 is as fast as answers come")
	fl.DurationVar(&f.spec.Timeout, "timeout", 10*time.Second, "how long one answer is waited for")
	fl.DurationVar(&f.spec.Time, "time", 10*time.Minute, "how long at most")
	if kind == model.ProbeHTTP {
		fl.StringVar(&f.spec.Expect, "expect", "", "statuses that are good answers, as 200, 2xx or 200,301-308 (default: all below 400)")
	}
	fl.StringSliceVar(&f.from, "from", nil, "hosts that ask, in place of this machine; each asks all")
	fl.StringVar(&f.group, "from-group", "", "the hosts of this group's members ask")
	fl.StringVarP(&f.output, "output", "o", "table", "table|json")
	for flag, complete := range map[string]cobra.CompletionFunc{"output": cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp),
		"from": completeList(completeNames(o, model.MustKind(model.KindHost))), "from-group": completeGroups(o)} {
		if err := c.RegisterFlagCompletionFunc(flag, complete); err != nil {
			panic(err) // the flag is above
		}
	}
	return c
}

// runHere asks from this machine.
func (f *probeFlags) runHere(cmd *cobra.Command) error {
	var progress func(*model.ProbeResult)
	if terminal(cmd.ErrOrStderr()) {
		progress = func(r *model.ProbeResult) {
			fmt.Fprintf(cmd.ErrOrStderr(), "\r%s\x1b[K", show.ProbeProgress(r, f.spec.Count))
		}
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
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", r.Kind, r.Target)
		err = show.Probe(cmd.OutOrStdout(), r)
	}
	return errors.Join(err, unanswered(r.Target, r))
}

// unanswered is how a command ends that had no answer at all.
func unanswered(target string, r *model.ProbeResult) error {
	if r != nil && r.OK > 0 {
		return nil
	}
	return &exitError{1, fmt.Errorf("nothing of %s was answered", target)}
}
