package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"weft/model"
)

// column is one of a table.
type column struct {
	title string
	width int  // 0 takes the rest
	left  bool // aligned
	// from is the least width of the screen that it is shown at.
	from int
}

// row is a line of a table, of as many cells as there are columns.
type row struct {
	id    string // what the cursor stays with
	cells []string
	style style
}

// table is one of the lists of a machine.
type table struct {
	columns []column
	rows    []row
}

// draw writes a table into rows y to bottom, scrolled so that the row of the
// cursor is seen, and returns which that is.
func (t *table) draw(g *grid, y, bottom int, cursor *cursor) {
	var shown []int
	fixed := 0
	for i, c := range t.columns {
		if g.width >= c.from {
			shown = append(shown, i)
			fixed += c.width + 1
		}
	}
	line := func(y int, cells []string, s style) {
		x := 1
		for _, i := range shown {
			c, text := t.columns[i], ""
			if i < len(cells) {
				text = cells[i]
			}
			wide := c.width
			if wide == 0 {
				wide = max(1, g.width-fixed)
			}
			if c.left || len(text) > wide {
				g.cut(x, y, wide, s, text)
			} else {
				g.right(x+wide, y, s, text)
			}
			x += wide + 1
		}
	}
	titles := make([]string, len(t.columns))
	for i, c := range t.columns {
		titles[i] = c.title
	}
	line(y, titles, title)
	g.paint(y, title)
	room := bottom - y - 1
	at := cursor.place(t.rows, room)
	for i := 0; i < room && cursor.top+i < len(t.rows); i++ {
		r := t.rows[cursor.top+i]
		line(y+1+i, r.cells, r.style)
		if cursor.top+i == at {
			g.put(0, y+1+i, r.style, ">")
			g.paint(y+1+i, chosen)
		}
	}
}

// cursor stays with a row, wherever that goes.
type cursor struct {
	id   string
	at   int // where it was last
	top  int // first row on the screen
	page int
}

// place finds the cursor's row, and scrolls.
func (c *cursor) place(rows []row, room int) int {
	c.page = max(1, room-1)
	if i := slices.IndexFunc(rows, func(r row) bool { return r.id == c.id }); i >= 0 && c.id != "" {
		c.at = i
	} else {
		c.at = max(0, min(c.at, len(rows)-1))
		if c.id != "" && len(rows) > 0 {
			c.id = rows[c.at].id
		}
	}
	c.top = max(0, min(c.top, c.at, len(rows)-room))
	if c.at >= c.top+room {
		c.top = c.at - room + 1
	}
	return c.at
}

// move goes so many rows. At the first row the cursor stays with the row and not
// with whom it is, so that the list's top can be watched.
func (c *cursor) move(n int, rows []row) {
	c.at = max(0, min(c.at+n, len(rows)-1))
	c.id = ""
	if c.at > 0 && len(rows) > 0 {
		c.id = rows[c.at].id
	}
}

// order is what processes are sorted by.
type order byte

const (
	byCPU     order = 'c'
	byMemory  order = 'm'
	byIO      order = 'i'
	byNetwork order = 'n'
	byPID     order = 'p'
)

// orders are their names on the command line and the screen.
var orders = []struct {
	order order
	name  string
}{{byCPU, "cpu"}, {byMemory, "memory"}, {byIO, "io"}, {byNetwork, "network"}, {byPID, "pid"}}

func (o order) String() string {
	for _, x := range orders {
		if x.order == o {
			return x.name
		}
	}
	return string(o)
}

// Orders lists what processes can be sorted by.
func Orders() []string {
	var out []string
	for _, x := range orders {
		out = append(out, x.name)
	}
	return out
}

func findOrder(name string) (order, error) {
	for _, x := range orders {
		if x.name == name || string(rune(x.order)) == name {
			return x.order, nil
		}
	}
	return 0, fmt.Errorf("there is no order %q; take one of %s", name, strings.Join(Orders(), ", "))
}

func (o order) compare(a, b *model.ProcessUse) int {
	n := 0
	switch o {
	case byCPU:
		n = cmp.Compare(b.CPU, a.CPU)
	case byMemory:
		n = cmp.Compare(b.Memory, a.Memory)
	case byIO:
		n = cmp.Compare(b.ReadBytes+b.WriteBytes, a.ReadBytes+a.WriteBytes)
	case byNetwork:
		n = cmp.Compare(b.Sent+b.Received, a.Sent+a.Received)
	}
	if n == 0 && o != byPID && o != byMemory {
		n = cmp.Compare(b.Memory, a.Memory)
	}
	return cmp.Or(n, cmp.Compare(a.PID, b.PID))
}

