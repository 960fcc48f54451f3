package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Selector is a Kubernetes label selector. It reads and writes either form: a
// string ("app=web,env in (prod,stage),!legacy") or an object with matchLabels
// and matchExpressions. Every requirement must hold. A selector without
// requirements matches everything and must be written on purpose as "*".
//
// Grammar: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
type Selector struct {
	Requirements []Requirement
}

// Operator relates a key to its values.
type Operator string

// The operators of a requirement.
const (
	OpIn           Operator = "In"
	OpNotIn        Operator = "NotIn"
	OpExists       Operator = "Exists"
	OpDoesNotExist Operator = "DoesNotExist"
)

// Requirement is one condition on one label. Values are sorted and distinct.
type Requirement struct {
	Key      string   `json:"key"`
	Operator Operator `json:"operator"`
	Values   []string `json:"values,omitempty"`
}

// Matches says whether labels satisfy the requirement. As in Kubernetes, NotIn
// also matches where the key is absent.
func (r Requirement) Matches(labels map[string]string) bool {
	v, has := labels[r.Key]
	switch r.Operator {
	case OpIn:
		return has && slices.Contains(r.Values, v)
	case OpNotIn:
		return !has || !slices.Contains(r.Values, v)
	case OpExists:
		return has
	case OpDoesNotExist:
		return !has
	}
	return false
}

func (r Requirement) String() string {
	switch r.Operator {
	case OpIn:
		if len(r.Values) == 1 {
			return r.Key + "=" + r.Values[0]
		}
		return r.Key + " in (" + strings.Join(r.Values, ",") + ")"
	case OpNotIn:
		if len(r.Values) == 1 {
			return r.Key + "!=" + r.Values[0]
		}
		return r.Key + " notin (" + strings.Join(r.Values, ",") + ")"
	case OpDoesNotExist:
		return "!" + r.Key
	}
	return r.Key
}

// Matches says whether labels satisfy every requirement.
func (s Selector) Matches(labels map[string]string) bool {
	for _, r := range s.Requirements {
		if !r.Matches(labels) {
			return false
		}
	}
	return true
}

// String prints the string form; ParseSelector reads it back.
func (s Selector) String() string {
	if len(s.Requirements) == 0 {
		return "*"
	}
	parts := make([]string, len(s.Requirements))
	for i, r := range s.Requirements {
		parts[i] = r.String()
	}
	return strings.Join(parts, ",")
}

// ParseSelector reads the string form. Errors name the place and the remedy.
func ParseSelector(text string) (Selector, error) {
	p := selectorParser{text: text}
	s, err := p.parse()
	if err != nil {
		return Selector{}, fmt.Errorf("selector %q: %w", text, err)
	}
	return s, nil
}

// MarshalJSON writes the string form.
func (s Selector) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// UnmarshalJSON reads either form.
func (s *Selector) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err == nil {
		parsed, err := ParseSelector(text)
		if err != nil {
			return err
		}
		*s = parsed
		return nil
	}
	var form struct {
		MatchLabels      map[string]string `json:"matchLabels"`
		MatchExpressions []Requirement     `json:"matchExpressions"`
	}
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&form); err != nil {
		if field, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); unknown {
			return fmt.Errorf("has no field %s; want a string like \"app=web\", or matchLabels and matchExpressions", field)
		}
		return errors.New(`want a string like "app=web", or matchLabels and matchExpressions`)
	}
	if len(form.MatchLabels)+len(form.MatchExpressions) == 0 {
		return errors.New(`is empty; write "*" to match everything`)
	}
	parsed := Selector{Requirements: slices.Clone(form.MatchExpressions)}
	for k, v := range form.MatchLabels {
		parsed.Requirements = append(parsed.Requirements, Requirement{Key: k, Operator: OpIn, Values: []string{v}})
	}
	for i := range parsed.Requirements {
		r := &parsed.Requirements[i]
		if err := r.check(); err != nil {
			return err
		}
		r.Values = sortedSet(r.Values)
	}
	parsed.sort()
	*s = parsed
	return nil
}

func (s *Selector) sort() {
	slices.SortStableFunc(s.Requirements, func(a, b Requirement) int {
		if c := strings.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		return strings.Compare(a.String(), b.String())
	})
}

func sortedSet(v []string) []string {
	v = slices.Clone(v)
	slices.Sort(v)
	return slices.Compact(v)
}

func (r Requirement) check() error {
	if err := CheckLabelKey(r.Key); err != nil {
		return err
	}
	switch r.Operator {
	case OpIn, OpNotIn:
		if len(r.Values) == 0 {
			return fmt.Errorf("key %q: operator %s needs at least one value", r.Key, r.Operator)
		}
		for _, v := range r.Values {
			if err := CheckLabelValue(v); err != nil {
				return fmt.Errorf("key %q: %w", r.Key, err)
			}
		}
	case OpExists, OpDoesNotExist:
		if len(r.Values) != 0 {
			return fmt.Errorf("key %q: operator %s takes no values", r.Key, r.Operator)
		}
	default:
		return fmt.Errorf("key %q: operator %q is none of In, NotIn, Exists, DoesNotExist", r.Key, r.Operator)
	}
	return nil
}
