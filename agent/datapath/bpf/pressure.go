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

// keep is how long lines stay after their last packet.
type keep struct{ ended, opening, tcp, unanswered, answered time.Duration }

// keeps is that under a pressure: what could go early does.
func (p pressure) keeps() keep {
	share := time.Duration(1)
	switch p {
	case filling:
		share = 4
	case full:
		share = 20
	}
	return keep{ended: keepEnded / share, opening: keepOpening / share, tcp: keepTCP, unanswered: keepUnanswered / share, answered: keepAnswered}
}

// over says whether a line has had its time, as ended does of policy.c.
func (t *keep) over(k *policyConnKey, c *policyConn, idle time.Duration) bool {
	if k.Protocol == unix.IPPROTO_TCP {
		both := uint32(connFinSent | connFinReceived)
		switch {
		case c.Flags&(connClosed|connReset) != 0 || c.Flags&both == both:
			return idle > t.ended
		case c.Flags&connEstablished == 0:
			return idle > t.opening
		}
		return idle > t.tcp
	}
	if c.Flags&connAnswered == 0 {
		return idle > t.unanswered
	}
	return idle > t.answered
}

// Filling says that the table was half full or more when it was last read.
func (d *Driver) Filling() bool {
	d.visiting.Lock()
	defer d.visiting.Unlock()
	return d.pressure != roomy
}
