package bpf

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
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

// Filling says that the table was half full or more after it was last read.
func (d *Driver) Filling() bool {
	d.visiting.Lock()
	defer d.visiting.Unlock()
	return pressureOf(d.held, d.objects.Conns.MaxEntries()) != roomy
}

// alarmShare is which part of the table may begin before somebody has to look.
const alarmShare = 4

// lookAt says how full the table is by now, before it is read, and has programs call
// when too many more have come than those.
func (d *Driver) lookAt(came uint64) (pressure, error) {
	room := d.objects.Conns.MaxEntries()
	if err := d.objects.AlarmAt.Put(uint32(0), came+uint64(room/alarmShare)); err != nil {
		return roomy, fmt.Errorf("say when the connection table must be read: %w", err)
	}
	begun := came - d.lookedAt
	d.lookedAt = came
	return pressureOf(uint32(min(uint64(d.held)+begun, uint64(room))), room), nil
}

// watch calls crowded each time that so many connections have begun since the last
// visit that the next must not wait.
type watch struct {
	alarms *ringbuf.Reader
	done   chan struct{}
}

func newWatch(alarms *ebpf.Map, crowded func()) (*watch, error) {
	r, err := ringbuf.NewReader(alarms)
	if err != nil {
		return nil, fmt.Errorf("wait for the connection table to fill: %w", err)
	}
	w := &watch{alarms: r, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		followRing(w.alarms, 0, 0, func([]byte) { crowded() })
	}()
	return w, nil
}

func (w *watch) close() {
	w.alarms.Close()
	<-w.done
}
