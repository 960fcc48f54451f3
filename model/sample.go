package model

import "time"

// Sample is what a machine was doing between two looks at it. Rates are those of
// the time between; a sample without a look before it has none.
type Sample struct {
	// Host is the machine's name.
	Host string `json:"host"`
	// Time is when it was taken, by the machine's own clock.
	Time time.Time `json:"time"`
	// Seconds between the two looks, by a clock that nobody sets; 0 where there was
	// no look before.
	Seconds float64 `json:"seconds"`
	// Uptime in seconds.
	Uptime float64 `json:"uptime"`
	// CPU is the use of all cores together, Cores of each.
	CPU   CPUUse   `json:"cpu"`
	Cores []CPUUse `json:"cores" nullable:"false"`
	Load  Load     `json:"load"`
	// Memory in bytes.
	Memory MemoryUse `json:"memory"`
	Swap   SwapUse   `json:"swap"`
	// Pressure is how long tasks stood still for want of something; absent where
	// the kernel does not say (CONFIG_PSI).
	Pressure    *Pressure       `json:"pressure,omitempty"`
	Disks       []DiskUse       `json:"disks" nullable:"false"`
	Filesystems []FilesystemUse `json:"filesystems" nullable:"false"`
	Interfaces  []InterfaceUse  `json:"interfaces" nullable:"false"`
	Sensors     []Sensor        `json:"sensors" nullable:"false"`
	// Workloads are containers and systemd units.
	Workloads []WorkloadUse `json:"workloads" nullable:"false"`
	Tasks     Tasks         `json:"tasks"`
	Processes []ProcessUse  `json:"processes" nullable:"false"`
	// Metered says that the network figures of workloads and processes are known.
	Metered bool `json:"metered"`
}

// CPUUse says how time was spent, in percent of one core, or of all together.
type CPUUse struct {
	User   float64 `json:"user"`
	Nice   float64 `json:"nice"`
	System float64 `json:"system"`
	// Interrupts are hard and soft ones.
	Interrupts float64 `json:"interrupts"`
	IOWait     float64 `json:"iowait"`
	// Steal is what the hypervisor gave to others.
	Steal float64 `json:"steal"`
	Idle  float64 `json:"idle"`
}

// Busy is the time in which work was done.
func (c CPUUse) Busy() float64 { return c.User + c.Nice + c.System + c.Interrupts }

// Load is how many tasks ran or waited, on average over 1, 5 and 15 minutes.
type Load struct {
	One     float64 `json:"one"`
	Five    float64 `json:"five"`
	Fifteen float64 `json:"fifteen"`
}

// MemoryUse is in bytes.
type MemoryUse struct {
	Total uint64 `json:"total"`
	// Available is what programs could still get without swapping.
	Available uint64 `json:"available"`
	Free      uint64 `json:"free"`
	Buffers   uint64 `json:"buffers"`
	Cached    uint64 `json:"cached"`
}

// Used is what programs and the kernel hold and would not give up.
func (m MemoryUse) Used() uint64 { return m.Total - min(m.Available, m.Total) }

// SwapUse is in bytes, and bytes a second.
type SwapUse struct {
	Total uint64  `json:"total"`
	Used  uint64  `json:"used"`
	In    float64 `json:"in"`
	Out   float64 `json:"out"`
}

// Pressure is the percentage of the last ten seconds in which some task stood
// still, or all that were not idle did (full).
type Pressure struct {
	CPU        float64 `json:"cpu"`
	Memory     float64 `json:"memory"`
	MemoryFull float64 `json:"memoryFull"`
	IO         float64 `json:"io"`
	IOFull     float64 `json:"ioFull"`
}

// DiskUse is of a block device; bytes and operations a second.
type DiskUse struct {
	Name       string  `json:"name"`
	ReadBytes  float64 `json:"readBytes"`
	WriteBytes float64 `json:"writeBytes"`
	Reads      float64 `json:"reads"`
	Writes     float64 `json:"writes"`
	// Busy is the percentage of the time in which it had something to do.
	Busy float64 `json:"busy"`
}

// FilesystemUse is in bytes.
type FilesystemUse struct {
	Mount  string `json:"mount"`
	Device string `json:"device"`
	Type   string `json:"type"`
	Size   uint64 `json:"size"`
	Used   uint64 `json:"used"`
	// Available is what a user without privileges can still write.
	Available uint64 `json:"available"`
	Inodes    uint64 `json:"inodes"`
	// InodesFree is how many more files there can be.
	InodesFree uint64 `json:"inodesFree"`
}

