package monitor

import (
	"bytes"
	"encoding/binary"
	"os/user"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"weft/model"
)

// Limits on what is kept of processes.
const (
	maxProcesses = 32 << 10 // more are counted and not looked at
	maxCommand   = 512      // bytes of a command line
	maxUsers     = 10_000
)

// turns is how many samples pass between two looks at what seldom changes.
const turns = 8

// process is what is kept of a process between samples.
type process struct {
	model.ProcessUse
	seen     uint64 // number of the sample
	started  uint64 // ticks since the machine's start: with the number, who it is
	ticks    uint64
	faults   uint64
	pages    uint64
	read     uint64 // bytes
	written  uint64
	readAt   float64 // when the two were read, seconds of the machine's uptime
	files    bool    // whether they could be
	workload *workload
}

// processes follows them from sample to sample.
type processes struct {
	in    *reader
	root  string // /proc
	page  uint64
	dir   int // of root
	names []byte
	path  []byte
	all   map[int]*process
	users map[uint32]string
	look  uint64 // number of the sample
	tasks model.Tasks
	// place finds the workload of a process; nil where it is in none.
	place func(cgroups []byte) *workload
}

func newProcesses(root string, in *reader, place func([]byte) *workload) *processes {
	return &processes{in: in, root: root, page: uint64(unix.Getpagesize()), dir: -1, names: make([]byte, 32<<10), all: map[int]*process{}, users: map[uint32]string{}, place: place}
}

// sample looks at every process. Seconds are since the sample before, 0 where
// there was none; uptime is the machine's, at this one and the one before.
func (p *processes) sample(seconds, uptime, before float64) error {
	dir, err := openat(unix.AT_FDCWD, append([]byte(p.root), 0))
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	p.dir, p.tasks = dir, model.Tasks{}
	p.look++
	for {
		n, err := unix.ReadDirent(dir, p.names)
		if err != nil {
			return err
		}
		if n <= 0 {
			break
		}
		for b := p.names[:n]; len(b) > 0; {
			pid, rest := entry(b)
			if b = rest; pid > 0 {
				p.one(pid, seconds, uptime, before)
			}
		}
	}
	for pid, x := range p.all {
		if x.seen != p.look {
			if x.workload != nil {
				x.workload.users--
			}
			delete(p.all, pid)
		}
	}
	return nil
}

// entry reads one struct linux_dirent64; pid is 0 where its name is no number.
func entry(b []byte) (pid int, rest []byte) {
	const header, length = int(unsafe.Offsetof(unix.Dirent{}.Name)), int(unsafe.Offsetof(unix.Dirent{}.Reclen))
	if len(b) < header {
		return 0, nil
	}
	size := int(binary.NativeEndian.Uint16(b[length:]))
	if size < header || size > len(b) {
		return 0, nil
	}
	name := b[header:size]
	if end := bytes.IndexByte(name, 0); end >= 0 {
		name = name[:end]
	}
	n, after := number(name)
	if len(name) == 0 || len(after) > 0 || n > 1<<30 {
		return 0, b[size:]
	}
	return int(n), b[size:]
}

// read reads /proc/PID/NAME. It is gone where there is an error.
func (p *processes) read(pid int, name string, record bool) ([]byte, error) {
	p.path = append(append(strconv.AppendInt(p.path[:0], int64(pid), 10), name...), 0)
	return p.in.at(p.dir, p.path, record)
}

