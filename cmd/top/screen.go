package top

import (
	"fmt"
	"strings"
	"time"

	"weft/model"
)

// stale is from which age in seconds a host's figures are shown as old.
const stale = 15

// list is which list of a machine is shown.
type list int

const (
	processList list = iota
	workloadList
	storageList
	interfaceList
	lists
)

var listNames = [...]string{"processes", "containers and units", "file systems and disks", "interfaces"}

// screen is all that a frame depends on.
type screen struct {
	// browse says that there is a fleet to go back to.
	browse  bool
	fleet   []model.Glance
	hosts   cursor
	found   bool  // the fleet has been heard of
	trouble error // with what is shown

	host     string // that is shown; empty for the fleet
	sample   *model.Sample
	came     time.Time // the sample did
	interval time.Duration
	shown    list
	order    order
	tree     bool
	rows     cursor
	filter   string
	typing   bool
	help     bool
	details  string // row whose details are shown
	paused   bool
}

// action is what the loop has to do after a key.
type action int

const (
	nothing action = iota
	quit
	open // another host, or the fleet again
)

// table is what the cursor moves in.
func (s *screen) table() *table {
	switch {
	case s.host == "" && s.browse:
		return fleetTable(s.fleet, s.filter)
	case s.sample == nil:
		return &table{}
	case s.shown == workloadList:
		return workloadTable(s.sample, s.order, s.filter)
	case s.shown == storageList:
		return storageTable(s.sample)
	case s.shown == interfaceList:
		return interfaceTable(s.sample)
	}
	return processTable(s.sample, s.order, s.filter, s.tree)
}

func (s *screen) cursor() *cursor {
	if s.host == "" && s.browse {
		return &s.hosts
	}
	return &s.rows
}

// press takes a key.
func (s *screen) press(k key) action {
	if s.typing {
		switch {
		case k == keyEnter:
			s.typing = false
		case k == keyEscape:
			s.typing, s.filter = false, ""
		case k == keyBackspace:
			if r := []rune(s.filter); len(r) > 0 {
				s.filter = string(r[:len(r)-1])
			}
		case k >= ' ' && k < keySpecial && len(s.filter) < 60:
			s.filter += string(rune(k))
		case k == keyInterrupt:
			return quit
		}
		return nothing
	}
	if k == keyInterrupt || k == 'q' && !s.help && s.details == "" {
		return quit
	}
	if s.help {
		s.help = false
		return nothing
	}
	c := s.cursor()
	switch k {
	case '?', 'h':
		s.help = true
	case '/':
		s.typing = true
	case ' ':
		s.paused = !s.paused
	case 'j', keyDown:
		c.move(1, s.table().rows)
	case 'k', keyUp:
		c.move(-1, s.table().rows)
	case keyPageDown:
		c.move(c.page, s.table().rows)
	case keyPageUp:
		c.move(-c.page, s.table().rows)
	case 'g', keyHome:
		c.move(-1<<30, s.table().rows)
	case 'G', keyEnd:
		c.move(1<<30, s.table().rows)
	case keyEscape, 'q', keyLeft:
		switch {
		case s.details != "":
			s.details = ""
		case s.filter != "" && k == keyEscape:
			s.filter = ""
		case s.browse && s.host != "":
			s.host, s.sample, s.filter, s.trouble = "", nil, "", nil
			return open
		}
	case keyEnter, keyRight:
		rows := s.table().rows
		if len(rows) == 0 {
			return nothing
		}
		id := rows[max(0, min(c.at, len(rows)-1))].id
		if s.host == "" && s.browse {
			*s = screen{browse: true, fleet: s.fleet, found: s.found, hosts: s.hosts, host: id, order: s.order, tree: s.tree, interval: s.interval}
			return open
		}
		s.details = id
	default:
		if s.host == "" && s.browse {
			return nothing
		}
		s.change(k)
	}
	return nothing
}

// change takes the keys of a machine's lists.
func (s *screen) change(k key) {
	switch k {
	case keyTab:
		s.shown, s.rows, s.details = (s.shown+1)%lists, cursor{}, ""
	case 't':
		s.tree = !s.tree
	case 'c', 'm', 'i', 'n', 'p':
		s.order, s.rows.top = order(k), 0
	}
}

// take is a sample and when it came; while paused it is kept out.
func (s *screen) take(x *model.Sample, came time.Time) {
	if s.paused && s.sample != nil {
		return
	}
	s.sample, s.came, s.trouble = x, came, nil
}

// draw makes the frame.
func (s *screen) draw(width, height int, now time.Time) *grid {
	g := newGrid(max(width, 1), max(height, 1))
	switch {
	case s.help:
		s.drawHelp(g)
	case s.host == "" && s.browse:
		s.drawFleet(g)
	default:
		s.drawHost(g, now)
	}
	return g
}

func (s *screen) drawFleet(g *grid) {
	x := g.put(0, 0, bold, "weft top")
	silent, alerts := 0, 0
	for _, h := range s.fleet {
		if alerts += h.Alerts; h.State != model.HostOnline {
			silent++
		}
	}
	g.put(x, 0, plain, fmt.Sprintf("  %d hosts, %d not online, %d alerts", len(s.fleet), silent, alerts))
	s.footer(g, "? help  q quit  enter open  / filter")
	if !s.found {
		g.put(0, 1, plain, "waiting for the controller")
		return
	}
	s.table().draw(g, 1, g.height-1, &s.hosts)
}