func (o order) compareWorkloads(a, b *model.WorkloadUse) int {
	n := 0
	switch o {
	case byCPU:
		n = cmp.Compare(b.CPU, a.CPU)
	case byMemory:
		n = cmp.Compare(b.Memory, a.Memory)
	case byIO:
		n = cmp.Compare(b.ReadBytes+b.WriteBytes, a.ReadBytes+a.WriteBytes)
	case byNetwork:
		n = cmp.Compare(b.Sent+b.Received, a.Sent+a.Received)
	}
	return cmp.Or(n, cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
}

// processTable lists processes, as a tree by their parents where that is asked for.
func processTable(s *model.Sample, o order, filter string, tree bool) *table {
	t := &table{columns: []column{{"PID", 7, false, 0}, {"USER", 8, true, 60}, {"CPU%", 5, false, 0}, {"MEM", 5, false, 0}, {"THR", 4, false, 90}, {"S", 1, true, 60}, {"READ", 5, false, 70}, {"WRITE", 5, false, 70}}}
	if s.Metered {
		t.columns = append(t.columns, column{"SENT", 5, false, 76}, column{"RECV", 5, false, 76})
	}
	t.columns = append(t.columns, column{"WORKLOAD", 16, true, 100}, column{"COMMAND", 0, true, 0})
	list := make([]*model.ProcessUse, 0, len(s.Processes))
	for i := range s.Processes {
		if p := &s.Processes[i]; matches(p, filter) {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, o.compare)
	add := func(p *model.ProcessUse, branch string) {
		cells := []string{fmt.Sprint(p.PID), p.User, percent(p.CPU), size(float64(p.Memory)), fmt.Sprint(p.Threads), p.State, flow(p.ReadBytes), flow(p.WriteBytes)}
		if s.Metered {
			cells = append(cells, flow(p.Sent), flow(p.Received))
		}
		t.rows = append(t.rows, row{id: fmt.Sprint(p.PID, "@", p.Started), cells: append(cells, p.Workload, branch+called(p)), style: level(p.CPU, 80, 1e9)})
	}
	if !tree {
		for _, p := range list {
			add(p, "")
		}
		return t
	}
	children, there := map[int][]*model.ProcessUse{}, map[int]bool{}
	for _, p := range list {
		there[p.PID] = true
	}
	for _, p := range list {
		if parent := p.Parent; there[parent] && parent != p.PID {
			children[parent] = append(children[parent], p)
		} else {
			children[-1] = append(children[-1], p)
		}
	}
	done := map[int]bool{} // what two looks at different moments say may be a circle
	var walk func(of, depth int)
	walk = func(of, depth int) {
		for _, p := range children[of] {
			if done[p.PID] {
				continue
			}
			done[p.PID] = true
			add(p, strings.Repeat("  ", min(depth, 20)))
			walk(p.PID, depth+1)
		}
	}
	walk(-1, 0)
	for _, p := range list {
		if !done[p.PID] {
			done[p.PID] = true
			add(p, "")
			walk(p.PID, 1)
		}
	}
	return t
}

// called is what a process is shown as: a kernel thread, and one that hides its
// command line, by its name.
func called(p *model.ProcessUse) string {
	if p.Command == "" {
		return "[" + p.Name + "]"
	}
	return p.Command
}

// matches says whether a filter finds a process; it looks for each of its words.
func matches(p *model.ProcessUse, filter string) bool {
	for w := range strings.FieldsSeq(strings.ToLower(filter)) {
		if !strings.Contains(strings.ToLower(p.Name), w) && !strings.Contains(strings.ToLower(p.Command), w) && !strings.Contains(strings.ToLower(p.Workload), w) &&
			!strings.EqualFold(p.User, w) && fmt.Sprint(p.PID) != w {
			return false
		}
	}
	return true
}

func workloadTable(s *model.Sample, o order, filter string) *table {
	t := &table{columns: []column{{"KIND", 9, true, 60}, {"CPU%", 5, false, 0}, {"MEM", 5, false, 0}, {"LIMIT", 5, false, 70}, {"PROCS", 5, false, 60}, {"READ", 5, false, 70}, {"WRITE", 5, false, 70}}}
	if s.Metered {
		t.columns = append(t.columns, column{"SENT", 5, false, 76}, column{"RECV", 5, false, 76})
	}
	t.columns = append(t.columns, column{"NAME", 0, true, 0})
	list := slices.DeleteFunc(slices.Clone(s.Workloads), func(w model.WorkloadUse) bool {
		return !strings.Contains(strings.ToLower(w.Name), strings.ToLower(filter))
	})
	slices.SortFunc(list, func(a, b model.WorkloadUse) int { return o.compareWorkloads(&a, &b) })
	for _, w := range list {
		limit, look := "-", plain
		if w.MemoryLimit > 0 {
			limit, look = size(float64(w.MemoryLimit)), level(share(w.Memory, w.MemoryLimit), 80, 95)
		}
		cells := []string{string(w.Kind), percent(w.CPU), size(float64(w.Memory)), limit, fmt.Sprint(w.Processes), flow(w.ReadBytes), flow(w.WriteBytes)}
		if s.Metered {
			cells = append(cells, flow(w.Sent), flow(w.Received))
		}
		t.rows = append(t.rows, row{id: w.ID, cells: append(cells, w.Name), style: look})
	}
	return t
}

func storageTable(s *model.Sample) *table {
	t := &table{columns: []column{{"SIZE", 5, false, 0}, {"USED", 5, false, 0}, {"FREE", 5, false, 0}, {"USE%", 5, false, 0}, {"INODE%", 6, false, 60}, {"READ", 5, false, 70}, {"WRITE", 5, false, 70}, {"BUSY%", 5, false, 70}, {"WHERE", 0, true, 0}}}
	for _, f := range s.Filesystems {
		t.rows = append(t.rows, row{id: "fs " + f.Mount, style: level(f.Percent(), 85, 95),
			cells: []string{size(float64(f.Size)), size(float64(f.Used)), size(float64(f.Available)), percent(f.Percent()), percent(share(f.Inodes-min(f.InodesFree, f.Inodes), f.Inodes)), "", "", "", f.Mount + " (" + f.Device + ", " + f.Type + ")"}})
	}
	for _, d := range s.Disks {
		t.rows = append(t.rows, row{id: "disk " + d.Name, style: level(d.Busy, 80, 95), cells: []string{"", "", "", "", "", flow(d.ReadBytes), flow(d.WriteBytes), percent(d.Busy), "disk " + d.Name}})
	}
	return t
}

func interfaceTable(s *model.Sample) *table {
	t := &table{columns: []column{{"RECV", 5, false, 0}, {"SENT", 5, false, 0}, {"RECV p/s", 8, false, 60}, {"SENT p/s", 8, false, 60}, {"ERRORS", 6, false, 60}, {"DROPS", 6, false, 60}, {"INTERFACE", 0, true, 0}}}
	for _, i := range busiest(s.Interfaces) {
		look := plain
		if i.Errors+i.Drops > 0 {
			look = warning
		}
		t.rows = append(t.rows, row{id: i.Name, style: look, cells: []string{flow(i.ReceivedBytes), flow(i.SentBytes), percent(i.ReceivedPackets), percent(i.SentPackets), percent(i.Errors), percent(i.Drops), i.Name}})
	}
	return t
}

func busiest(list []model.InterfaceUse) []model.InterfaceUse {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b model.InterfaceUse) int {
		return cmp.Or(cmp.Compare(b.ReceivedBytes+b.SentBytes, a.ReceivedBytes+a.SentBytes), cmp.Compare(a.Name, b.Name))
	})
	return list
}

