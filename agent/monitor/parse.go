package monitor

import "bytes"

// hertz is the unit of times in /proc: USER_HZ, which is 100 on every
// architecture that this program runs on.
const hertz = 100

// number reads a decimal number at the beginning of b, past spaces, and returns
// what follows it. No number is 0; one that is too large is the largest.
func number(b []byte) (n uint64, rest []byte) {
	i := 0
	for i < len(b) && (b[i] == ' ' || b[i] == '\t') {
		i++
	}
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		d := uint64(b[i] - '0')
		if n > (1<<64-1-d)/10 {
			n = 1<<64 - 1
			continue
		}
		n = n*10 + d
	}
	return n, b[i:]
}

// decimal reads "12.34"; it is for figures of the kernel, which are short.
func decimal(b []byte) (v float64, rest []byte) {
	whole, rest := number(b)
	v = float64(whole)
	if len(rest) > 0 && rest[0] == '.' {
		rest = rest[1:]
		for scale := 0.1; len(rest) > 0 && rest[0] >= '0' && rest[0] <= '9'; rest, scale = rest[1:], scale/10 {
			v += float64(rest[0]-'0') * scale
		}
	}
	return v, rest
}

// line cuts the first line off.
func line(b []byte) (first, rest []byte) {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// word cuts the first word off, past spaces.
func word(b []byte) (first, rest []byte) {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for i, c := range b {
		if c == ' ' || c == '\t' {
			return b[:i], b[i:]
		}
	}
	return b, nil
}

// skip passes over n words.
func skip(b []byte, n int) []byte {
	for range n {
		_, b = word(b)
	}
	return b
}

// field returns the number behind "NAME" in a file of "NAME[:] NUMBER" lines.
func field(b []byte, name string) (uint64, bool) {
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		if len(l) > len(name) && string(l[:len(name)]) == name {
			if rest := l[len(name):]; rest[0] == ' ' || rest[0] == ':' || rest[0] == '\t' {
				n, _ := number(rest[1:])
				return n, true
			}
		}
	}
	return 0, false
}

// stat is /proc/PID/stat, see proc_pid_stat(5).
type stat struct {
	comm    []byte // as the process called itself: any bytes
	state   byte
	parent  int
	faults  uint64 // minor and major
	ticks   uint64 // user and system
	threads int
	started uint64 // ticks since the machine's start
	pages   uint64 // resident
}

// parseStat reads the file. The name is in parentheses and may hold any of them,
// spaces and newlines: what follows the last is the rest.
func parseStat(b []byte) (s stat, ok bool) {
	open, close := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || close < open || close+2 >= len(b) {
		return s, false
	}
	s.comm = b[open+1 : close]
	state, b := word(b[close+1:])
	if len(state) != 1 {
		return s, false
	}
	s.state = state[0]
	var n, m uint64
	n, b = number(b) // ppid
	s.parent = int(min(n, 1<<31))
	b = skip(b, 5) // pgrp session tty tpgid flags
	n, b = number(b)
	b = skip(b, 1)
	m, b = number(b)
	s.faults = n + m
	b = skip(b, 1)
	n, b = number(b)
	m, b = number(b)
	s.ticks = n + m
	b = skip(b, 4) // cutime cstime priority nice
	n, b = number(b)
	s.threads = int(min(n, 1<<31))
	b = skip(b, 1) // itrealvalue
	s.started, b = number(b)
	b = skip(b, 1) // vsize
	if len(b) == 0 {
		return s, false // cut off
	}
	s.pages, _ = number(b)
	return s, true
}

// cpuTimes is a line of /proc/stat.
type cpuTimes struct{ user, nice, system, idle, iowait, irq, softirq, steal uint64 }

func parseCPU(b []byte) (t cpuTimes) {
	// Time of guests is in that of user and nice.
	for _, to := range []*uint64{&t.user, &t.nice, &t.system, &t.idle, &t.iowait, &t.irq, &t.softirq, &t.steal} {
		*to, b = number(b)
	}
	return t
}

// diskTimes is a line of /proc/diskstats; sectors are of 512 bytes whatever the
// device's are.
type diskTimes struct{ reads, readSectors, writes, writeSectors, busyMillis uint64 }

func parseDisk(b []byte) (name []byte, t diskTimes) {
	name, b = word(skip(b, 2))
	t.reads, b = number(b)
	t.readSectors, b = number(skip(b, 1))
	t.writes, b = number(skip(b, 1))
	t.writeSectors, b = number(skip(b, 1))
	t.busyMillis, _ = number(skip(b, 2))
	return name, t
}

// deviceCounts is a line of /proc/net/dev.
type deviceCounts struct{ receivedBytes, receivedPackets, sentBytes, sentPackets, errors, drops uint64 }

func parseDevice(b []byte) (name []byte, c deviceCounts, ok bool) {
	at := bytes.LastIndexByte(b, ':') // a name may hold one (an alias)
	if at < 0 {
		return nil, c, false
	}
	name, _ = word(b[:at])
	b = b[at+1:]
	var n uint64
	c.receivedBytes, b = number(b)
	c.receivedPackets, b = number(b)
	c.errors, b = number(b)
	c.drops, b = number(b)
	c.sentBytes, b = number(skip(b, 4))
	c.sentPackets, b = number(b)
	n, b = number(b)
	c.errors += n
	n, _ = number(b)
	c.drops += n
	return name, c, true
}

// parsePressure reads "some avg10=0.12 ..." and "full avg10=...".
func parsePressure(b []byte) (some, full float64) {
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		kind, rest := word(l)
		if at := bytes.IndexByte(rest, '='); at >= 0 {
			v, _ := decimal(rest[at+1:])
			switch string(kind) {
			case "some":
				some = v
			case "full":
				full = v
			}
		}
	}
	return some, full
}

// unescape undoes the octal escapes of mountinfo: space, tab, newline, backslash.
func unescape(b []byte) string {
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+3 < len(b) {
			v, octal := 0, true
			for _, c := range b[i+1 : i+4] {
				octal = octal && c >= '0' && c <= '7'
				v = v*8 + int(c-'0')
			}
			if octal && v < 256 {
				out = append(out, byte(v))
				i += 3
				continue
			}
		}
		out = append(out, b[i])
	}
	return string(out)
}

// rate is by how much a counter went up, a second. One that went back began anew
// or wrapped: what it did meanwhile is not known.
func rate(now, before uint64, seconds float64) float64 {
	if now < before || seconds <= 0 {
		return 0
	}
	return float64(now-before) / seconds
}