func (s *screen) drawHost(g *grid, now time.Time) {
	x := g.put(0, 0, bold, s.host)
	if s.sample == nil {
		g.put(x, 0, plain, "  waiting for the first figures")
		s.footer(g, "? help  q quit")
		return
	}
	if s.host == "" {
		x = g.put(0, 0, bold, s.sample.Host)
	}
	x = g.put(x, 0, plain, "  up "+span(s.sample.Uptime))
	if g.width >= 70 {
		x = loads(g, x, s.sample)
	}
	state, look := s.sample.Time.UTC().Format("15:04:05")+" UTC", plain
	if age := now.Sub(s.came); age > max(stale*time.Second/3, 3*s.interval) && !s.paused {
		state, look = "STALE for "+span(age.Seconds()), critical
	}
	if s.paused {
		state, look = "paused", warning
	}
	if len(state)+x+2 <= g.width {
		g.right(g.width, 0, look, state)
	} else {
		g.put(max(0, g.width-len(state)), 0, look, state)
	}
	y := header(g, s.sample)
	if s.details != "" && s.drawDetails(g, y) {
		s.footer(g, "esc back  q back")
		return
	}
	s.table().draw(g, y, g.height-1, &s.rows)
	hint := "? help  q quit"
	switch s.shown {
	case processList:
		hint += "  by " + s.order.String() + ": c m i n p  / filter  t tree  tab lists"
	default:
		hint += "  tab lists: " + listNames[s.shown]
	}
	s.footer(g, hint)
}

// footer is the last row: what is typed, what is wrong, or the keys.
func (s *screen) footer(g *grid, keys string) {
	y := g.height - 1
	if y < 1 {
		return
	}
	switch {
	case s.typing:
		g.put(0, y, bold, "/"+s.filter+"_")
	case s.trouble != nil:
		g.put(0, y, critical, s.trouble.Error())
	case s.filter != "":
		x := g.put(0, y, warning, "/"+s.filter)
		g.put(x+2, y, plain, keys)
	default:
		g.put(0, y, plain, keys)
	}
}

func (s *screen) drawDetails(g *grid, y int) bool {
	pair := func(name, format string, args ...any) {
		if y < g.height-1 {
			g.put(0, y, bold, name)
			text := []rune(fmt.Sprintf(format, args...))
			for len(text) > 0 && y < g.height-1 {
				n := min(len(text), max(1, g.width-11))
				g.put(11, y, plain, string(text[:n]))
				text = text[n:]
				y++
			}
		}
	}
	for i := range s.sample.Processes {
		p := &s.sample.Processes[i]
		if fmt.Sprint(p.PID, "@", p.Started) != s.details || s.shown != processList {
			continue
		}
		pair("process", "%d, child of %d, of %s", p.PID, p.Parent, p.User)
		pair("name", "%s", p.Name)
		pair("command", "%s", called(p))
		pair("workload", "%s", orNone(p.Workload))
		pair("state", "%s, %d threads, started %s ago", p.State, p.Threads, span(s.sample.Uptime-p.Started))
		pair("cpu", "%s%% of a core, %s in all", percent(p.CPU), processorTime(p.CPUSeconds))
		pair("memory", "%s", size(float64(p.Memory)))
		pair("disk", "reads %s/s, writes %s/s", size(p.ReadBytes), size(p.WriteBytes))
		if s.sample.Metered {
			pair("network", "sends %s/s, receives %s/s", size(p.Sent), size(p.Received))
		}
		return true
	}
	for i := range s.sample.Workloads {
		w := &s.sample.Workloads[i]
		if w.ID != s.details || s.shown != workloadList {
			continue
		}
		pair(strings.ToLower(string(w.Kind)), "%s", w.Name)
		pair("id", "%s", w.ID)
		pair("cpu", "%s%% of a core", percent(w.CPU))
		if w.MemoryLimit > 0 {
			pair("memory", "%s of %s", size(float64(w.Memory)), size(float64(w.MemoryLimit)))
		} else {
			pair("memory", "%s, no limit", size(float64(w.Memory)))
		}
		pair("processes", "%d", w.Processes)
		pair("disk", "reads %s/s, writes %s/s", size(w.ReadBytes), size(w.WriteBytes))
		return true
	}
	s.details = "" // it has gone
	return false
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

var helpText = []string{
	"weft top shows; it changes nothing, and ends no process.",
	"",
	"c m i n p  sort by cpu, memory, io, network, pid",
	"/          filter by words of name, command, user, unit, pid",
	"t          tree of processes by parent",
	"tab        processes, units, file systems, interfaces",
	"enter      details, or open a host",
	"esc        back, or clear the filter",
	"arrows     move; also j k g G, page up and down",
	"space      hold the figures still",
	"q          quit",
	"",
	"cpu is in percent of one core; sizes are in units of 1024.",
	"+ at an edge: there is more.",
}

func (s *screen) drawHelp(g *grid) {
	for y, l := range helpText {
		g.put(0, y, plain, l)
	}
}