func (p *processes) one(pid int, seconds, uptime, before float64) {
	b, err := p.read(pid, "/stat", true)
	if err != nil {
		return
	}
	s, ok := parseStat(b)
	if !ok {
		return
	}
	p.count(&s)
	x := p.all[pid]
	fresh := x == nil || x.started != s.started
	if fresh {
		if x == nil && len(p.all) >= maxProcesses {
			return
		}
		if x != nil && x.workload != nil {
			x.workload.users--
		}
		x = &process{started: s.started}
		x.PID, x.Started = pid, float64(s.started)/hertz
		p.all[pid] = x
		if seconds > 0 && x.Started+1.0/hertz >= before { // all that it has used it used since
			x.CPU = rate(s.ticks, 0, seconds) * 100 / hertz
		}
	} else {
		x.CPU = rate(s.ticks, x.ticks, seconds) * 100 / hertz
	}
	turn := (uint64(pid)+p.look)%turns == 0
	worked := fresh || s.ticks != x.ticks || s.faults != x.faults
	x.seen, x.ticks, x.faults, x.pages = p.look, s.ticks, s.faults, s.pages
	x.CPUSeconds = float64(s.ticks) / hertz
	x.Memory, x.Threads, x.Parent = s.pages*p.page, s.threads, s.parent
	if x.State == "" || x.State[0] != s.state {
		x.State = letter(s.state)
	}
	renamed := x.Name != string(s.comm)
	if renamed {
		x.Name = string(s.comm)
	}
	// A program that has just begun is still being placed by whoever started it.
	if fresh || renamed || turn || uptime-x.Started < 5 {
		p.describe(x)
	}
	if worked || turn {
		span := seconds
		if !worked { // what it did since they were last read
			span = uptime - x.readAt
		}
		p.files(x, fresh, span)
		x.readAt = uptime
	} else {
		x.ReadBytes, x.WriteBytes = 0, 0
	}
}

func (p *processes) count(s *stat) {
	p.tasks.Total++
	p.tasks.Threads += s.threads
	switch s.state {
	case 'R':
		p.tasks.Running++
	case 'D':
		p.tasks.Blocked++
	case 'Z':
		p.tasks.Zombie++
	default:
		p.tasks.Sleeping++
	}
}

// letters are those of states; a text of its own for each would be one a sample.
const letters = "RSDZTtXxKWPI"

func letter(b byte) string {
	for i := range len(letters) {
		if letters[i] == b {
			return letters[i : i+1]
		}
	}
	return "?"
}

// files takes bytes from and to disks, which are hidden from others than root and
// the owner.
func (p *processes) files(x *process, fresh bool, seconds float64) {
	b, err := p.read(x.PID, "/io", true)
	if err != nil {
		x.files, x.ReadBytes, x.WriteBytes = false, 0, 0
		return
	}
	read, _ := field(b, "read_bytes")
	written, _ := field(b, "write_bytes")
	x.ReadBytes, x.WriteBytes = 0, 0
	if x.files && !fresh {
		x.ReadBytes, x.WriteBytes = rate(read, x.read, seconds), rate(written, x.written, seconds)
	}
	x.read, x.written, x.files = read, written, true
}

// describe reads what seldom changes, and makes no new text of what did not.
func (p *processes) describe(x *process) {
	if b, err := p.read(x.PID, "/cmdline", false); err == nil {
		b = bytes.TrimRight(b[:min(len(b), maxCommand)], "\x00")
		for i, c := range b {
			if c == 0 {
				b[i] = ' '
			}
		}
		if x.Command != string(b) {
			x.Command = string(b)
		}
	}
	if b, err := p.read(x.PID, "/status", true); err == nil {
		uid, _ := field(b, "Uid")
		x.User = p.user(uint32(uid))
	}
	if b, err := p.read(x.PID, "/cgroup", false); err == nil {
		w := p.place(b)
		if w != x.workload {
			if x.workload != nil {
				x.workload.users--
			}
			if w != nil {
				w.users++
			}
			x.workload = w
		}
	}
	x.Workload = ""
	if x.workload != nil {
		x.Workload = x.workload.Name
	}
}

func (p *processes) user(uid uint32) string {
	name, known := p.users[uid]
	if !known {
		name = strconv.FormatUint(uint64(uid), 10)
		if u, err := user.LookupId(name); err == nil {
			name = u.Username
		}
		if len(p.users) < maxUsers {
			p.users[uid] = name
		}
	}
	return name
}
