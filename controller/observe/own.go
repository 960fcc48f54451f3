package observe

import (
	"time"

	"weft/model"
)

// ConditionExport is of a receiver of flows that has not taken them for a while. It
// is the controller's own: no host has it.
const ConditionExport = "ExportStalled"

// ConditionGeoIP is of a file of places that cannot be read any more.
const ConditionGeoIP = "GeoIPStale"

// own is a condition of the controller's: its type, and what has it.
type own struct{ condition, of string }

// ExportStalled says what is wrong with an exporter of flows; an empty message is
// that nothing is any more.
func (o *Observer) ExportStalled(exporter string, since time.Time, message string) {
	o.say(own{ConditionExport, exporter}, since, message)
}

// GeoIPStale says the same of a file of places.
func (o *Observer) GeoIPStale(file string, since time.Time, message string) {
	o.say(own{ConditionGeoIP, file}, since, message)
}

func (o *Observer) say(x own, since time.Time, message string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if message == "" {
		delete(o.own, x)
	} else {
		o.own[x] = model.Condition{Type: x.condition, Status: "True", Severity: severity(x.condition), Since: since.UTC().Truncate(time.Second), Message: message}
	}
	o.touch(false)
}

// ownAlerts are those of the controller; the lock is held.
func (o *Observer) ownAlerts() (out []*model.Alert) {
	for x, c := range o.own {
		a := model.MustKind(model.KindAlert).New().(*model.Alert)
		since := c.Since
		a.Metadata = model.Metadata{Name: "controller:" + c.Type + ":" + x.of, CreationTimestamp: &since, Labels: map[string]string{"alert.type": c.Type, "alert.severity": string(c.Severity)}}
		a.Spec = model.AlertSpec{Type: c.Type, Severity: c.Severity, Message: c.Message, Since: c.Since}
		out = append(out, a)
	}
	return out
}
