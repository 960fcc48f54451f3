package model

import (
	"fmt"
	"strings"
)

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
	// Mode says what becomes of the members' packets that no policy's rule
	// decides: Observe allows them, Selective denies them in a direction in
	// which a policy allows something, Enforce denies them. A workload takes the
	// strictest mode of all groups it is in, Observe where none gives one.
	// Conversations are recorded of members of any group with a mode.
	Mode Mode `json:"mode,omitempty"`
	// Flows says whether the members' connections are metered: On, which is what
	// holds where nothing is said, Unnamed, which looks at nothing of what they carry
	// (no name of a server, no path), or Off. What is the least in any group of a
	// workload counts. What a policy asks to record of a group with a mode is recorded
	// all the same.
	Flows FlowMode `json:"flows,omitempty"`
}

// FlowMode says whether connections are metered.
type FlowMode string

// The modes of metering.
const (
	FlowsOn FlowMode = "On"
	// FlowsUnnamed meters, and looks at nothing of what connections carry.
	FlowsUnnamed FlowMode = "Unnamed"
	FlowsOff     FlowMode = "Off"
)

// FlowModes lists them.
var FlowModes = []FlowMode{FlowsOn, FlowsUnnamed, FlowsOff}

// GroupStatus is computed, never written by a person.
type GroupStatus struct {
	// Members is how many workloads belong now.
	Members int `json:"members"`
	// Hosts is how many hosts they are on.
	Hosts int `json:"hosts"`
}

// GroupPath returns the groups on the way from one to another through nesting,
// both included, or nil where there is none.
func GroupPath(groups map[string]*Group, from, to string) []string {
	return groupPath(groups, from, to, map[string]bool{})
}

func groupPath(groups map[string]*Group, from, to string, been map[string]bool) []string {
	if from == to {
		return []string{from}
	}
	g := groups[from]
	if g == nil || been[from] {
		return nil
	}
	been[from] = true
	for _, next := range g.Spec.Groups {
		if path := groupPath(groups, next, to, been); path != nil {
			return append([]string{from}, path...)
		}
	}
	return nil
}

// CircleFault says that a group contains itself: path leads from its i-th
// nested group back to it.
func CircleFault(group string, i int, path []string) FieldError {
	return FieldError{Field: fmt.Sprintf("spec.groups[%d]", i), Message: fmt.Sprintf("makes a circle: %s -> %s; take one of them out", group, strings.Join(path, " -> "))}
}
