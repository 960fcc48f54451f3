// Package samplewire writes samples of machines as messages of the protocol, and
// reads what an agent says, which may be anything.
package samplewire

import (
	"math"
	"strings"
	"time"

	"weft/model"
	"weft/wire/wirepb"
)

// Limits on what one sample may hold: a reader leaves the rest out.
const (
	MaxProcesses = 2000
	maxList      = 1024
	maxWorkloads = 10_000
	maxText      = 512
)

// Encode writes a sample.
func Encode(s *model.Sample) *wirepb.Sample {
	out := &wirepb.Sample{
		UnixNanos: s.Time.UnixNano(), Seconds: s.Seconds, Uptime: s.Uptime, Cpu: cpu(s.CPU), Load1: s.Load.One, Load5: s.Load.Five, Load15: s.Load.Fifteen,
		Memory: &wirepb.MemoryUse{Total: s.Memory.Total, Available: s.Memory.Available, Free: s.Memory.Free, Buffers: s.Memory.Buffers, Cached: s.Memory.Cached,
			SwapTotal: s.Swap.Total, SwapUsed: s.Swap.Used, SwapIn: s.Swap.In, SwapOut: s.Swap.Out},
		Tasks: &wirepb.Tasks{Total: uint32(s.Tasks.Total), Running: uint32(s.Tasks.Running), Sleeping: uint32(s.Tasks.Sleeping), Blocked: uint32(s.Tasks.Blocked), Zombie: uint32(s.Tasks.Zombie),
			Threads: uint32(s.Tasks.Threads)},
		Metered: s.Metered,
	}
	if p := s.Pressure; p != nil {
		out.Pressure = &wirepb.Pressure{Cpu: float32(p.CPU), Memory: float32(p.Memory), MemoryFull: float32(p.MemoryFull), Io: float32(p.IO), IoFull: float32(p.IOFull)}
	}
	for _, c := range s.Cores {
		out.Cores = append(out.Cores, cpu(c))
	}
	for _, d := range s.Disks {
		out.Disks = append(out.Disks, &wirepb.DiskUse{Name: text(d.Name), ReadBytes: d.ReadBytes, WriteBytes: d.WriteBytes, Reads: d.Reads, Writes: d.Writes, Busy: float32(d.Busy)})
	}
	for _, f := range s.Filesystems {
		out.Filesystems = append(out.Filesystems, &wirepb.FilesystemUse{Mount: text(f.Mount), Device: text(f.Device), Type: text(f.Type), Size: f.Size, Used: f.Used, Available: f.Available, Inodes: f.Inodes, InodesFree: f.InodesFree})
	}
	for _, i := range s.Interfaces {
		out.Interfaces = append(out.Interfaces, &wirepb.InterfaceUse{Name: text(i.Name), ReceivedBytes: i.ReceivedBytes, SentBytes: i.SentBytes, ReceivedPackets: i.ReceivedPackets, SentPackets: i.SentPackets, Errors: i.Errors, Drops: i.Drops})
	}
	for _, x := range s.Sensors {
		out.Sensors = append(out.Sensors, &wirepb.Sensor{Name: text(x.Name), Unit: x.Unit, Value: x.Value, Critical: x.Critical})
	}
	for _, w := range s.Workloads {
		out.Workloads = append(out.Workloads, &wirepb.WorkloadUse{Id: text(w.ID), Kind: string(w.Kind), Name: text(w.Name), Cpu: float32(w.CPU), Memory: w.Memory, MemoryLimit: w.MemoryLimit,
			ReadBytes: w.ReadBytes, WriteBytes: w.WriteBytes, Processes: uint32(w.Processes), Sent: w.Sent, Received: w.Received})
	}
	for _, p := range s.Processes {
		out.Processes = append(out.Processes, &wirepb.ProcessUse{Pid: uint32(p.PID), Parent: uint32(p.Parent), User: text(p.User), Name: []byte(p.Name), Command: []byte(p.Command), State: p.State, Cpu: float32(p.CPU), Memory: p.Memory,
			Threads: uint32(p.Threads), ReadBytes: p.ReadBytes, WriteBytes: p.WriteBytes, CpuSeconds: p.CPUSeconds, Started: p.Started, Workload: text(p.Workload), Sent: p.Sent, Received: p.Received})
	}
	return out
}

func cpu(c model.CPUUse) *wirepb.CPUUse {
	return &wirepb.CPUUse{User: float32(c.User), Nice: float32(c.Nice), System: float32(c.System), Interrupts: float32(c.Interrupts), Iowait: float32(c.IOWait), Steal: float32(c.Steal), Idle: float32(c.Idle)}
}

