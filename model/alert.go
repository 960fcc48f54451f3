package model

import "time"

// Severity says how much a thing that is wrong matters.
type Severity string

// The severities.
const (
	// SeverityCritical is for what may be an attack, or leaves a host unseen.
	SeverityCritical Severity = "Critical"
	// SeverityWarning is for what does not work as it should.
	SeverityWarning Severity = "Warning"
	// SeverityInfo is for what is worth knowing and harmless as a rule.
	SeverityInfo Severity = "Info"
)

// Rank orders severities: the more severe, the higher; 0 is none of them.
func (s Severity) Rank() int {
	switch s {
	case SeverityCritical:
		return 3
	case SeverityWarning:
		return 2
	case SeverityInfo:
		return 1
	}
	return 0
}

// Alert is a condition of a host, listed beside those of all others. Alerts
// follow from what agents report and from their silence; nobody writes them, and
// one is over when its condition is. Its name is "HOST:TYPE"; of what is wrong with
// the controller itself, "controller:TYPE:WHAT", with no host.
//
// It carries the labels host.name, alert.type and alert.severity.
type Alert struct {
	TypeMeta
	Metadata Metadata  `json:"metadata"`
	Spec     AlertSpec `json:"spec"`
}

// AlertSpec says what is wrong.
type AlertSpec struct {
	// Host is the name of the host it is about; none where it is the controller.
	Host string `json:"host"`
	// Type is that of the condition: AgentSilent, PolicyTampered, ...
	Type string `json:"type"`
	// Severity is Critical, Warning or Info.
	Severity Severity `json:"severity"`
	// Message says what is wrong, and what to do.
	Message string `json:"message,omitempty"`
	// Since is when it began.
	Since time.Time `json:"since"`
	// LastSeen is when the host's agent was last heard.
	LastSeen *time.Time `json:"lastSeen,omitempty"`
}

// Validate always fails: alerts follow from what is, and are never written.
func (r *Alert) Validate() error {
	return FieldErrors{{Field: "kind", Message: "alerts follow from what agents report and cannot be written; set right what it is about"}}
}
