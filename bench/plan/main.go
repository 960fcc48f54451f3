// Command plan measures S4: how long the controller takes to plan the policy of a
// large fleet, whole and after one change, and the memory it takes.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"weft/bench/result"
	"weft/bench/scale"
	"weft/controller/plan"
	"weft/model"
)

// shape is a fleet to plan for.
type shape struct {
	name  func(part int) string
	fleet func(part int) *scale.Fleet // a part-th of the size
	// edit is another version of a policy, and labels are those of a workload that
	// comes.
	edit   func(n, port int) *model.Policy
	labels func(n int) map[string]string
}

const hosts = 1000

var shapes = []shape{
	{func(part int) string {
		return fmt.Sprintf("%d namespaces, %d workloads, %d policies on %d hosts", 25_000/part, 100_000/part, 75_000/part, hosts/part)
	},
		func(part int) *scale.Fleet { return scale.Namespaces(25_000/part, hosts/part) },
		func(n, port int) *model.Policy {
			return scale.Policy(fmt.Sprintf("p%05d-%d", n, 1), scale.Role(n, 1), scale.Role(n, 2), port)
		},
		func(n int) map[string]string { return scale.Labels(n, 1) }},
	{func(part int) string {
		return fmt.Sprintf("%d workloads in one group, %d policies on %d hosts", 10_000/part, 10_000/part, hosts/part)
	},
		func(part int) *scale.Fleet { return scale.OneGroup(10_000/part, 10_000/part, hosts/part) },
		func(n, port int) *model.Policy {
			return scale.Policy(fmt.Sprintf("p%05d", n), "app=all", fmt.Sprintf("client=c%d", n), port)
		},
		func(int) map[string]string { return map[string]string{"app": "all"} }},
}

func main() {
	short := flag.Bool("short", false, "run briefly, with a hundredth of the fleet, to see that it works")
	runs := flag.Int("runs", 5, "how often to measure everything")
	changes := flag.Int("changes", 1000, "how many changes of either kind to measure")
	profile := flag.String("profile", "", "write a CPU profile to this file")
	flag.Parse()
	part := 1
	if *short {
		*runs, part, *changes = 1, 100, 20
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		must(err == nil, fmt.Sprint(err))
		must(pprof.StartCPUProfile(f) == nil, "the profile cannot be started")
		defer pprof.StopCPUProfile()
	}
	var series result.Series
	for range *runs {
		for _, s := range shapes {
			measure(&series, &s, part, *changes)
		}
	}
	if err := result.Write(os.Stdout, series.Cells()...); err != nil {
		fmt.Fprintln(os.Stderr, "bench/plan:", err)
		os.Exit(1)
	}
}

func measure(series *result.Series, s *shape, part, changes int) {
	fleet := s.fleet(part)
	debug.FreeOSMemory()
	before := memory()
	add := func(name, unit string, value float64) {
		series.Add("S4", s.name(part)+": "+name, result.Ours, unit, value)
	}

	var planner plan.Planner
	cpu, at := used(), time.Now()
	planner.Plan(fleet.State)
	add("whole plan", "s", time.Since(at).Seconds())
	add("whole plan, processor", "CPU-s", used()-cpu)
	most := memory() // of the process, garbage included
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	add("memory taken while planning", "MB", (most-before)/1e6)

	var edits, comes []float64
	span := len(fleet.Workloads) / 4
	cpu = used()
	for n := range changes {
		at := n * 7919 % span
		edited := s.edit(at%len(fleet.Policies), 1000+n)
		i, _ := slices.BinarySearchFunc(fleet.Policies, edited, func(a, b *model.Policy) int { return compare(a.Metadata.Name, b.Metadata.Name) })
		gone := []*model.Policy{fleet.Policies[i]}
		begin := time.Now()
		fleet.Policies = plan.Splice(fleet.Policies, gone, []*model.Policy{edited})
		p := planner.Plan(fleet.State)
		edits = append(edits, time.Since(begin).Seconds()*1e3)
		must(len(p.Changed) > 0, "an edited policy changed no host")

		w := fleet.Workload(1<<20+n, s.labels(at))
		begin = time.Now()
		fleet.Workloads = plan.Splice(fleet.Workloads, nil, []*model.Workload{w})
		p = planner.Plan(fleet.State)
		comes = append(comes, time.Since(begin).Seconds()*1e3)
		must(len(p.Changed) > 0, "a new workload changed no host")
	}
	each := (used() - cpu) / float64(2*changes)
	add("a policy edited, median", "ms", quantile(edits, 0.5))
	add("a policy edited, p99", "ms", quantile(edits, 0.99))
	add("a workload added, median", "ms", quantile(comes, 0.5))
	add("a workload added, p99", "ms", quantile(comes, 0.99))
	add("a change, processor", "CPU-ms", 1e3*each)
}

func compare(a, b string) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

func must(ok bool, what string) {
	if !ok {
		fmt.Fprintln(os.Stderr, "bench/plan:", what)
		os.Exit(1)
	}
}

func quantile(values []float64, q float64) float64 {
	slices.Sort(values)
	return values[int(q*float64(len(values)-1))]
}

// memory is what the process has taken of the system and not given back.
func memory() float64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.Sys - m.HeapReleased)
}

// used is the CPU time of this process, in seconds.
func used() float64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
