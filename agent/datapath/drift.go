package datapath

import (
	"strings"
	"time"

	"weft/wire/wirepb"
)

// ConditionTampered is reported while it is not long ago that somebody changed
// what is in force.
const ConditionTampered = "PolicyTampered"

// remember is how long a repair is reported.
const remember = 10 * time.Minute

// drift is what was found changed, and when last.
type drift struct {
	message string
	since   time.Time
	last    time.Time
}

// verify compares the kernel with what should be there and repairs it.
func (d *Datapath) verify(deep bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.driver == nil || d.state == nil {
		return
	}
	found, err := d.driver.Verify(deep)
	if len(found) > 0 {
		d.drift.last, d.drift.message = time.Now(), strings.Join(found[:min(len(found), 10)], "; ")+"; it has been put back"
		if d.drift.since.IsZero() {
			d.drift.since = d.drift.last
		}
	}
	switch {
	case err != nil:
		d.drift.message += ", but not all of it: " + err.Error()
		d.deps.Log.Error("policy was changed behind our back", "found", found, "error", err)
	case len(found) > 0:
		d.deps.Log.Error("policy was changed behind our back and has been put back", "found", found)
	}
	if !d.drift.last.IsZero() && time.Since(d.drift.last) > remember {
		d.drift = drift{}
	}
}

// Conditions are what a person should know of this machine's policy.
func (d *Datapath) Conditions() []*wirepb.Condition {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.drift.last.IsZero() {
		return nil
	}
	return []*wirepb.Condition{{Type: ConditionTampered, Status: "True", Message: d.drift.message, Since: d.drift.since.Unix()}}
}
