package datapath

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"weft/wire/wirepb"
)

// ConditionTampered is reported while it is not long ago that somebody changed
// what is in force.
const ConditionTampered = "PolicyTampered"

// ConditionTrouble is reported while it is not long ago that something could not
// be judged as it should.
const ConditionTrouble = "PolicyTrouble"

// ConditionNotMetered is reported where connections should be metered and cannot.
const ConditionNotMetered = "FlowsNotMetered"

// ConditionForged is reported while it is not long ago that somebody called under
// a proof of who calls that is not good, and ConditionUnknown where the proof is
// of a host that this one has not been told of.
const (
	ConditionForged  = "CallerForged"
	ConditionUnknown = "CallerUnknown"
)

// remember is how long a repair or a trouble is reported.
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

// trouble is what went wrong, and when it was last seen to.
type trouble struct {
	counts map[string]uint64
	since  time.Time
	last   time.Time
}

// look takes over the counts, and notes and says where one has grown.
func (t *trouble) look(now map[string]uint64) (grown bool) {
	for what, n := range now {
		if n > t.counts[what] {
			t.last, grown = time.Now(), true
			if t.since.IsZero() {
				t.since = t.last
			}
		}
	}
	t.counts = now
	if !t.last.IsZero() && time.Since(t.last) > remember {
		t.since, t.last = time.Time{}, time.Time{}
	}
	return grown
}

func (t *trouble) String() string {
	var out []string
	for _, what := range slices.Sorted(maps.Keys(t.counts)) {
		out = append(out, fmt.Sprintf("%s (%d)", what, t.counts[what]))
	}
	return strings.Join(out, "; ")
}

// Conditions are what a person should know of this machine's policy. While that is
// being changed, which can take seconds, they are those of before: whoever asks has
// more to do than wait.
func (d *Datapath) Conditions() []*wirepb.Condition {
	if !d.mu.TryLock() {
		if before := d.said.Load(); before != nil {
			return *before
		}
		return nil
	}
	defer d.mu.Unlock()
	out := d.conditions()
	d.said.Store(&out)
	return out
}

// conditions needs the lock.
func (d *Datapath) conditions() []*wirepb.Condition {
	var out []*wirepb.Condition
	if !d.drift.last.IsZero() {
		out = append(out, &wirepb.Condition{Type: ConditionTampered, Status: "True", Message: d.drift.message, Since: d.drift.since.Unix()})
	}
	for _, c := range []struct {
		name string
		*trouble
	}{{ConditionTrouble, &d.trouble}, {ConditionForged, &d.forged}, {ConditionUnknown, &d.unknown}} {
		if !c.last.IsZero() {
			out = append(out, &wirepb.Condition{Type: c.name, Status: "True", Message: c.String(), Since: c.since.Unix()})
		}
	}
	if d.unmetered != "" && d.flow.GetMeter() {
		out = append(out, &wirepb.Condition{Type: ConditionNotMetered, Status: "True", Message: d.unmetered, Since: d.unmeteredSince.Unix()})
	}
	return out
}
