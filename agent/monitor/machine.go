package monitor

import (
	"bytes"
	"os"
	"path/filepath"

	"weft/model"
)

// maxDevices bounds disks and interfaces of a sample.
const maxDevices = 1024

// machine is what is kept of the whole machine between samples.
type machine struct {
	in         *reader
	proc, sys  string
	cores      []cpuTimes // before; the first is of all
	swap       [2]uint64  // pages in and out
	page       float64
	disks      map[string]*disk
	interfaces map[string]*device
	look       uint64
}

type disk struct {
	name   string
	whole  bool // no partition, and no device of memory
	before diskTimes
	seen   uint64
}

type device struct {
	name   string
	before deviceCounts
	seen   uint64
}

func newMachine(proc, sys string, in *reader) *machine {
	return &machine{in: in, proc: proc, sys: sys, page: float64(os.Getpagesize()), disks: map[string]*disk{}, interfaces: map[string]*device{}}
}

// sample fills in what is of the machine as a whole. What the kernel does not
// have stays empty.
func (m *machine) sample(s *model.Sample) error {
	m.look++
	b, err := m.in.file(m.proc + "/stat")
	if err != nil {
		return err
	}
	m.cpus(s, b)
	m.load(s)
	m.memory(s)
	m.pressure(s)
	m.diskIO(s)
	m.network(s)
	return nil
}

func (m *machine) cpus(s *model.Sample, b []byte) {
	s.Cores = s.Cores[:0]
	for i := 0; len(b) > 0; i++ {
		var l []byte
		l, b = line(b)
		if !bytes.HasPrefix(l, []byte("cpu")) {
			return
		}
		_, times := word(l)
		now := parseCPU(times)
		if i == len(m.cores) {
			m.cores = append(m.cores, now)
		}
		use := spent(now, m.cores[i])
		if s.Seconds == 0 {
			use = model.CPUUse{}
		}
		m.cores[i] = now
		if i == 0 {
			s.CPU = use
		} else {
			s.Cores = append(s.Cores, use)
		}
	}
}

// spent is the part of the time between that went into each.
func spent(now, before cpuTimes) model.CPUUse {
	up := func(a, b uint64) float64 { return rate(a, b, 1) }
	u := model.CPUUse{User: up(now.user, before.user), Nice: up(now.nice, before.nice), System: up(now.system, before.system),
		Interrupts: up(now.irq, before.irq) + up(now.softirq, before.softirq), IOWait: up(now.iowait, before.iowait), Steal: up(now.steal, before.steal), Idle: up(now.idle, before.idle)}
	all := u.Busy() + u.IOWait + u.Steal + u.Idle
	if all == 0 {
		return model.CPUUse{}
	}
	for _, v := range []*float64{&u.User, &u.Nice, &u.System, &u.Interrupts, &u.IOWait, &u.Steal, &u.Idle} {
		*v *= 100 / all
	}
	return u
}

func (m *machine) load(s *model.Sample) {
	b, err := m.in.file(m.proc + "/loadavg")
	if err != nil {
		return
	}
	s.Load.One, b = decimal(b)
	s.Load.Five, b = decimal(b)
	s.Load.Fifteen, _ = decimal(b)
}

func (m *machine) memory(s *model.Sample) {
	b, err := m.in.file(m.proc + "/meminfo")
	if err != nil {
		return
	}
	kib := func(name string) uint64 {
		n, _ := field(b, name)
		return n << 10
	}
	s.Memory = model.MemoryUse{Total: kib("MemTotal"), Available: kib("MemAvailable"), Free: kib("MemFree"), Buffers: kib("Buffers"), Cached: kib("Cached") + kib("SReclaimable")}
	s.Swap.Total = kib("SwapTotal")
	s.Swap.Used = s.Swap.Total - min(kib("SwapFree"), s.Swap.Total)
	if b, err = m.in.file(m.proc + "/vmstat"); err != nil {
		return
	}
	in, _ := field(b, "pswpin")
	out, _ := field(b, "pswpout")
	s.Swap.In, s.Swap.Out = rate(in, m.swap[0], s.Seconds)*m.page, rate(out, m.swap[1], s.Seconds)*m.page
	m.swap = [2]uint64{in, out}
}

