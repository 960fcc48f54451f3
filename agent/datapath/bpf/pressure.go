package bpf

import (
	"time"

	"golang.org/x/sys/unix"
)

// How long a line stays after its last packet. The kernel's own connection
// tracking has the same ones for UDP and the like; a TCP connection stays until
// its socket is gone, or for a day of silence.
const (
	keepEnded      = 10 * time.Second
	keepOpening    = 2 * time.Minute
	keepTCP        = 24 * time.Hour
	keepUnanswered = 30 * time.Second
	keepAnswered   = 3 * time.Minute
)

// pressure is how full the connection table is. What has ended, or was never
// answered, stays for a shorter time in one that fills.
type pressure int

const (
	roomy   pressure = iota
	filling          // half of it is taken
	full             // three quarters
)

func pressureOf(lines, room uint32) pressure {
	switch {
	case lines > room/4*3:
		return full
	case lines > room/2:
		return filling
	}
	return roomy
}

// of is how long a line stays that could go early.
func (p pressure) of(keep time.Duration) time.Duration {
	switch p {
	case filling:
		return keep / 4
	case full:
		return keep / 20
	}
	return keep
}

// ended says whether a line has had its time.
func (p pressure) ended(k *policyConnKey, c *policyConn, idle time.Duration) bool {
	if k.Protocol == unix.IPPROTO_TCP {
		both := uint32(connFinSent | connFinReceived)
		switch {
		case c.Flags&(connClosed|connReset) != 0 || c.Flags&both == both:
			return idle > p.of(keepEnded)
		case c.Flags&connEstablished == 0:
			return idle > p.of(keepOpening)
		}
		return idle > keepTCP
	}
	if c.Flags&connAnswered == 0 {
		return idle > p.of(keepUnanswered)
	}
	return idle > keepAnswered
}

// Filling says that the table was half full or more when it was last read.
func (d *Driver) Filling() bool {
	d.visiting.Lock()
	defer d.visiting.Unlock()
	return d.lines.pressure != roomy
}
