package top

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"weft/internal/golden"
	"weft/model"
)

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// busyMachine has something of everything, and processes that mean harm.
func busyMachine() *model.Sample {
	return &model.Sample{
		Host: "web1", Time: now, Seconds: 2, Uptime: 266_400, Metered: true,
		CPU: model.CPUUse{User: 60.5, System: 22, IOWait: 4.25, Steal: 1.5, Idle: 11.75}, Cores: []model.CPUUse{{User: 90}, {User: 30}}, Load: model.Load{One: 2.5, Five: 1.75, Fifteen: 0.9},
		Memory: model.MemoryUse{Total: 8 << 30, Available: 1 << 30, Free: 1 << 29, Cached: 700 << 20}, Swap: model.SwapUse{Total: 2 << 30, Used: 512 << 20, In: 4096},
		Pressure:    &model.Pressure{CPU: 12.5, Memory: 0.25, IO: 3},
		Disks:       []model.DiskUse{{Name: "vda", ReadBytes: 1.5e6, WriteBytes: 3e5, Busy: 37.5}, {Name: "vdb"}},
		Filesystems: []model.FilesystemUse{{Mount: "/", Device: "/dev/vda1", Type: "ext4", Size: 20 << 30, Used: 19 << 30, Available: 1 << 29, Inodes: 100, InodesFree: 40}, {Mount: "/data", Device: "/dev/vdb", Type: "xfs", Size: 1 << 40, Used: 1 << 38, Available: 3 << 38}},
		Interfaces:  []model.InterfaceUse{{Name: "lo"}, {Name: "eth0", ReceivedBytes: 1.2e7, SentBytes: 4e5, ReceivedPackets: 9000, SentPackets: 4000, Drops: 2}},
		Sensors:     []model.Sensor{{Name: "coretemp Package id 0", Unit: "C", Value: 71, Critical: 100}},
		Workloads: []model.WorkloadUse{{ID: "/system.slice/nginx.service", Kind: model.WorkloadUnit, Name: "nginx.service", CPU: 70, Memory: 90 << 20, Processes: 2, Sent: 9e5},
			{ID: strings.Repeat("ab", 32), Kind: model.WorkloadContainer, Name: "orders-db", CPU: 12, Memory: 490 << 20, MemoryLimit: 512 << 20, Processes: 9}},
		Tasks: model.Tasks{Total: 132, Running: 3, Sleeping: 127, Blocked: 1, Zombie: 1, Threads: 340, Shown: 7},
		Processes: []model.ProcessUse{
			{PID: 1, User: "root", Name: "systemd", Command: "/sbin/init splash", State: "S", CPU: 0, Memory: 12 << 20, Threads: 1, Started: 1},
			{PID: 900, Parent: 1, User: "www-data", Name: "nginx", Command: "nginx: worker process", State: "R", CPU: 68.5, Memory: 40 << 20, Threads: 4, Workload: "nginx.service", Sent: 9e5, Received: 1e5, Started: 20},
			{PID: 2200, Parent: 1, User: "qemu", Name: "kvm", Command: "/usr/bin/kvm -name guest -m 4096", State: "S", CPU: 187.5, Memory: 4 << 30, Threads: 12, Started: 300, ReadBytes: 1.5e6, WriteBytes: 3e5},
			{PID: 2201, Parent: 2200, User: "qemu", Name: "vhost", State: "S", CPU: 3, Threads: 1, Started: 300},
			{PID: 31337, Parent: 900, User: "mallory", Name: "\x1b[2J\x1b]0;owned\a", Command: "\x1b[31mroot\x1b[0m\r\nlogin: \u202egnp.exe", State: "S", CPU: 1, Memory: 3 << 20, Threads: 1, Started: 4000},
			{PID: 31338, Parent: 31339, User: "mallory", Name: "a) (b", Command: "日本語 \xff\xfe", State: "Z", CPU: 0.5, Memory: 2 << 20, Threads: 1, Started: 4000},
			{PID: 31339, Parent: 31338, User: "mallory", Name: "kworker/0:1", State: "S", CPU: 0.25, Memory: 1 << 20, Threads: 1, Started: 4000},
		},
	}
}

func fleetOf() []model.Glance {
	return []model.Glance{
		{Host: "quiet", State: model.HostOnline, Age: 2, Cores: 4, Load: model.Load{One: 0.1}, CPU: model.CPUUse{User: 2}, MemoryTotal: 8 << 30, MemoryUsed: 1 << 30, Processes: 90},
		{Host: "busy", State: model.HostOnline, Age: 1, Cores: 2, Load: model.Load{One: 7.5}, CPU: model.CPUUse{User: 95, System: 4}, MemoryTotal: 8 << 30, MemoryUsed: 7 << 30, Received: 1e7, Sent: 2e6, Processes: 300,
			Alerts: 2, Worst: &model.AlertSpec{Type: "busy-cpu", Severity: model.SeverityWarning, Message: "cpu is 99.0, above 90 for 30s"}},
		{Host: "dead", State: model.HostOffline, Age: 3725, Cores: 2, Load: model.Load{One: 0.5}, MemoryTotal: 8 << 30, MemoryUsed: 2 << 30, Alerts: 1,
			Worst: &model.AlertSpec{Type: "AgentSilent", Severity: model.SeverityCritical, Message: "the agent has no session\x1b[2J"}},
		{Host: "new", State: model.HostOnline, Age: -1},
	}
}

