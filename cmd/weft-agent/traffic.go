package main

import (
	"sync"
	"time"

	"weft/agent/connection"
	"weft/agent/datapath"
	"weft/agent/monitor"
	"weft/agent/recording"
)

// askedWithin is how long after the last question sums are kept up.
const askedWithin = 2 * time.Minute

// traffic adds up what each process sends and receives, while somebody asks, and
// shows every line to the meter of flows and to what is captured.
type traffic struct {
	datapath.Meter
	captures *recording.Recordings

	mu     sync.Mutex
	asked  time.Time
	on     bool                       // this reading is added up
	before map[connection.Key]counted // of the reading before; nil where there was none
	now    map[connection.Key]counted // of this one
	sums   map[int]monitor.Traffic    // bytes since the last answer
	since  time.Time                  // they are from
	read   time.Time                  // the last reading ended
	last   map[int]monitor.Traffic    // answer
}

type counted struct {
	began          uint64
	sent, received uint64
}

// Begin starts a reading of the connection table.
func (t *traffic) Begin() {
	t.mu.Lock()
	t.on = time.Since(t.asked) < askedWithin
	if !t.on {
		t.before, t.now, t.sums, t.last, t.read = nil, nil, nil, nil, time.Time{}
	} else {
		t.now = make(map[connection.Key]counted, len(t.before))
	}
	t.mu.Unlock()
	t.captures.Begin()
	t.Meter.Begin()
}

// See takes a line of the table.
func (t *traffic) See(l *connection.Line) {
	t.mu.Lock()
	if t.on && !l.Refused {
		c := counted{l.Began, l.Sent.Bytes, l.Received.Bytes}
		if pid := int(l.Process.PID); pid != 0 && t.before != nil {
			was := t.before[l.Key]
			if was.began != c.began || was.sent > c.sent || was.received > c.received {
				was = counted{} // the same ports for another connection
			}
			if t.sums == nil {
				t.sums = map[int]monitor.Traffic{}
			}
			sum := t.sums[pid]
			sum.Sent += float64(c.sent - was.sent)
			sum.Received += float64(c.received - was.received)
			t.sums[pid] = sum
		}
		t.now[l.Key] = c
	}
	t.mu.Unlock()
	t.captures.See(l)
	t.Meter.See(l)
}

// End ends the reading.
func (t *traffic) End(whole bool) error {
	t.mu.Lock()
	if t.on {
		if t.read.IsZero() {
			t.since = time.Now()
		}
		t.before, t.now, t.read = t.now, nil, time.Now()
	}
	t.mu.Unlock()
	if whole {
		t.captures.End()
	}
	return t.Meter.End(whole)
}

// rates are the bytes a second of each process between the last readings of the
// table; ok is false while there are none.
func (t *traffic) rates() (byProcess map[int]monitor.Traffic, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked = time.Now()
	if t.read.IsZero() || time.Since(t.read) > 10*time.Second {
		return nil, false
	}
	if seconds := t.read.Sub(t.since).Seconds(); seconds > 0 {
		for pid, sum := range t.sums {
			t.sums[pid] = monitor.Traffic{Sent: sum.Sent / seconds, Received: sum.Received / seconds}
		}
		t.last, t.sums, t.since = t.sums, nil, t.read
	}
	return t.last, true
}
