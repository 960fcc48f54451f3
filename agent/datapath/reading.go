package datapath

import (
	"context"
	"errors"
	"time"

	"weft/agent/connection"
	"weft/wire/wirepb"
)

// keepReading reads the connection table until ctx ends. While nothing begins it
// takes its time, for a table's size is what reading it costs, however empty it is:
// up to quietest times as long lies between two readings, unless Wake says that
// something has begun. Crowded cuts every pause short.
func (d *Datapath) keepReading(ctx context.Context) {
	rest, quiet := d.cfg.Every, 0
	for {
		if !wait(ctx, rest, d.crowded) {
			return
		}
		// What has just begun is given the usual time, so that its first record says
		// more of it than how it began.
		if quiet > 0 && (!wait(ctx, time.Duration(quiet-1)*d.cfg.Every, d.woken) || !wait(ctx, d.cfg.Every, d.crowded)) {
			return
		}
		drain(d.crowded)
		drain(d.woken)
		began := time.Now()
		begun, err := d.collect()
		rest = d.pause(time.Since(began))
		if quiet = min(quiet+1, quietest-1); begun || err != nil {
			quiet = 0
		}
		if err != nil {
			d.deps.Log.Warn("read the connection table", "error", err)
		}
		if err := d.renew(ctx); err != nil {
			d.deps.Log.Warn("renew the secrets for telling who calls", "error", err)
		}
	}
}

const quietest = 4

// wait returns after a time, or sooner when woken; false when ctx has ended.
func wait(ctx context.Context, long time.Duration, woken <-chan struct{}) bool {
	t := time.NewTimer(long)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-woken:
	case <-t.C:
	}
	return true
}

// Wake says that a connection has begun.
func (d *Datapath) Wake() { tell(d.woken) }

// Crowded says that so many have begun that the table must be read.
func (d *Datapath) Crowded() {
	tell(d.crowded)
	tell(d.woken)
}

func tell(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func drain(c <-chan struct{}) {
	select {
	case <-c:
	default:
	}
}

// readingShare is how many times as long as a reading took it is to the next one,
// and maxPause how long at most: a long table must not keep a CPU busy.
const (
	readingShare = 20
	maxPause     = 10 * time.Second
)

// countEvery is how many times as long as between two readings it is until the next
// time that the counts of rules are read: their maps are large, however few rules
// there are.
const countEvery = 10

// pause is how long to wait after a reading. A table that fills is read as often as
// can be, for each reading makes room.
func (d *Datapath) pause(took time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f, ok := d.driver.(Filler); ok && f.Filling() {
		return d.cfg.Every
	}
	return max(d.cfg.Every, min(readingShare*took, maxPause))
}

// Report is what has happened since the last one; nil where nothing has, or the
// connection table is being read: whoever asks has more to do than wait. Give it
// back with Restore where it could not be sent.
func (d *Datapath) Report() *wirepb.PolicyReport {
	if !d.reading.TryLock() {
		return nil
	}
	defer d.reading.Unlock()
	return d.talks.take()
}

// Restore takes a report back that nobody has received.
func (d *Datapath) Restore(r *wirepb.PolicyReport) {
	d.reading.Lock()
	defer d.reading.Unlock()
	d.talks.restore(r)
}

// view is what a reading of the table needs to know of the state.
type view struct {
	driver Driver
	staged map[string]*Ruleset // by the subjects of policy; nil where nothing is staged
	judged map[string]time.Time
	exempt map[string]bool // from metering
	meter  Meter           // nil for none
}

func (d *Datapath) view() *view {
	if d.driver == nil || d.state == nil {
		return nil
	}
	v := &view{driver: d.driver, judged: d.judged, staged: map[string]*Ruleset{}, exempt: map[string]bool{}}
	for _, x := range d.identity.GetSubjects() {
		v.staged[x.Workload] = d.rulesets.of(x.Staged)
	}
	if d.flow.GetMeter() && d.meters {
		v.meter = d.deps.Meter
	}
	for _, id := range d.flow.GetExempt() {
		v.exempt[id] = true
	}
	return v
}

// collect reads the driver's table and counts, and says whether a connection has
// begun since the last time. Policy may change meanwhile: a long table keeps no
// change waiting.
func (d *Datapath) collect() (begun bool, err error) {
	d.mu.Lock()
	v := d.view()
	if v == nil {
		d.mu.Unlock()
		return false, nil
	}
	d.reading.Lock()
	d.mu.Unlock()
	if begun, err = d.readTable(v); err != nil {
		return false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.driver == nil {
		return false, nil
	}
	troubles, err := d.driver.Troubles()
	if err != nil {
		return false, err
	}
	d.trouble.look(troubles)
	if w, knows := d.driver.(Witness); knows {
		forged, unknown, err := w.Disbelieved()
		if err != nil {
			return false, err
		}
		if before := d.forged.last; d.forged.look(forged) && before.IsZero() {
			d.deps.Log.Error("somebody calls under a proof of who calls that is not good", "found", d.forged.String())
		}
		d.unknown.look(unknown)
	}
	return begun, nil
}

// readTable shows the table to who follows it. The lock for reading is held, and
// let go of.
func (d *Datapath) readTable(v *view) (begun bool, err error) {
	defer d.reading.Unlock()
	before := d.read
	d.read = time.Now()
	d.talks.begin(v.driver.Name())
	if v.meter != nil {
		v.meter.Begin()
	}
	err = v.driver.Connections(func(c *connection.Line) bool {
		begun = begun || c.First.After(before)
		// What was over before policy was about the workload is none of its business.
		if staged, judged := v.staged[c.Workload]; judged && !c.Last.Before(v.judged[c.Workload]) {
			d.talks.add(c, staged)
		}
		if v.meter != nil && !v.exempt[c.Workload] {
			v.meter.See(c)
		}
		return true
	})
	if v.meter != nil {
		err = errors.Join(err, v.meter.End(err == nil))
	}
	if err != nil {
		return begun, err
	}
	if time.Since(d.counted) >= countEvery*d.cfg.Every {
		d.counted = time.Now()
		counts, err := v.driver.Counts()
		if err != nil {
			return begun, err
		}
		d.talks.counts(counts)
	}
	if w, knows := v.driver.(Dropper); knows {
		drops, err := w.Drops()
		if err != nil {
			return begun, err
		}
		d.talks.dropped(drops)
	}
	return begun, v.driver.Forget()
}
