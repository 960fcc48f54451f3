package show

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"weft/lab/reach"
)

// Reach prints who reaches whom: for each service a square of signs, senders
// down and receivers across, and below it what does not hold.
type Reach struct {
	Probes []*reach.Probe
	Width  int
	Color  bool
	Took   time.Duration
}

const (
	green = "\x1b[32m"
	red   = "\x1b[31m"
	plain = "\x1b[0m"
)

var signs = map[reach.Verdict]string{reach.Allow: "+", reach.Deny: ".", reach.Reject: "x"}

// Print writes all of it and returns how many probes do not hold.
func (r *Reach) Print(w io.Writer) (int, error) {
	names, services := r.axes()
	var b strings.Builder
	all := len(r.Probes) <= listed
	if !all {
		for _, s := range services {
			r.square(&b, s, names)
		}
		fmt.Fprintln(&b, "+ answered   . no answer   x refused   / no way there   ! not as expected")
	}
	failed, apart := 0, 0
	t := Table{Columns: []Column{{Title: "FROM", Flexible: true}, {Title: "TO", Flexible: true}, {Title: "SERVICE"}, {Title: "EXPECTED"}, {Title: "ACTUAL"}, {Title: ""}, {Title: "LINE"}, {Title: "WHY", Flexible: true}},
		Width: r.Width}
	for _, p := range r.Probes {
		verdict := "ok"
		if !p.Made() {
			apart++
		}
		if !p.Holds() {
			failed, verdict = failed+1, "WRONG"
		}
		if all || !p.Holds() {
			t.Row(p.From, p.To, p.Service, string(p.Expected), string(p.Actual), verdict, fmt.Sprint(p.Line), cmp.Or(p.Detail, p.Target))
		}
	}
	if all || failed > 0 {
		if !all {
			fmt.Fprintln(&b)
		}
		var lines strings.Builder
		if err := t.Flush(&lines); err != nil {
			return failed, err
		}
		b.WriteString(r.painted(lines.String()))
	}
	fmt.Fprintf(&b, "\n%s in %s: %d as expected, %d not", Plural(len(r.Probes), "pair"), r.Took.Round(100*time.Millisecond), len(r.Probes)-failed, failed)
	if apart > 0 {
		fmt.Fprintf(&b, "; %d without a way there", apart)
	}
	fmt.Fprintln(&b)
	_, err := io.WriteString(w, b.String())
	return failed, err
}

// axes are the places and services in the order in which they are asked for.
func (r *Reach) axes() (names, services []string) {
	add := func(list *[]string, s string) {
		if !slices.Contains(*list, s) {
			*list = append(*list, s)
		}
	}
	for _, p := range r.Probes {
		add(&names, p.From)
		add(&services, p.Service)
	}
	for _, p := range r.Probes {
		add(&names, p.To)
	}
	return names, services
}

// listed is up to how many probes a list is easier to read than squares.
const listed = 24

// painted colours the word that says how each line came out.
func (r *Reach) painted(lines string) string {
	if !r.Color {
		return lines
	}
	return strings.NewReplacer("  ok ", "  "+green+"ok"+plain+" ", "  WRONG ", "  "+red+"WRONG"+plain+" ").Replace(lines)
}

const cellWidth = 3

// square prints one service, in slices where the screen is too narrow.
func (r *Reach) square(b *strings.Builder, service string, names []string) {
	cells := map[[2]string]*reach.Probe{}
	var from, to []string
	for _, n := range names {
		sends, receives := false, false
		for _, p := range r.Probes {
			if p.Service == service {
				sends, receives = sends || p.From == n, receives || p.To == n
			}
			if p.Service == service && p.From == n {
				cells[[2]string{n, p.To}] = p
			}
		}
		if sends {
			from = append(from, n)
		}
		if receives {
			to = append(to, n)
		}
	}
	width := len(service)
	for _, n := range names {
		width = max(width, utf8.RuneCountInString(n))
	}
	screen := max(r.Width, 40)
	width = min(width, screen/2)
	for first := range slices.Chunk(to, max(1, (screen-width-4)/cellWidth)) {
		fmt.Fprintf(b, "%*s %-*s", 3, "", width, service)
		for _, n := range first {
			fmt.Fprintf(b, "%*d", cellWidth, 1+slices.Index(names, n))
		}
		b.WriteByte('\n')
		for _, n := range named(names, from, first) {
			line := fmt.Sprintf("%*d %-*s", 3, 1+slices.Index(names, n), width, Cut(n, width))
			for _, m := range first {
				line += r.cell(cells[[2]string{n, m}])
			}
			b.WriteString(strings.TrimRight(line, " ") + "\n")
		}
		b.WriteByte('\n')
	}
}

// named are those who send, and those who only receive: a number needs a name.
func named(names, from, to []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !slices.Contains(from, n) && !slices.Contains(to, n) })
}

func (r *Reach) cell(p *reach.Probe) string {
	if p == nil {
		return strings.Repeat(" ", cellWidth)
	}
	sign, mark, color := signs[p.Actual], " ", green
	if !p.Made() {
		sign, color = "/", plain
	}
	if !p.Holds() {
		mark, color = "!", red
	}
	if !r.Color {
		return " " + sign + mark
	}
	return " " + color + sign + mark + plain
}