// fleetTable lists hosts, the worst first: by severity of the worst alert, then
// who is not heard, then by load for each core.
func fleetTable(list []model.Glance, filter string) *table {
	t := &table{columns: []column{{"HOST", 16, true, 0}, {"STATE", 11, true, 50}, {"CPU%", 5, false, 0}, {"MEM%", 5, false, 0}, {"LOAD", 5, false, 50}, {"IOW%", 5, false, 90}, {"STL%", 5, false, 90}, {"RECV", 5, false, 70}, {"SENT", 5, false, 70}, {"PROCS", 5, false, 100}, {"ALERT", 0, true, 0}}}
	list = slices.DeleteFunc(slices.Clone(list), func(x model.Glance) bool { return !strings.Contains(x.Host, filter) })
	slices.SortFunc(list, worse)
	for i := range list {
		x := &list[i]
		state, look := string(x.State), plain
		figures := []string{percent(x.CPU.Busy()), percent(share(x.MemoryUsed, x.MemoryTotal)), fmt.Sprintf("%.2f", x.Load.One), percent(x.CPU.IOWait), percent(x.CPU.Steal), flow(x.Received), flow(x.Sent), fmt.Sprint(x.Processes)}
		if x.Age < 0 {
			figures = []string{"-", "-", "-", "-", "-", "-", "-", "-"}
		} else if x.Age > stale {
			if x.State == model.HostOnline {
				state = "old"
			}
			state, look = state+" "+ago(x.Age), warning
		}
		said := ""
		if x.Worst != nil {
			said = string(x.Worst.Severity) + " " + x.Worst.Type
			if x.Alerts > 1 {
				said += fmt.Sprintf(" and %d more", x.Alerts-1)
			}
			switch x.Worst.Severity {
			case model.SeverityCritical:
				look = critical
			case model.SeverityWarning:
				look = warning
			}
			said += ": " + x.Worst.Message
		}
		t.rows = append(t.rows, row{id: x.Host, style: look, cells: append(append([]string{x.Host, state}, figures...), said)})
	}
	return t
}

func worse(a, b model.Glance) int {
	rank := func(x *model.Glance) int {
		if x.Worst == nil {
			return 0
		}
		return x.Worst.Severity.Rank()
	}
	busy := func(x *model.Glance) float64 { return x.Load.One / float64(max(1, x.Cores)) }
	return cmp.Or(cmp.Compare(rank(&b), rank(&a)), cmp.Compare(busy(&b), busy(&a)), cmp.Compare(a.Host, b.Host))
}