// Decode reads a sample of a host. Whatever the message holds, what comes out can
// be written as JSON: texts are UTF-8 and short, figures are numbers and not below
// zero but for temperatures, lists are bounded.
func Decode(host string, m *wirepb.Sample) *model.Sample {
	mem, p, t := m.GetMemory(), m.GetPressure(), m.GetTasks()
	s := &model.Sample{
		Host: host, Time: time.Unix(0, m.GetUnixNanos()).UTC(), Seconds: figure(m.GetSeconds()), Uptime: figure(m.GetUptime()), CPU: use(m.GetCpu()), Cores: []model.CPUUse{},
		Load:   model.Load{One: figure(m.GetLoad1()), Five: figure(m.GetLoad5()), Fifteen: figure(m.GetLoad15())},
		Memory: model.MemoryUse{Total: mem.GetTotal(), Available: mem.GetAvailable(), Free: mem.GetFree(), Buffers: mem.GetBuffers(), Cached: mem.GetCached()},
		Swap:   model.SwapUse{Total: mem.GetSwapTotal(), Used: mem.GetSwapUsed(), In: figure(mem.GetSwapIn()), Out: figure(mem.GetSwapOut())},
		Disks:  []model.DiskUse{}, Filesystems: []model.FilesystemUse{}, Interfaces: []model.InterfaceUse{}, Sensors: []model.Sensor{}, Workloads: []model.WorkloadUse{}, Processes: []model.ProcessUse{},
		Tasks: model.Tasks{Total: count(t.GetTotal()), Running: count(t.GetRunning()), Sleeping: count(t.GetSleeping()), Blocked: count(t.GetBlocked()), Zombie: count(t.GetZombie()), Threads: count(t.GetThreads())}, Metered: m.GetMetered(),
	}
	if y := s.Time.Year(); y < 1 || y > 9999 { // JSON knows no other
		s.Time = time.Time{}
	}
	if p != nil {
		s.Pressure = &model.Pressure{CPU: share(p.Cpu), Memory: share(p.Memory), MemoryFull: share(p.MemoryFull), IO: share(p.Io), IOFull: share(p.IoFull)}
	}
	for _, c := range first(m.GetCores(), maxList) {
		s.Cores = append(s.Cores, use(c))
	}
	for _, d := range first(m.GetDisks(), maxList) {
		s.Disks = append(s.Disks, model.DiskUse{Name: text(d.GetName()), ReadBytes: figure(d.GetReadBytes()), WriteBytes: figure(d.GetWriteBytes()), Reads: figure(d.GetReads()), Writes: figure(d.GetWrites()), Busy: share(d.GetBusy())})
	}
	for _, f := range first(m.GetFilesystems(), maxList) {
		s.Filesystems = append(s.Filesystems, model.FilesystemUse{Mount: text(f.GetMount()), Device: text(f.GetDevice()), Type: text(f.GetType()), Size: f.GetSize(), Used: f.GetUsed(), Available: f.GetAvailable(), Inodes: f.GetInodes(), InodesFree: f.GetInodesFree()})
	}
	for _, i := range first(m.GetInterfaces(), maxList) {
		s.Interfaces = append(s.Interfaces, model.InterfaceUse{Name: text(i.GetName()), ReceivedBytes: figure(i.GetReceivedBytes()), SentBytes: figure(i.GetSentBytes()), ReceivedPackets: figure(i.GetReceivedPackets()), SentPackets: figure(i.GetSentPackets()),
			Errors: figure(i.GetErrors()), Drops: figure(i.GetDrops())})
	}
	for _, x := range first(m.GetSensors(), maxList) {
		v := x.GetValue()
		if math.IsNaN(v) || math.IsInf(v, 0) {
			v = 0
		}
		s.Sensors = append(s.Sensors, model.Sensor{Name: text(x.GetName()), Unit: text(x.GetUnit()), Value: v, Critical: figure(x.GetCritical())})
	}
	for _, w := range first(m.GetWorkloads(), maxWorkloads) {
		s.Workloads = append(s.Workloads, model.WorkloadUse{ID: text(w.GetId()), Kind: model.WorkloadKind(text(w.GetKind())), Name: text(w.GetName()), CPU: share(w.GetCpu()), Memory: w.GetMemory(), MemoryLimit: w.GetMemoryLimit(),
			ReadBytes: figure(w.GetReadBytes()), WriteBytes: figure(w.GetWriteBytes()), Processes: count(w.GetProcesses()), Sent: figure(w.GetSent()), Received: figure(w.GetReceived())})
	}
	for _, p := range first(m.GetProcesses(), MaxProcesses) {
		s.Processes = append(s.Processes, model.ProcessUse{PID: count(p.GetPid()), Parent: count(p.GetParent()), User: text(p.GetUser()), Name: text(string(p.GetName())), Command: text(string(p.GetCommand())), State: text(p.GetState()),
			CPU: share(p.GetCpu()), Memory: p.GetMemory(), Threads: count(p.GetThreads()), ReadBytes: figure(p.GetReadBytes()), WriteBytes: figure(p.GetWriteBytes()), CPUSeconds: figure(p.GetCpuSeconds()), Started: figure(p.GetStarted()),
			Workload: text(p.GetWorkload()), Sent: figure(p.GetSent()), Received: figure(p.GetReceived())})
	}
	s.Tasks.Shown = len(s.Processes)
	return s
}

func use(c *wirepb.CPUUse) model.CPUUse {
	return model.CPUUse{User: share(c.GetUser()), Nice: share(c.GetNice()), System: share(c.GetSystem()), Interrupts: share(c.GetInterrupts()), IOWait: share(c.GetIowait()), Steal: share(c.GetSteal()), Idle: share(c.GetIdle())}
}

// share is a figure that was sent in single precision, without digits that only
// seem to be there.
func share(v float32) float64 { return figure(math.Round(float64(v)*1000) / 1000) }

func figure(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		return 0
	}
	return v
}

func count(n uint32) int { return int(n & math.MaxInt32) }

func text(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.ToValidUTF8(s, "?")
}

func first[T any](list []T, n int) []T { return list[:min(len(list), n)] }
