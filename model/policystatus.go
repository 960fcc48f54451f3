package model

// PolicyState sums up a policy.
type PolicyState string

// The states of a policy.
const (
	PolicyDraft   PolicyState = "Draft"   // evaluated on request only
	PolicyStaged  PolicyState = "Staged"  // every host with a subject reports what it would do
	PolicyActive  PolicyState = "Active"  // every host with a subject enforces it
	PolicyPending PolicyState = "Pending" // not applied everywhere yet, or it selects nothing
	PolicyFailed  PolicyState = "Failed"  // a host refused it; see hosts
)

// PolicyStatus is computed from what the hosts report.
type PolicyStatus struct {
	// State is Draft, Staged, Active, Pending or Failed.
	State PolicyState `json:"state,omitempty"`
	// Message says why, where the state is Pending or Failed.
	Message string `json:"message,omitempty"`
	// Workloads is how many the subject's selector matches now.
	Workloads int `json:"workloads"`
	// Targeted is how many hosts they are on.
	Targeted int `json:"targeted"`
	// Applied is how many of the hosts work by the policy as it is now.
	Applied int `json:"applied"`
	// Failed is how many of the hosts could not apply it.
	Failed int `json:"failed"`
	// Hosts are those that have not applied it, and why; 100 at most.
	Hosts []PolicyHost `json:"hosts,omitempty"`
	// Rules are the rules with what they have decided so far.
	Rules []PolicyRuleStatus `json:"rules,omitempty"`
}

// PolicyHost is one host that does not work by the policy.
type PolicyHost struct {
	Host    string `json:"host"`
	State   string `json:"state"` // Pending | Error | Offline
	Message string `json:"message,omitempty"`
}

// PolicyRuleStatus counts what one rule of an enforced policy has decided.
type PolicyRuleStatus struct {
	// Name is the rule's, or "#INDEX" where it has none.
	Name string `json:"name"`
	// Direction is ingress or egress.
	Direction string `json:"direction"`
	// ID stays as long as the policy's name, the direction and the rule's name do.
	ID string `json:"id"`
	// Connections are those that the rule decided.
	Connections uint64 `json:"connections"`
	// Packets belong to them, in both directions; of Deny and Reject those turned down.
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}
