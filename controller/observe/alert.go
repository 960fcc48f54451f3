package observe

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"weft/model"
)

// ConditionSilent is set where the agent of a host that is not revoked has no
// session.
const ConditionSilent = "AgentSilent"

// returnWithin is how long agents are waited for after the controller's start, and
// after a host has joined: they try again every half minute at the latest.
const returnWithin = 45 * time.Second

// severities of the conditions that are no mere warning.
var severities = map[string]model.Severity{
	ConditionSilent:  model.SeverityCritical,
	"PolicyTampered": model.SeverityCritical,
	"CallerForged":   model.SeverityCritical,
	"CallerUnknown":  model.SeverityInfo,
}

func severity(condition string) model.Severity {
	return cmp.Or(severities[condition], model.SeverityWarning)
}

// conditions are what is wrong with a host; the lock is held.
func (o *Observer) conditions(h *model.Host, seen *host) []model.Condition {
	if h.Spec.Revoked {
		return nil // nobody waits for it
	}
	var out []model.Condition
	if c, silent := o.silence(h, seen); silent {
		out = append(out, c)
	}
	if seen == nil {
		return out
	}
	for _, c := range seen.facts.GetConditions() {
		out = append(out, model.Condition{Type: c.Type, Status: c.Status, Message: c.Message, Severity: cmp.Or(severities[c.Type], model.Severity(c.Severity), model.SeverityWarning), Since: time.Unix(c.Since, 0).UTC()})
	}
	if skewed(seen.peer.Skew) {
		word := "ahead of"
		if seen.peer.Skew < 0 {
			word = "behind"
		}
		out = append(out, model.Condition{Type: ConditionClockSkew, Status: "True", Severity: severity(ConditionClockSkew), Since: seen.skewSince.UTC().Truncate(time.Second),
			Message: fmt.Sprintf("the host's clock is %s %s the controller's; set it, or run an NTP client there", seen.peer.Skew.Abs().Round(100*time.Millisecond), word)})
	}
	return out
}

// silence says whether an agent that should be heard is not.
func (o *Observer) silence(h *model.Host, seen *host) (c model.Condition, silent bool) {
	c = model.Condition{Type: ConditionSilent, Status: "True", Severity: severity(ConditionSilent)}
	now := o.now()
	switch {
	case seen != nil && seen.online:
		return c, false
	case seen == nil || seen.lastSeen.IsZero():
		if at := h.Metadata.CreationTimestamp; at != nil {
			c.Since = at.UTC()
		} else {
			c.Since = o.began.UTC()
		}
		if now.Sub(c.Since) < returnWithin || now.Sub(o.began) < returnWithin {
			return c, false
		}
		c.Message = "the agent has not been heard since the host joined; on the machine: weft-agent status, journalctl -u weft-agent"
		return c, true
	}
	if c.Since = seen.gone.UTC().Truncate(time.Second); seen.gone.IsZero() { // before this controller began
		c.Since = seen.lastSeen.UTC().Truncate(time.Second)
		if now.Sub(o.began) < returnWithin {
			return c, false
		}
	}
	c.Message = fmt.Sprintf("the agent has no session and was last heard at %s; what it was told last holds on in the machine's kernel while that runs, but nobody sees whether it does; on the machine: weft-agent status, journalctl -u weft-agent",
		seen.lastSeen.UTC().Format(time.RFC3339))
	return c, true
}

// Silent returns the hosts whose agent should be heard and is not, by name.
func (o *Observer) Silent() map[string]model.Condition {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := map[string]model.Condition{}
	for _, h := range o.intent.Hosts {
		if h.Spec.Revoked {
			continue
		}
		if c, silent := o.silence(h, o.hosts[h.Metadata.UID]); silent {
			out[h.Metadata.Name] = c
		}
	}
	return out
}

// Alerts returns the conditions of all hosts, and the controller's own, by name.
func (o *Observer) Alerts() []*model.Alert {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := o.ownAlerts()
	for _, h := range o.intent.Hosts {
		seen := o.hosts[h.Metadata.UID]
		taken := map[string]bool{}
		for _, c := range o.conditions(h, seen) {
			name := h.Metadata.Name + ":" + c.Type
			if taken[name] { // an agent may say anything
				continue
			}
			taken[name] = true
			a := model.MustKind(model.KindAlert).New().(*model.Alert)
			since := c.Since
			a.Metadata = model.Metadata{Name: name, CreationTimestamp: &since,
				Labels: map[string]string{LabelHost: h.Metadata.Name, "alert.type": c.Type, "alert.severity": string(c.Severity)}}
			a.Spec = model.AlertSpec{Host: h.Metadata.Name, Type: c.Type, Severity: c.Severity, Message: c.Message, Since: c.Since}
			if seen != nil {
				a.Spec.LastSeen = stamp(seen.lastSeen)
			}
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b *model.Alert) int { return cmp.Compare(a.Metadata.Name, b.Metadata.Name) })
	return out
}
