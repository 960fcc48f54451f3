package model

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// FlowQuery is a saved question about flows: `weft flows --query NAME` asks it.
type FlowQuery struct {
	TypeMeta
	Metadata Metadata      `json:"metadata"`
	Spec     FlowQuerySpec `json:"spec,omitzero"`
}

// FlowQuerySpec says what is asked.
type FlowQuerySpec struct {
	// By are the fields or labels that the answer's rows differ in, as app, port,
	// client.team, or minute, hour, day; see `weft flows --help`.
	By []string `json:"by"`
	// Where narrows to flows whose fields fulfil it, in the words of selectors:
	// "port=5432,client.app in (web,api)".
	Where string `json:"where,omitempty"`
	// Selector narrows to flows of which an end has labels that fulfil it.
	Selector string `json:"selector,omitempty"`
	// Since is how long ago the time begins, as a Go duration; 1h unless given.
	Since string `json:"since,omitempty"`
	// Order is what rows are sorted by: bytes, packets, connections or drops, the most
	// first; or time, the first first. Unless given it is time where By has minute, hour or
	// day, else bytes.
	Order string `json:"order,omitempty"`
	// Top is how many rows are returned; 20 unless given.
	Top int `json:"top,omitempty"`
}

// FlowOrders are what sums of flows can be sorted by.
var FlowOrders = []string{"bytes", "connections", "drops", "packets", "time"}

// Limits on saved questions.
const (
	MaxFlowQueryFields = 16
	MaxFlowQueryTop    = 10_000
)

// Validate checks the question.
func (r *FlowQuery) Validate() error {
	var e FieldErrors
	r.Metadata.check(&e)
	if n := len(r.Spec.By); n == 0 || n > MaxFlowQueryFields {
		e.add("spec.by", fmt.Errorf("give 1 to %d fields or labels, as [app, port]", MaxFlowQueryFields))
	}
	for i, f := range r.Spec.By {
		if f == "" || strings.ContainsAny(f, ", ") {
			e.add(fmt.Sprintf("spec.by[%d]", i), fmt.Errorf("%q is neither a field nor a label", f))
		}
	}
	for field, text := range map[string]string{"spec.where": r.Spec.Where, "spec.selector": r.Spec.Selector} {
		if text == "" {
			continue
		}
		if _, err := ParseSelector(text); err != nil {
			e.add(field, err)
		}
	}
	if d, err := time.ParseDuration(r.Spec.Since); r.Spec.Since != "" && (err != nil || d <= 0) {
		e.add("spec.since", fmt.Errorf("%q is no time; write it like 24h", r.Spec.Since))
	}
	if r.Spec.Order != "" && !slices.Contains(FlowOrders, r.Spec.Order) {
		e.add("spec.order", fmt.Errorf("%q is none of %s", r.Spec.Order, strings.Join(FlowOrders, ", ")))
	}
	if r.Spec.Top < 0 || r.Spec.Top > MaxFlowQueryTop {
		e.add("spec.top", fmt.Errorf("%d is outside 1 to %d", r.Spec.Top, MaxFlowQueryTop))
	}
	return e.OrNil()
}
