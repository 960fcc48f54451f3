package observe

import (
	"time"

	"weft/model"
)

// ConditionExport is of a receiver of flows that has not taken them for a while. It
// is the controller's own: no host has it.
const ConditionExport = "ExportStalled"

// ExportStalled says what is wrong with an exporter of flows; an empty message is
// that nothing is any more.
func (o *Observer) ExportStalled(exporter string, since time.Time, message string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if message == "" {
		delete(o.stalled, exporter)
	} else {
		o.stalled[exporter] = model.Condition{Type: ConditionExport, Status: "True", Severity: severity(ConditionExport), Since: since.UTC().Truncate(time.Second), Message: message}
	}
	o.touch(false)
}

// ownAlerts are those of the controller; the lock is held.
func (o *Observer) ownAlerts() (out []*model.Alert) {
	for exporter, c := range o.stalled {
		a := model.MustKind(model.KindAlert).New().(*model.Alert)
		since := c.Since
		a.Metadata = model.Metadata{Name: "controller:" + c.Type + ":" + exporter, CreationTimestamp: &since, Labels: map[string]string{"alert.type": c.Type, "alert.severity": string(c.Severity)}}
		a.Spec = model.AlertSpec{Type: c.Type, Severity: c.Severity, Message: c.Message, Since: c.Since}
		out = append(out, a)
	}
	return out
}