func TestScreens(t *testing.T) {
	host := func(keys string) screen {
		s := screen{host: "web1", order: byCPU, interval: 2 * time.Second}
		s.take(busyMachine(), now)
		for _, k := range keys {
			if a := s.press(key(k)); a != nothing {
				t.Fatalf("key %q is action %d", k, a)
			}
		}
		return s
	}
	browse := screen{browse: true, fleet: fleetOf(), found: true, order: byCPU}
	trouble := host("")
	trouble.trouble = errors.New("the controller does not answer: connection refused")
	old := host("")
	old.came = now.Add(-90 * time.Second)
	for name, s := range map[string]screen{
		"processes": host(""), "memory": host("m"), "tree": host("pt"), "filter": host("/mallory\r"), "typing": host("/ma"), "help": host("?"), "details": host("jj\r"), "evil": host("/31337\r\r"),
		"workloads": host("\t"), "storage": host("\t\t"), "interfaces": host("\t\t\t"), "fleet": browse, "trouble": trouble, "stale": old, "waiting": {host: "web1"},
	} {
		var out strings.Builder
		for _, size := range [][2]int{{80, 24}, {40, 10}} {
			g := s.draw(size[0], size[1], now)
			text := g.String()
			fmt.Fprintf(&out, "--- %d x %d\n%s", size[0], size[1], text)
			for _, l := range strings.Split(text, "\n") {
				if strings.ContainsFunc(l, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x202e }) || utf8.RuneCountInString(l) > size[0] {
					t.Errorf("%s at %v: the line %q is not harmless", name, size, l)
				}
			}
		}
		golden.Equal(t, name+".golden", out.String())
	}
}

// No size is too small, and none too large.
func TestEverySize(t *testing.T) {
	for _, keys := range []string{"", "\t", "\t\t", "\t\t\t", "?", "jj\r", "t"} {
		s := screen{host: "web1", order: byCPU}
		s.take(busyMachine(), now)
		for _, k := range keys {
			s.press(key(k))
		}
		f := screen{browse: true, fleet: fleetOf(), found: true}
		for w := 0; w < 130; w += 3 {
			for h := 0; h < 60; h += 7 {
				s.draw(w, h, now)
				f.draw(w, h, now)
			}
		}
	}
}

// The cursor stays with a process when others overtake it, and a host is opened
// and left again.
func TestKeys(t *testing.T) {
	s := screen{browse: true, fleet: fleetOf(), found: true, order: byCPU}
	s.draw(80, 24, now)
	if a := s.press('j'); a != nothing || s.hosts.id != "busy" {
		t.Fatalf("the second host is %q", s.hosts.id)
	}
	if a := s.press(keyEnter); a != open || s.host != "busy" {
		t.Fatalf("enter: %d, %q", a, s.host)
	}
	s.take(busyMachine(), now)
	s.draw(80, 24, now)
	s.press('j')
	x := busyMachine()
	x.Processes[0].CPU = 999
	s.take(x, now)
	s.draw(80, 24, now)
	if rows := s.table().rows; s.rows.at != 2 || !strings.HasPrefix(rows[2].id, "900@") {
		t.Errorf("the cursor is at %d: %+v", s.rows.at, rows)
	}
	s.press(' ')
	s.take(busyMachine(), now)
	if s.sample != x {
		t.Error("a sample came in while the figures were held")
	}
	if a := s.press(keyEscape); a != open || s.host != "" {
		t.Errorf("escape: %d, %q", a, s.host)
	}
	if a := s.press('q'); a != quit {
		t.Errorf("q: %d", a)
	}
}

// terminal does what the difference of frames says, and knows no more escapes than
// that needs.
type terminal struct {
	g    *grid
	x, y int
	look string
}

func (m *terminal) write(t *testing.T, text string) {
	for len(text) > 0 {
		if rest, ok := strings.CutPrefix(text, "\x1b["); ok {
			end := strings.IndexAny(rest, "HJm")
			if end < 0 {
				t.Fatalf("unknown escape in %q", text)
			}
			switch arg := rest[:end]; rest[end] {
			case 'H':
				row, col, _ := strings.Cut(arg, ";")
				y, _ := strconv.Atoi(row)
				x, _ := strconv.Atoi(col)
				m.x, m.y = x-1, y-1
			case 'J':
				m.g = newGrid(m.g.width, m.g.height)
			case 'm':
				m.look = arg
			}
			text = rest[end+1:]
			continue
		}
		r, n := utf8.DecodeRuneInString(text)
		text = text[n:]
		s := plain
		for i, c := range codes {
			if m.look == c.color {
				s = style(i)
			}
		}
		_, wide := clean(r)
		i := m.y*m.g.width + m.x
		m.g.cells[i] = cell{r, s}
		if m.x++; wide == 2 {
			m.g.cells[i+1] = cell{0, s}
			m.x++
		}
	}
}

