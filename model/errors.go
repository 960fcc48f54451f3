package model

import "strings"

// FieldError says what is wrong with one field and what to do about it.
type FieldError struct {
	// Field is a path such as "spec.from.selector" or "spec.groups[2]".
	Field   string `json:"field" doc:"Where: a path such as spec.from.selector; empty for the whole."`
	Message string `json:"message" doc:"What is wrong, and the remedy."`
}

func (e FieldError) Error() string {
	if e.Field == "" {
		return e.Message
	}
	return e.Field + ": " + e.Message
}

// FieldErrors is every fault found in one resource.
type FieldErrors []FieldError

func (e FieldErrors) Error() string {
	parts := make([]string, len(e))
	for i, f := range e {
		parts[i] = f.Error()
	}
	return strings.Join(parts, "; ")
}

// OrNil returns nil where there is no fault, so that it can be returned as error.
func (e FieldErrors) OrNil() error {
	if len(e) == 0 {
		return nil
	}
	return e
}
