package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/controller/api"
	"weft/controller/probes"
	"weft/model"
)

// hostResult is what came of a probe at one host.
type hostResult struct {
	Host    string `json:"host"`
	Message string `json:"message,omitempty"`
	*model.ProbeResult
}

// runFrom has hosts ask, for as long as this command lives. What came until it is
// interrupted, or the controller is gone, is shown.
func (f *probeFlags) runFrom(cmd *cobra.Command, o *options) error {
	if err := f.spec.CheckAgent(); err != nil {
		return usage(err)
	}
	cl, err := o.connect()
	if err != nil {
		return err
	}
	var last api.ProbeRun
	live := terminal(cmd.ErrOrStderr())
	err = cl.RunProbe(cmd.Context(), f.query(), func(x api.ProbeRun) {
		if last = x; live && !x.Over {
			width, _ := screen(cmd)
			fmt.Fprintf(cmd.ErrOrStderr(), "\r%s\x1b[K", show.Cut(probeLine(x.Hosts, f.spec.Count), width-1))
		}
	})
	if live {
		fmt.Fprint(cmd.ErrOrStderr(), "\r\x1b[K")
	}
	if len(last.Hosts) == 0 {
		return explainProblem(err)
	}
	results := make([]hostResult, len(last.Hosts))
	for i, p := range last.Hosts {
		results[i] = hostResult{p.Host, p.Message, p.Result}
		if !p.Ended && p.Message == "" {
			results[i].Message = "stopped before the end"
		}
	}
	if errors.Is(err, context.Canceled) {
		err = nil // by whoever reads this
	}
	if f.output == "json" {
		return errors.Join(show.JSON(cmd.OutOrStdout(), results), err, f.verdict(results))
	}
	return errors.Join(f.showFrom(cmd, results), err, f.verdict(results))
}

// verdict is how the command ends.
func (f *probeFlags) verdict(results []hostResult) error {
	var without []string
	for _, r := range results {
		if unanswered("", r.ProbeResult) != nil {
			without = append(without, r.Host)
		}
	}
	if len(without) == 0 {
		return nil
	}
	return &exitError{1, fmt.Errorf("nothing of %s was answered to %s", f.spec.Target, strings.Join(without, ", "))}
}

func (f *probeFlags) query() url.Values {
	s := &f.spec
	q := url.Values{"kind": {string(s.Kind)}, "target": {s.Target}, "concurrency": {strconv.Itoa(s.Concurrency)}, "count": {strconv.Itoa(s.Count)}, "rate": {strconv.FormatFloat(s.Rate, 'f', -1, 64)},
		"timeout": {s.Timeout.String()}, "time": {s.Time.String()}}
	for _, h := range f.from {
		q.Add("host", h)
	}
	for name, v := range map[string]string{"group": f.group, "expect": s.Expect} {
		if v != "" {
			q.Set(name, v)
		}
	}
	return q
}

// probeLine says in a line how far hosts are.
func probeLine(parts []probes.Part, count int) string {
	if len(parts) == 1 {
		if r := parts[0].Result; r != nil {
			return show.ProbeProgress(r, count)
		}
		return "waiting for " + parts[0].Host
	}
	var sum model.ProbeResult
	ended, slowest := 0, ""
	for _, p := range parts {
		if p.Ended {
			ended++
		}
		if r := p.Result; r != nil {
			if sum.Asked, sum.OK = sum.Asked+r.Asked, sum.OK+r.OK; r.Latency.P99 > sum.Latency.P99 {
				sum.Latency.P99, slowest = r.Latency.P99, p.Host
			}
		}
	}
	text := fmt.Sprintf("%d of %d hosts done, %d asked, %d failed", ended, len(parts), sum.Asked, sum.Failed())
	if slowest != "" {
		text += fmt.Sprintf(", worst p99 %s at %s", show.Latency(sum.Latency.P99), slowest)
	}
	return text
}

func (f *probeFlags) showFrom(cmd *cobra.Command, results []hostResult) error {
	w := cmd.OutOrStdout()
	if len(results) == 1 {
		r := results[0]
		fmt.Fprintf(w, "%s %s from %s\n", f.spec.Kind, f.spec.Target, r.Host)
		if r.Message != "" {
			fmt.Fprintf(w, "%s\n", r.Message)
		}
		if r.ProbeResult == nil {
			return nil
		}
		return show.Probe(w, r.ProbeResult)
	}
	fmt.Fprintf(w, "%s %s from %d hosts\n", f.spec.Kind, f.spec.Target, len(results))
	width, color := screen(cmd)
	t := show.Table{Columns: show.ProbeColumns(), Width: width, Color: color}
	for _, r := range results {
		t.Row(slices.Concat([]string{r.Host}, show.ProbeCells(r.ProbeResult))...)
	}
	if err := t.Flush(w); err != nil {
		return err
	}
	for _, r := range results {
		for _, text := range show.ProbeTroubles(r.ProbeResult, r.Message) {
			fmt.Fprintf(w, "%s: %s\n", r.Host, text)
		}
	}
	return nil
}
