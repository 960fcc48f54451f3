package monitor

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"weft/model"
)

// Config of a Monitor. Zero values take the defaults.
type Config struct {
	// Host is the machine's name; what the kernel says unless given.
	Host string
	// Proc and Sys are where the kernel's file systems are: /proc and /sys.
	Proc, Sys string
}

// Deps of a Monitor. Both may be nil.
type Deps struct {
	// Workload tells what is known of a cgroup: its id, empty where it is no
	// workload, its name and kind.
	Workload func(cgroup string) (id, name string, kind model.WorkloadKind)
	// Network tells the bytes a second of processes since it was last asked; ok is
	// false where nobody meters.
	Network func() (byProcess map[int]Traffic, ok bool)
}

// Traffic is bytes a second.
type Traffic struct{ Sent, Received float64 }

// Monitor looks at a machine. It is not safe for concurrent use.
type Monitor struct {
	cfg         Config
	deps        Deps
	machine     *machine
	processes   *processes
	workloads   *workloads
	filesystems filesystems
	sensors     sensors
	sample      model.Sample
	last        time.Time // monotonic
	uptime      float64
}

// New makes a Monitor that has not looked yet.
func New(cfg Config, deps Deps) *Monitor {
	if cfg.Host == "" {
		cfg.Host, _ = os.Hostname()
	}
	cfg.Proc, cfg.Sys = cmp.Or(cfg.Proc, "/proc"), cmp.Or(cfg.Sys, "/sys")
	in := &reader{}
	m := &Monitor{cfg: cfg, deps: deps, machine: newMachine(cfg.Proc, cfg.Sys, in), filesystems: filesystems{proc: cfg.Proc}, sensors: sensors{in: in, sys: cfg.Sys}}
	m.workloads = &workloads{in: in, trees: findTrees(cfg.Sys + "/fs/cgroup"), all: map[string]*workload{}, roots: map[string]int{}, looked: time.Now(), name: deps.Workload}
	m.processes = newProcesses(cfg.Proc, in, m.workloads.place)
	m.sample = model.Sample{Cores: []model.CPUUse{}, Disks: []model.DiskUse{}, Filesystems: []model.FilesystemUse{}, Interfaces: []model.InterfaceUse{}, Sensors: []model.Sensor{},
		Workloads: []model.WorkloadUse{}, Processes: []model.ProcessUse{}} // in JSON, lists that are empty are lists
	return m
}

// Sample looks. What it returns is overwritten by the next call; processes stand in
// no order.
func (m *Monitor) Sample() (*model.Sample, error) {
	now, s := time.Now(), &m.sample
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return nil, fmt.Errorf("read the machine's uptime: %w", err)
	}
	before := m.uptime
	m.uptime = float64(up.Sec) + float64(up.Nsec)/1e9
	s.Host, s.Time, s.Seconds, s.Uptime = m.cfg.Host, now.UTC().Round(0), 0, m.uptime
	if !m.last.IsZero() {
		s.Seconds = now.Sub(m.last).Seconds()
	}
	m.last = now
	if err := m.machine.sample(s); err != nil {
		return nil, fmt.Errorf("look at the machine: %w", err)
	}
	if err := m.processes.sample(s.Seconds, m.uptime, before); err != nil {
		return nil, fmt.Errorf("look at processes: %w", err)
	}
	m.network(s)
	m.workloads.sample(s, m.processes.all)
	m.filesystems.sample(s, now)
	m.sensors.sample(s, now)
	s.Tasks, s.Processes = m.processes.tasks, s.Processes[:0]
	for _, p := range m.processes.all {
		s.Processes = append(s.Processes, p.ProcessUse)
	}
	s.Tasks.Shown = len(s.Processes)
	return s, nil
}

func (m *Monitor) network(s *model.Sample) {
	s.Metered = false
	if m.deps.Network == nil {
		return
	}
	traffic, ok := m.deps.Network()
	s.Metered = ok
	for pid, p := range m.processes.all {
		p.Sent, p.Received = traffic[pid].Sent, traffic[pid].Received
	}
}

// Heaviest leaves the n processes that use most: half of them by processor time,
// disk and network, the others by memory.
func Heaviest(s *model.Sample, n int) {
	if len(s.Processes) <= n {
		return
	}
	work := func(p *model.ProcessUse) float64 {
		return p.CPU + (p.ReadBytes+p.WriteBytes+p.Sent+p.Received)/1e6
	}
	slices.SortFunc(s.Processes, func(a, b model.ProcessUse) int {
		return cmp.Or(cmp.Compare(work(&b), work(&a)), cmp.Compare(b.Memory, a.Memory))
	})
	rest := s.Processes[n/2:]
	slices.SortFunc(rest, func(a, b model.ProcessUse) int { return cmp.Compare(b.Memory, a.Memory) })
	s.Processes = s.Processes[:n]
	s.Tasks.Shown = n
}

// Copy is a sample that the next one does not overwrite.
func Copy(s *model.Sample) *model.Sample {
	out := *s
	if s.Pressure != nil {
		p := *s.Pressure
		out.Pressure = &p
	}
	out.Cores, out.Disks, out.Filesystems, out.Interfaces = slices.Clone(s.Cores), slices.Clone(s.Disks), slices.Clone(s.Filesystems), slices.Clone(s.Interfaces)
	out.Sensors, out.Workloads, out.Processes = slices.Clone(s.Sensors), slices.Clone(s.Workloads), slices.Clone(s.Processes)
	return &out
}
