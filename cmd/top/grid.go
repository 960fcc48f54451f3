package top

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// style is how a character looks.
type style uint8

const (
	plain style = iota
	bold
	title // of a table
	good
	warning
	critical
	chosen // where the cursor is
)

// codes are the styles' SGR parameters, with colours and without.
var codes = [...]struct{ color, mono string }{
	plain: {"0", "0"}, bold: {"0;1", "0;1"}, title: {"0;7", "0;7"}, good: {"0;32", "0"}, warning: {"0;33", "0;1"}, critical: {"0;31;1", "0;1"}, chosen: {"0;7", "0;7"},
}

// cell is one column of a row. A wide character has a cell without one behind it.
type cell struct {
	char  rune
	style style
}

// grid is a screen.
type grid struct {
	width, height int
	cells         []cell
}

func newGrid(width, height int) *grid {
	g := &grid{width: width, height: height, cells: make([]cell, width*height)}
	for i := range g.cells {
		g.cells[i].char = ' '
	}
	return g
}

// put writes from a column on, cut at the right edge, and returns the column
// behind.
func (g *grid) put(x, y int, s style, text string) int {
	return g.cut(x, y, g.width-x, s, text)
}

// cut writes at most so many columns. A "+" stands where there was more.
func (g *grid) cut(x, y, columns int, s style, text string) int {
	if y < 0 || y >= g.height || x < 0 {
		return x
	}
	end := min(x+columns, g.width)
	start := x
	for _, c := range text {
		c, wide := clean(c)
		if x+wide > end {
			if end > start {
				g.set(end-1, y, cell{'+', s})
			}
			return end
		}
		g.set(x, y, cell{c, s})
		if x++; wide == 2 {
			g.cells[y*g.width+x] = cell{0, s}
			x++
		}
		if x < g.width && g.cells[y*g.width+x].char == 0 { // the half of what was there
			g.cells[y*g.width+x].char = ' '
		}
	}
	return x
}

// set writes a cell. What it takes the second half of goes whole.
func (g *grid) set(x, y int, c cell) {
	i := y*g.width + x
	if x > 0 && g.cells[i].char == 0 {
		g.cells[i-1].char = ' '
	}
	g.cells[i] = c
}

// right writes so that the text ends before a column.
func (g *grid) right(end, y int, s style, text string) {
	g.put(max(0, end-utf8.RuneCountInString(text)), y, s, text)
}

// paint gives a row another style.
func (g *grid) paint(y int, s style) {
	if y < 0 || y >= g.height {
		return
	}
	for x := range g.width {
		g.cells[y*g.width+x].style = s
	}
}

// clean makes a character harmless: one that would move the cursor, turn the
// direction of writing, join another or show nothing becomes "?". It returns how
// many columns it takes.
func clean(c rune) (rune, int) {
	if c < utf8.RuneSelf {
		if c < ' ' || c == 0x7f {
			return '?', 1
		}
		return c, 1
	}
	if c == utf8.RuneError || !unicode.IsPrint(c) || unicode.In(c, unicode.Mn, unicode.Me, unicode.Cf) || c > unicode.MaxRune {
		return '?', 1
	}
	switch width.LookupRune(c).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return c, 2
	}
	return c, 1
}

// String is the text alone, without spaces at the ends of rows.
func (g *grid) String() string {
	var b strings.Builder
	for y := range g.height {
		var row strings.Builder
		for x := range g.width {
			if c := g.cells[y*g.width+x].char; c != 0 {
				row.WriteRune(c)
			}
		}
		b.WriteString(strings.TrimRight(row.String(), " ") + "\n")
	}
	return b.String()
}

// difference is what turns one frame into another on a terminal: runs of what
// changed, each with the cursor's way to it. Without a frame before, or with one
// of another size, it is everything.
func (g *grid) difference(before *grid, color bool) string {
	var b strings.Builder
	if before == nil || before.width != g.width || before.height != g.height {
		b.WriteString("\x1b[0m\x1b[2J")
		before = newGrid(g.width, g.height)
	}
	const near = 6 // a gap so small is cheaper to write again than to jump over
	now, told := plain, false
	for y := range g.height {
		row, old := g.cells[y*g.width:(y+1)*g.width], before.cells[y*g.width:(y+1)*g.width]
		half := func(x int) bool { return x < g.width && row[x].char == 0 } // the second column of a wide character
		at := -near - 1                                                     // where the terminal's cursor is in this row
		for x := range row {
			if half(x) || row[x] == old[x] && (!half(x+1) || row[x+1] == old[x+1]) {
				continue
			}
			from := x
			if x-at <= near {
				from = at
			} else {
				fmt.Fprintf(&b, "\x1b[%d;%dH", y+1, x+1)
			}
			for at = from; at <= x; at++ {
				if half(at) {
					continue
				}
				if row[at].style != now || !told {
					now, told = row[at].style, true
					code := codes[now].mono
					if color {
						code = codes[now].color
					}
					b.WriteString("\x1b[" + code + "m")
				}
				b.WriteRune(row[at].char)
			}
			if half(at) {
				at++
			}
		}
	}
	if told {
		b.WriteString("\x1b[0m")
	}
	return b.String()
}
