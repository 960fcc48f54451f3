package show

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"weft/model"
)

// Probe prints what came of a probe.
func Probe(w io.Writer, r *model.ProbeResult) error {
	fmt.Fprintf(w, "%d asked, %d answered in %.1f s, %.1f a second, %s\n", r.Asked, r.OK, r.Seconds, r.Rate, Bytes(r.Bytes))
	t := Table{Columns: []Column{{Title: "MIN"}, {Title: "MEAN"}, {Title: "P50"}, {Title: "P90"}, {Title: "P99"}, {Title: "P99.9"}, {Title: "MAX"}}}
	l := r.Latency
	var row []string
	for _, v := range []float64{l.Min, l.Mean, l.P50, l.P90, l.P99, l.P999, l.Max} {
		row = append(row, Latency(v))
	}
	t.Row(row...)
	if err := t.Flush(w); err != nil {
		return err
	}
	for _, text := range ProbeTroubles(r, "") {
		fmt.Fprintln(w, text)
	}
	return nil
}

// ProbeProgress says in a line how far a probe of so many questions is.
func ProbeProgress(r *model.ProbeResult, count int) string {
	text := fmt.Sprintf("%d asked", r.Asked)
	if count > 0 {
		text = fmt.Sprintf("%d of %d asked", r.Asked, count)
	}
	return text + fmt.Sprintf(", %d failed, %.0f a second, p50 %s, p99 %s", r.Failed(), r.Rate, Latency(r.Latency.P50), Latency(r.Latency.P99))
}

// ProbeColumns are those of a table of hosts.
func ProbeColumns() []Column {
	out := []Column{{Title: "HOST", Flexible: true}}
	for _, title := range []string{"ASKED", "FAILED", "RATE", "P50", "P90", "P99", "MAX"} {
		out = append(out, Column{Title: title})
	}
	return out
}

// ProbeCells are the cells under those but the host's.
func ProbeCells(r *model.ProbeResult) []string {
	if r == nil {
		return make([]string, 7)
	}
	l := r.Latency
	return []string{fmt.Sprint(r.Asked), fmt.Sprint(r.Failed()), fmt.Sprintf("%.1f/s", r.Rate), Latency(l.P50), Latency(l.P90), Latency(l.P99), Latency(l.Max)}
}

// ProbeTroubles say what failed, a line a kind, and what else is to be said.
func ProbeTroubles(r *model.ProbeResult, message string) (out []string) {
	if message != "" {
		out = append(out, message)
	}
	if r == nil {
		return out
	}
	if r.Note != "" {
		out = append(out, "ended early: "+r.Note)
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Errors)) {
		out = append(out, fmt.Sprintf("error: %s: %d", kind, r.Errors[kind]))
	}
	return out
}

// Latency writes three digits or so of seconds.
func Latency(seconds float64) string {
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

// probed sums up the last turns of a probe: hosts with a result of all, the share of
// questions that failed, and the worst host's latencies.
func probed(p *model.Probe) (hosts, failed, p50, p99 string) {
	var sum, worst model.ProbeResult
	n := 0
	for _, h := range p.Status.Hosts {
		if r := h.Result; r != nil && h.Message == "" {
			n++
			sum.Asked, sum.OK = sum.Asked+r.Asked, sum.OK+r.OK
			worst.Latency.P50, worst.Latency.P99 = max(worst.Latency.P50, r.Latency.P50), max(worst.Latency.P99, r.Latency.P99)
		}
	}
	hosts = fmt.Sprintf("%d/%d", n, len(p.Status.Hosts))
	if sum.Asked > 0 {
		failed = fmt.Sprintf("%.3g%%", sum.FailedPercent())
	}
	return hosts, failed, Latency(worst.Latency.P50), Latency(worst.Latency.P99)
}

func (p *page) probe(r *model.Probe, now time.Time) {
	s := &r.Spec
	if s.From != nil {
		p.field("From", s.From.String())
	}
	p.field("Asks", fmt.Sprintf("%s %s", s.Kind, s.Target))
	p.field("Each turn", fmt.Sprintf("%s, %d at a time, each waited for %s", Plural(s.Questions(), "question"), s.AtOnce(), s.Patience()))
	p.field("Every", s.Every().String())
	p.field("Expects", s.Expect)
	p.section("Hosts, their last turn")
	columns := slices.Insert(ProbeColumns(), 1, Column{Title: "AGO"})
	columns = slices.Delete(columns, 4, 5) // the rate says nothing of a turn
	var rows [][]string
	var troubles []string
	for _, h := range r.Status.Hosts {
		at := ""
		if h.Time != nil {
			at = Age(now.Sub(*h.Time))
		}
		rows = append(rows, slices.Delete(slices.Concat([]string{h.Host, at}, ProbeCells(h.Result)), 4, 5))
		for _, text := range ProbeTroubles(h.Result, h.Message) {
			troubles = append(troubles, "  "+h.Host+": "+text+"\n")
		}
	}
	p.table(columns, rows)
	if len(troubles) > 0 {
		p.section("Troubles")
		p.b.WriteString(strings.Join(troubles, ""))
	}
}