// A terminal that is written only what differs shows every frame in turn as it is.
func TestDifferenceMakesTheFrame(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var before *grid
	m := &terminal{g: newGrid(30, 6)}
	for i := range 400 {
		g := newGrid(30, 6)
		for range 12 {
			text := []string{"abc", "日本語", "x", "  ", "\x1b[2J", "länger als", "語x語"}[r.IntN(7)]
			g.put(r.IntN(30), r.IntN(6), style(r.IntN(len(codes))), text)
		}
		if before != nil && i%3 == 0 { // a small change
			copy(g.cells, before.cells)
			g.put(0, r.IntN(6), bold, "日")
		}
		m.write(t, g.difference(before, true))
		for at := range g.cells {
			if g.cells[at].char != m.g.cells[at].char {
				t.Fatalf("frame %d, row %d, column %d: the terminal has %q, the frame %q", i, at/30, at%30, m.g.cells[at].char, g.cells[at].char)
			}
		}
		if text := g.difference(g, true); text != "" {
			t.Fatalf("nothing changed, and %q is written", text)
		}
		before = g
	}
}

// A figure that changes costs a few bytes, and without colours no colour is sent.
func TestLittleIsWritten(t *testing.T) {
	s := screen{host: "web1", order: byCPU}
	s.take(busyMachine(), now)
	first := s.draw(80, 24, now)
	x := busyMachine()
	x.CPU.User++
	s.take(x, now)
	second := s.draw(80, 24, now)
	if text := second.difference(first, true); len(text) > 60 {
		t.Errorf("one figure costs %d bytes: %q", len(text), text)
	}
	if text := first.difference(nil, false); strings.Contains(text, ";3") || len(text) > 80*24 {
		t.Errorf("a frame without colours: %d bytes, %q", len(text), text)
	}
}

func TestOnce(t *testing.T) {
	feed := func(_ context.Context, _ string, give func(*model.Sample, time.Duration)) error {
		none := busyMachine()
		none.Seconds = 0
		give(none, 0)
		give(busyMachine(), time.Hour)
		give(busyMachine(), 0)
		return nil
	}
	cfg := Config{Interval: time.Second, Sort: "cpu", Host: "web1", Feed: feed}
	var out strings.Builder
	if err := Once(t.Context(), cfg, &out, 80, "table"); err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, "once.golden", out.String())
	out.Reset()
	if err := Once(t.Context(), cfg, &out, 80, "json"); err != nil {
		t.Fatal(err)
	}
	var s model.Sample
	if err := json.Unmarshal([]byte(out.String()), &s); err != nil || s.Seconds != 2 || len(s.Processes) != 7 {
		t.Errorf("%v: %s", err, out.String())
	}
	cfg.Fleet, cfg.Host = func(context.Context) ([]model.Glance, error) { return fleetOf(), nil }, ""
	out.Reset()
	if err := Once(t.Context(), cfg, &out, 100, "table"); err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, "once-fleet.golden", out.String())
	for _, bad := range []struct {
		cfg    Config
		output string
		want   string
	}{{Config{Interval: time.Millisecond, Sort: "cpu"}, "table", "--interval"}, {Config{Interval: time.Second, Sort: "size"}, "table", "cpu, memory"}, {Config{Interval: time.Second, Sort: "cpu"}, "xml", "json"}} {
		if err := Once(t.Context(), bad.cfg, &out, 80, bad.output); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%+v: %v", bad.cfg, err)
		}
	}
}

// Where there is no terminal the error says what to do.
func TestNoTerminal(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Run(t.Context(), Config{Interval: time.Second, Sort: "cpu"}, f, f); err == nil || !strings.Contains(err.Error(), "--once") {
		t.Errorf("the error is %v", err)
	}
}

func FuzzScreen(f *testing.F) {
	f.Add("\x1b[A\x1b[5~/x\r\x1bjq", "evil\x1b[2J", 80, 24)
	f.Fuzz(func(t *testing.T, typed, name string, w, h int) {
		s := screen{host: name, order: byCPU, browse: true, fleet: []model.Glance{{Host: name, Worst: &model.AlertSpec{Message: name}}}}
		x := busyMachine()
		x.Processes[0].Command, x.Workloads[0].Name, x.Filesystems[0].Mount = name, name, name
		s.take(x, now)
		w, h = w&127, h&63
		for _, k := range keys([]byte(typed)) {
			s.press(k)
			g := s.draw(w, h, now)
			if strings.ContainsFunc(g.String(), func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f || r == utf8.RuneError }) {
				t.Fatalf("%q is on the screen", g.String())
			}
		}
	})
}
