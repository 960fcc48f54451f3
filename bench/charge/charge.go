// Package charge measures what something costs a machine in CPU time.
//
// A tap's cost falls where the sender's softirq happens to run, so the whole
// machine is charged and not one process: elapsed time of all processors less
// their idle and stolen time. What programs that are no part of the measurement
// used meanwhile is taken off again and reported, so that a run among noisy
// neighbours can be told from a quiet one.
package charge

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ticksPerSecond is USER_HZ, the same on every Linux of this architecture.
const ticksPerSecond = 100

// Meter charges a machine.
type Meter struct {
	// Cgroup is part of the path of every cgroup whose processes belong to the
	// measurement. The calling process belongs to it too.
	Cgroup string
}

// Mark is a moment.
type Mark struct {
	at      time.Time
	cpus    int
	idle    float64 // CPU-seconds, all processors
	foreign float64
}

// Now notes the moment.
func (m Meter) Now() (Mark, error) {
	// In the same order as Since: reading what others used takes a while, and they use
	// some meanwhile.
	at := time.Now()
	idle, cpus, err := idle()
	if err != nil {
		return Mark{}, err
	}
	foreign, err := m.foreign()
	return Mark{at: at, cpus: cpus, idle: idle, foreign: foreign}, err
}

// Since returns the CPU-seconds that the measurement cost since the mark, and
// those that everybody else's programs used, which the former are without.
func (m Meter) Since(from Mark) (cost, foreign float64, err error) {
	elapsed := time.Since(from.at).Seconds()
	idle, _, err := idle()
	if err != nil {
		return 0, 0, err
	}
	now, err := m.foreign()
	if err != nil {
		return 0, 0, err
	}
	foreign = max(0, now-from.foreign)
	return elapsed*float64(from.cpus) - (idle - from.idle) - foreign, foreign, nil
}

// idle is the time that all processors were idle, waited for disks or were
// taken away by a hypervisor, in seconds (proc(5), /proc/stat).
func idle() (seconds float64, cpus int, err error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		switch {
		case len(f) > 8 && f[0] == "cpu":
			for _, i := range []int{4, 5, 8} { // idle, iowait, steal
				n, err := strconv.ParseUint(f[i], 10, 64)
				if err != nil {
					return 0, 0, fmt.Errorf("read /proc/stat: %w", err)
				}
				seconds += float64(n) / ticksPerSecond
			}
		case len(f) > 0 && strings.HasPrefix(f[0], "cpu"):
			cpus++
		}
	}
	return seconds, cpus, nil
}

// foreign is the CPU time so far of all processes that are no part of the
// measurement, their dead children included. Kernel threads are part of it:
// some of them carry packets.
func (m Meter) foreign() (float64, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	var ticks int64
	for _, dir := range dirs {
		pid := filepath.Base(dir)
		p, err := readStat(dir)
		if err != nil || pid == "2" || p.parent == 2 || pid == strconv.Itoa(os.Getpid()) {
			continue
		}
		cgroup, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err != nil || m.Cgroup != "" && strings.Contains(string(cgroup), m.Cgroup) {
			continue
		}
		ticks += p.own + p.children
	}
	return float64(ticks) / ticksPerSecond, nil
}

type stat struct {
	parent        int64
	own, children int64 // ticks, user and system
	pages         int64
}

// readStat reads /proc/PID/stat (proc(5); the fields after the name, which is
// in parentheses and may hold spaces, begin with the third).
func readStat(dir string) (s stat, err error) {
	data, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return s, err
	}
	end := strings.LastIndexByte(string(data), ')')
	f := strings.Fields(string(data[end+1:]))
	if end < 0 || len(f) < 22 {
		return s, fmt.Errorf("read %s/stat: %d fields", dir, len(f))
	}
	n := make([]int64, 22)
	for _, i := range []int{1, 11, 12, 13, 14, 21} {
		if n[i], err = strconv.ParseInt(f[i], 10, 64); err != nil {
			return s, fmt.Errorf("read %s/stat: %w", dir, err)
		}
	}
	return stat{parent: n[1], own: n[11] + n[12], children: n[13] + n[14], pages: n[21]}, nil
}

// Process returns the CPU time of one process so far and its resident memory in
// MB (10^6 bytes).
func Process(pid int) (cpu time.Duration, megabytes float64, err error) {
	s, err := readStat(fmt.Sprintf("/proc/%d", pid))
	if err != nil {
		return 0, 0, err
	}
	return time.Duration(s.own) * time.Second / ticksPerSecond, float64(s.pages) * float64(unix.Getpagesize()) / 1e6, nil
}

// Family returns what Process does of a process and its children that live.
func Family(pid int) (cpu time.Duration, megabytes float64, err error) {
	if cpu, megabytes, err = Process(pid); err != nil {
		return 0, 0, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, 0, err
	}
	for _, dir := range dirs {
		s, err := readStat(dir)
		if err != nil || s.parent != int64(pid) {
			continue
		}
		cpu += time.Duration(s.own) * time.Second / ticksPerSecond
		megabytes += float64(s.pages) * float64(unix.Getpagesize()) / 1e6
	}
	return cpu, megabytes, nil
}