// Percent is how full it is for a user without privileges, as df(1) says.
func (f FilesystemUse) Percent() float64 {
	if f.Used+f.Available == 0 {
		return 0
	}
	return 100 * float64(f.Used) / float64(f.Used+f.Available)
}

// InterfaceUse is of a network device; a second.
type InterfaceUse struct {
	Name            string  `json:"name"`
	ReceivedBytes   float64 `json:"receivedBytes"`
	SentBytes       float64 `json:"sentBytes"`
	ReceivedPackets float64 `json:"receivedPackets"`
	SentPackets     float64 `json:"sentPackets"`
	Errors          float64 `json:"errors"`
	Drops           float64 `json:"drops"`
}

// Sensor is a temperature in degrees Celsius, or the turns of a fan a minute.
type Sensor struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit"`
	Value float64 `json:"value"`
	// Critical is where its maker says that it goes too far; 0 where unknown.
	Critical float64 `json:"critical,omitempty"`
}

// WorkloadUse is of a container or a systemd unit, with all that is below its
// cgroup.
type WorkloadUse struct {
	// ID is a container's id, a unit's cgroup path.
	ID   string       `json:"id"`
	Kind WorkloadKind `json:"kind"`
	Name string       `json:"name"`
	// CPU is in percent of one core.
	CPU float64 `json:"cpu"`
	// Memory in bytes; MemoryLimit is 0 where there is none.
	Memory      uint64  `json:"memory"`
	MemoryLimit uint64  `json:"memoryLimit,omitempty"`
	ReadBytes   float64 `json:"readBytes"`
	WriteBytes  float64 `json:"writeBytes"`
	Processes   int     `json:"processes"`
	// Sent and Received are bytes a second over the network.
	Sent     float64 `json:"sent,omitempty"`
	Received float64 `json:"received,omitempty"`
}

// Tasks counts processes by their state, and all threads.
type Tasks struct {
	Total    int `json:"total"`
	Running  int `json:"running"`
	Sleeping int `json:"sleeping"`
	// Blocked ones cannot be interrupted: as a rule they wait for a disk.
	Blocked int `json:"blocked"`
	Zombie  int `json:"zombie"`
	Threads int `json:"threads"`
	// Shown is how many of the processes are in the sample.
	Shown int `json:"shown"`
}

// ProcessUse is of a process. Its texts are as the process gave them, which may
// be anything: who shows them makes them harmless.
type ProcessUse struct {
	PID    int    `json:"pid"`
	Parent int    `json:"parent"`
	User   string `json:"user"`
	Name   string `json:"name"`
	// Command is the command line; empty for a kernel thread, and for others than
	// root where it is hidden.
	Command string `json:"command,omitempty"`
	// State is the letter of ps(1).
	State string `json:"state"`
	// CPU is in percent of one core.
	CPU float64 `json:"cpu"`
	// Memory is resident, in bytes.
	Memory     uint64  `json:"memory"`
	Threads    int     `json:"threads"`
	ReadBytes  float64 `json:"readBytes"`
	WriteBytes float64 `json:"writeBytes"`
	// CPUSeconds is all that it has used since its start.
	CPUSeconds float64 `json:"cpuSeconds"`
	// Started is when, in seconds since the machine's start.
	Started float64 `json:"started"`
	// Workload is the name of the container or unit that it is in.
	Workload string  `json:"workload,omitempty"`
	Sent     float64 `json:"sent,omitempty"`
	Received float64 `json:"received,omitempty"`
}

// Glance is a host at a glance: what it did lately, and the worst that is wrong
// with it.
type Glance struct {
	Host  string    `json:"host"`
	State HostState `json:"state"`
	// Age is how many seconds ago the figures were true; -1 where there are none.
	Age         float64 `json:"age"`
	Cores       int     `json:"cores"`
	Load        Load    `json:"load"`
	CPU         CPUUse  `json:"cpu"`
	MemoryTotal uint64  `json:"memoryTotal"`
	MemoryUsed  uint64  `json:"memoryUsed"`
	SwapTotal   uint64  `json:"swapTotal"`
	SwapUsed    uint64  `json:"swapUsed"`
	// Sent and Received are bytes a second at all interfaces but loopback.
	Sent      float64 `json:"sent"`
	Received  float64 `json:"received"`
	Processes int     `json:"processes"`
	// Alerts is how many there are, Worst the most severe and then the oldest.
	Alerts int        `json:"alerts"`
	Worst  *AlertSpec `json:"worst,omitempty"`
}
