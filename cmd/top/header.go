package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"weft/model"
)

// header draws what is of the whole machine and returns the row behind it. A
// small screen has the least of it.
func header(g *grid, s *model.Sample) int {
	memory, swap := share(s.Memory.Used(), s.Memory.Total), share(s.Swap.Used, s.Swap.Total)
	if g.height < 16 || g.width < 60 {
		x := g.put(0, 1, level(s.CPU.Busy(), 80, 95), "CPU "+percent(s.CPU.Busy())+"% ")
		x = g.put(x, 1, level(memory, 80, 95), "MEM "+percent(memory)+"% ")
		x = g.put(x, 1, level(swap, 50, 80), "SWAP "+percent(swap)+"% ")
		g.put(x, 1, plain, fmt.Sprintf("LOAD %.2f", s.Load.One))
		return 2
	}
	x := g.put(0, 1, bold, "CPU   ")
	x = g.put(x, 1, level(s.CPU.Busy(), 80, 95), fmt.Sprintf("%5s%%", percent(s.CPU.Busy())))
	x = g.put(x, 1, plain, fmt.Sprintf("  user %s nice %s sys %s irq %s ", percent(s.CPU.User), percent(s.CPU.Nice), percent(s.CPU.System), percent(s.CPU.Interrupts)))
	x = g.put(x, 1, level(s.CPU.IOWait, 20, 50), "iowait "+percent(s.CPU.IOWait))
	g.put(x, 1, level(s.CPU.Steal, 10, 25), " steal "+percent(s.CPU.Steal))

	x = g.put(0, 2, bold, "MEM   ")
	x = g.put(x, 2, level(memory, 80, 95), fmt.Sprintf("%5s%%", percent(memory)))
	x = g.put(x, 2, plain, fmt.Sprintf("  %s of %s, cached %s", size(float64(s.Memory.Used())), size(float64(s.Memory.Total)), size(float64(s.Memory.Cached))))
	x = g.put(x+3, 2, bold, "SWAP ")
	if s.Swap.Total == 0 {
		g.put(x, 2, plain, "none")
	} else {
		x = g.put(x, 2, level(swap, 50, 80), percent(swap)+"%")
		g.put(x, 2, plain, fmt.Sprintf(" of %s, in %s out %s", size(float64(s.Swap.Total)), flow(s.Swap.In), flow(s.Swap.Out)))
	}

	x = g.put(0, 3, bold, "TASKS ")
	x = g.put(x, 3, plain, fmt.Sprintf("%5d  %d run ", s.Tasks.Total, s.Tasks.Running))
	look := plain
	if s.Tasks.Blocked > 0 {
		look = warning
	}
	x = g.put(x, 3, look, fmt.Sprintf("%d blocked", s.Tasks.Blocked))
	x = g.put(x, 3, plain, fmt.Sprintf(" %d zombie %d threads", s.Tasks.Zombie, s.Tasks.Threads))
	if p := s.Pressure; p != nil {
		x = g.put(x+2, 3, bold, "PSI ")
		x = g.put(x, 3, level(p.CPU, 40, 80), "cpu "+percent(p.CPU))
		x = g.put(x, 3, level(p.Memory, 10, 40), " mem "+percent(p.Memory))
		g.put(x, 3, level(p.IO, 20, 50), " io "+percent(p.IO))
	}
	return panels(g, 4, s)
}

// item is one thing of a panel.
type item struct {
	text  string
	style style
}

