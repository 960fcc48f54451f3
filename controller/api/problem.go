package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"weft/controller/store"
	"weft/model"
)

// Problem is the answer to a request that was refused or failed (RFC 9457).
type Problem struct {
	Title  string             `json:"title" doc:"The HTTP status in words."`
	Status int                `json:"status" doc:"The HTTP status."`
	Detail string             `json:"detail" doc:"What is wrong, and the remedy."`
	Errors []model.FieldError `json:"errors,omitempty" doc:"Every fault found in the body or the parameters."`
}

func (p *Problem) Error() string { return p.Detail }

// GetStatus and ContentType are what huma asks of an error.
func (p *Problem) GetStatus() int            { return p.Status }
func (p *Problem) ContentType(string) string { return "application/problem+json" }

func problem(status int, format string, args ...any) *Problem {
	return &Problem{Title: http.StatusText(status), Status: status, Detail: fmt.Sprintf(format, args...)}
}

func writeProblem(w http.ResponseWriter, p *Problem) {
	p.Title = http.StatusText(p.Status)
	w.Header().Set("Content-Type", p.ContentType(""))
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p) //nolint:errcheck // the peer is gone
}

// asProblem turns the errors of the store and of validation into answers.
func (a *API) asProblem(err error) error {
	var p *Problem
	var faults model.FieldErrors
	switch {
	case err == nil:
		return nil
	case errors.As(err, &p):
		return p
	case errors.As(err, &faults):
		p := problem(http.StatusUnprocessableEntity, "the resource is not valid: %d fault(s)", len(faults))
		p.Errors = faults
		return p
	case errors.Is(err, store.ErrNotFound):
		return problem(http.StatusNotFound, "%v", err)
	case errors.Is(err, store.ErrExists):
		return problem(http.StatusConflict, "%v; replace it, or delete it first", err)
	case errors.Is(err, store.ErrSilent):
		a.log.Error("api request", "error", err)
		return problem(http.StatusServiceUnavailable, "%v", err)
	case errors.Is(err, store.ErrFull):
		a.log.Error("write refused", "error", err)
		return problem(http.StatusInsufficientStorage, "%v", err)
	case errors.Is(err, store.ErrConflict):
		return problem(http.StatusConflict, "%v", err)
	}
	a.log.Error("api request", "error", err)
	return problem(http.StatusInternalServerError, "the controller could not do it; its log has the reason")
}

// fromHuma turns huma's own errors (parameters, size) into Problems.
func fromHuma(_ huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := problem(m.Status, "%s", m.Detail)
	for _, e := range m.Errors {
		p.Errors = append(p.Errors, model.FieldError{Field: e.Location, Message: e.Message})
	}
	return p, nil
}

func problemResponses(r huma.Registry) map[string]*huma.Response {
	return map[string]*huma.Response{"default": {
		Description: "Refused or failed.",
		Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: r.Schema(reflect.TypeFor[Problem](), true, "")}},
	}}
}
