package model

// Group is a saved search over workloads. Membership is live.
type Group struct {
	TypeMeta
	Metadata Metadata    `json:"metadata"`
	Spec     GroupSpec   `json:"spec"`
	Status   GroupStatus `json:"status,omitzero"`
}

// GroupSpec says who belongs: every workload the selector matches, and every
// member of the nested groups. At least one of the two must be given.
type GroupSpec struct {
	// Selector takes every workload whose labels it matches.
	Selector *Selector `json:"selector,omitempty"`
	// Groups are the names of groups whose members belong too.
	Groups []string `json:"groups,omitempty"`
}

// GroupStatus is computed, never written by a person.
type GroupStatus struct {
	// Members is how many workloads belong now.
	Members int `json:"members"`
	// Hosts is how many hosts they are on.
	Hosts int `json:"hosts"`
}