// panels draws a line each of cores, interfaces, disks, file systems, sensors and
// workloads: what is busiest first, and how many more there are.
func panels(g *grid, y int, s *model.Sample) int {
	lines := 1
	if g.height >= 40 {
		lines = 3
	}
	draw := func(name string, items []item) {
		if len(items) == 0 {
			return
		}
		g.put(0, y, bold, name)
		x, first := 6, y
		for i, it := range items {
			wide, more := utf8.RuneCountInString(it.text), ""
			if rest := len(items) - i - 1; rest > 0 {
				more = fmt.Sprintf("  +%d", rest)
			}
			if x > 6 && x+wide+len(more) > g.width {
				if y-first+1 == lines {
					g.put(x, y, plain, fmt.Sprintf("+%d", len(items)-i))
					break
				}
				x, y = 6, y+1
			}
			x = g.put(x, y, it.style, it.text) + 2
		}
		y++
	}
	if lines > 1 {
		draw("CORES", each(s.Cores, func(c *model.CPUUse) item {
			return item{fmt.Sprintf("%5s%%", percent(c.Busy())), level(c.Busy(), 80, 95)}
		}))
	}
	draw("NET", each(busiest(s.Interfaces), func(i *model.InterfaceUse) item {
		look, text := plain, fmt.Sprintf("%s rx %s tx %s", i.Name, flow(i.ReceivedBytes), flow(i.SentBytes))
		if i.Errors+i.Drops > 0 {
			look, text = warning, text+fmt.Sprintf(" lost %s", percent(i.Errors+i.Drops))
		}
		return item{text, look}
	}))
	disks := slices.Clone(s.Disks)
	slices.SortFunc(disks, func(a, b model.DiskUse) int {
		return cmp.Or(cmp.Compare(b.Busy, a.Busy), cmp.Compare(b.ReadBytes+b.WriteBytes, a.ReadBytes+a.WriteBytes), cmp.Compare(a.Name, b.Name))
	})
	draw("DISK", each(disks, func(d *model.DiskUse) item {
		return item{fmt.Sprintf("%s r %s w %s busy %s%%", d.Name, flow(d.ReadBytes), flow(d.WriteBytes), percent(d.Busy)), level(d.Busy, 80, 95)}
	}))
	fs := slices.Clone(s.Filesystems)
	slices.SortFunc(fs, func(a, b model.FilesystemUse) int {
		return cmp.Or(cmp.Compare(b.Percent(), a.Percent()), cmp.Compare(a.Mount, b.Mount))
	})
	draw("FILES", each(fs, func(f *model.FilesystemUse) item {
		return item{fmt.Sprintf("%s %s%% of %s", f.Mount, percent(f.Percent()), size(float64(f.Size))), level(f.Percent(), 85, 95)}
	}))
	draw("TEMP", each(slices.DeleteFunc(slices.Clone(s.Sensors), func(x model.Sensor) bool { return x.Unit != "C" }), func(x *model.Sensor) item {
		look := plain
		if x.Critical > 0 {
			look = level(x.Value/x.Critical*100, 85, 100)
		}
		return item{fmt.Sprintf("%s %.0fC", x.Name, x.Value), look}
	}))
	units := slices.Clone(s.Workloads)
	slices.SortFunc(units, func(a, b model.WorkloadUse) int { return byCPU.compareWorkloads(&a, &b) })
	draw("UNITS", each(units, func(w *model.WorkloadUse) item {
		return item{fmt.Sprintf("%s %s%% %s", strings.TrimSuffix(w.Name, ".service"), percent(w.CPU), size(float64(w.Memory))), plain}
	}))
	return y
}

func each[T any](list []T, f func(*T) item) []item {
	out := make([]item, len(list))
	for i := range list {
		out[i] = f(&list[i])
	}
	return out
}

// loads are the load averages, which say little without the number of cores.
func loads(g *grid, x int, s *model.Sample) int {
	cores := max(1, len(s.Cores))
	x = g.put(x, 0, plain, "  load ")
	x = g.put(x, 0, level(s.Load.One/float64(cores)*100, 100, 300), fmt.Sprintf("%.2f %.2f %.2f", s.Load.One, s.Load.Five, s.Load.Fifteen))
	return g.put(x, 0, plain, fmt.Sprintf(", %d cores", cores))
}