func (m *machine) pressure(s *model.Sample) {
	b, err := m.in.file(m.proc + "/pressure/cpu")
	if err != nil {
		s.Pressure = nil
		return
	}
	if s.Pressure == nil {
		s.Pressure = &model.Pressure{}
	}
	s.Pressure.CPU, _ = parsePressure(b)
	if b, err = m.in.file(m.proc + "/pressure/memory"); err == nil {
		s.Pressure.Memory, s.Pressure.MemoryFull = parsePressure(b)
	}
	if b, err = m.in.file(m.proc + "/pressure/io"); err == nil {
		s.Pressure.IO, s.Pressure.IOFull = parsePressure(b)
	}
}

func (m *machine) diskIO(s *model.Sample) {
	s.Disks = s.Disks[:0]
	b, err := m.in.file(m.proc + "/diskstats")
	if err != nil {
		return
	}
	const sector = 512
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		name, now := parseDisk(l)
		if len(name) == 0 {
			continue
		}
		d := m.disks[string(name)]
		if d == nil {
			if len(m.disks) >= maxDevices {
				continue
			}
			d = &disk{name: string(name), before: now}
			d.whole = m.whole(d.name)
			m.disks[d.name] = d
		}
		before := d.before
		d.before, d.seen = now, m.look
		if !d.whole || now.reads+now.writes == 0 {
			continue
		}
		s.Disks = append(s.Disks, model.DiskUse{Name: d.name,
			ReadBytes: rate(now.readSectors, before.readSectors, s.Seconds) * sector, WriteBytes: rate(now.writeSectors, before.writeSectors, s.Seconds) * sector,
			Reads: rate(now.reads, before.reads, s.Seconds), Writes: rate(now.writes, before.writes, s.Seconds), Busy: min(100, rate(now.busyMillis, before.busyMillis, s.Seconds)/10)})
	}
	for name, d := range m.disks {
		if d.seen != m.look {
			delete(m.disks, name)
		}
	}
}

// whole says whether a device is a disk, and no part of one, and none of memory.
func (m *machine) whole(name string) bool {
	for _, prefix := range []string{"loop", "ram", "zram"} {
		if len(name) >= len(prefix) && name[:len(prefix)] == prefix {
			return false
		}
	}
	_, err := os.Stat(filepath.Join(m.sys, "block", name))
	return err == nil
}

func (m *machine) network(s *model.Sample) {
	s.Interfaces = s.Interfaces[:0]
	b, err := m.in.file(m.proc + "/net/dev")
	if err != nil {
		return
	}
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		name, now, ok := parseDevice(l)
		if !ok || len(name) == 0 {
			continue
		}
		d := m.interfaces[string(name)]
		if d == nil {
			if len(m.interfaces) >= maxDevices {
				continue
			}
			d = &device{name: string(name), before: now}
			m.interfaces[d.name] = d
		}
		before := d.before
		d.before, d.seen = now, m.look
		s.Interfaces = append(s.Interfaces, model.InterfaceUse{Name: d.name, ReceivedBytes: rate(now.receivedBytes, before.receivedBytes, s.Seconds), SentBytes: rate(now.sentBytes, before.sentBytes, s.Seconds),
			ReceivedPackets: rate(now.receivedPackets, before.receivedPackets, s.Seconds), SentPackets: rate(now.sentPackets, before.sentPackets, s.Seconds),
			Errors: rate(now.errors, before.errors, s.Seconds), Drops: rate(now.drops, before.drops, s.Seconds)})
	}
	for name, d := range m.interfaces {
		if d.seen != m.look {
			delete(m.interfaces, name)
		}
	}
}
