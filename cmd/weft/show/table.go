// Package show prints resources for people: tables, descriptions, ages and
// sizes.
package show

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// Column is one column of a table.
type Column struct {
	Title string
	// Flexible columns are cut where the table would be wider than the screen.
	Flexible bool
	// State colours the words of a state on a terminal.
	State bool
}

// Table collects rows and prints them aligned.
type Table struct {
	Columns []Column
	// Width is that of the screen; 0 cuts nothing.
	Width int
	Color bool

	rows   [][]string
	widths []int
}

// Row adds a row; an empty cell prints as "-".
func (t *Table) Row(cells ...string) {
	for i, c := range cells {
		if c == "" {
			cells[i] = "-"
		}
	}
	t.rows = append(t.rows, cells)
}

// Flush prints what was added since the last, under the titles at first. Widths
// never shrink, so that the lines of a watch stay aligned.
func (t *Table) Flush(w io.Writer) error {
	first := t.widths == nil
	if first {
		titles := make([]string, len(t.Columns))
		for i, c := range t.Columns {
			titles[i] = c.Title
		}
		t.rows = append([][]string{titles}, t.rows...)
		t.widths = make([]int, len(t.Columns))
	}
	for _, row := range t.rows {
		for i, cell := range row {
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(cell))
		}
	}
	t.squeeze()
	var b strings.Builder
	for n, row := range t.rows {
		line := ""
		for i, cell := range row {
			cell = Cut(cell, t.widths[i])
			pad := strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(cell))
			if t.Color && t.Columns[i].State && (!first || n > 0) {
				cell = paint(cell)
			}
			if line += cell; i < len(row)-1 {
				line += pad + "  "
			}
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	t.rows = nil
	_, err := io.WriteString(w, b.String())
	return err
}

// squeeze takes from the widest flexible column until the table fits.
func (t *Table) squeeze() {
	const least = 8
	for t.Width > 0 {
		total, widest := 2*(len(t.widths)-1), -1
		for i, w := range t.widths {
			total += w
			if t.Columns[i].Flexible && w > least && (widest < 0 || w > t.widths[widest]) {
				widest = i
			}
		}
		if total <= t.Width || widest < 0 {
			return
		}
		t.widths[widest] = max(least, t.widths[widest]-(total-t.Width))
	}
}

// Cut shortens a text to so many characters.
func Cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	return string([]rune(s)[:width-1]) + "…"
}

func paint(state string) string {
	code := ""
	switch strings.TrimSuffix(state, "…") {
	case "Active", "Online", "Connected", "Capturing", "Ready":
		code = "32" // green
	case "Pending", "Degraded", "Connecting", "Paused", "Warning":
		code = "33" // yellow
	case "Error", "Offline", "Revoked", "Expired", "Critical":
		code = "31" // red
	default:
		return state
	}
	return "\x1b[" + code + "m" + state + "\x1b[0m"
}

// Age prints a duration as Kubernetes does: the largest unit, and the next
// where the number is small ("5s", "3m20s", "45m", "7h12m", "3d4h", "40d").
func Age(d time.Duration) string {
	if d < 0 {
		d = 0
	}
	s := int(d / time.Second)
	pair := func(big int, unit string, small int, smallUnit string) string {
		if small == 0 {
			return fmt.Sprintf("%d%s", big, unit)
		}
		return fmt.Sprintf("%d%s%d%s", big, unit, small, smallUnit)
	}
	switch {
	case s < 120:
		return fmt.Sprintf("%ds", s)
	case s < 600:
		return pair(s/60, "m", s%60, "s")
	case s < 3*3600:
		return fmt.Sprintf("%dm", s/60)
	case s < 8*3600:
		return pair(s/3600, "h", s/60%60, "m")
	case s < 48*3600:
		return fmt.Sprintf("%dh", s/3600)
	case s < 8*86400:
		return pair(s/86400, "d", s/3600%24, "h")
	}
	return fmt.Sprintf("%dd", s/86400)
}

// Bytes prints a size in units of 1024.
func Bytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}

// Number prints a count short enough for a table: 9999, 12.3k, 4.5M.
func Number(n uint64) string {
	const units = "kMGTPE"
	if n < 10_000 {
		return fmt.Sprintf("%d", n)
	}
	v, i := float64(n)/1000, 0
	for v >= 1000 && i < len(units)-1 {
		v, i = v/1000, i+1
	}
	return fmt.Sprintf("%.1f%c", v, units[i])
}

// Plural prints "1 tool", "2 tools".
func Plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
