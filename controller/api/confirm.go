package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"weft/controller/store"
	"weft/model"
)

// Limits of confirmations.
const (
	minConfirm = time.Second
	maxConfirm = 24 * time.Hour
	maxPending = 64
)

// Confirmation is a set of writes that is rolled back at the deadline unless it is
// confirmed before.
type Confirmation struct {
	ID        string    `json:"id"`
	Actor     string    `json:"actor"`
	Deadline  time.Time `json:"deadline"`
	Resources []string  `json:"resources" nullable:"false" doc:"What was written, as policy/orders-db."`
}

// ConfirmationRequest begins a set of writes.
type ConfirmationRequest struct {
	Within string `json:"within" doc:"How long until it is rolled back, 1s to 24h." example:"5m"`
}

// Confirmations are those that wait.
type Confirmations struct {
	Items []Confirmation `json:"items" nullable:"false"`
}

type confirmationInput struct {
	ID string `path:"id"`
}

func confirmation(p *store.Pending) Confirmation {
	out := Confirmation{ID: p.ID, Actor: p.Actor, Deadline: p.Deadline, Resources: []string{}}
	for _, w := range p.Writes {
		r := model.MustKind(w.Kind).New()
		r.Meta().Name = w.Name
		out.Resources = append(out.Resources, model.Ref(r))
	}
	return out
}

func (a *API) registerConfirmations() {
	const path = "/api/v1/confirmations"
	tags := []string{"Controller"}
	handle(a, huma.Operation{OperationID: "listConfirmations", Method: http.MethodGet, Path: path, Tags: tags, Summary: "What waits for confirmation"},
		func(ctx context.Context, _ *struct{}) (*output[Confirmations], error) {
			list, err := a.store.Pending(ctx)
			if err != nil {
				return nil, err
			}
			out := Confirmations{Items: []Confirmation{}}
			for _, p := range list {
				out.Items = append(out.Items, confirmation(p))
			}
			return &output[Confirmations]{out}, nil
		})
	handle(a, huma.Operation{OperationID: "createConfirmation", Method: http.MethodPost, Path: path, Tags: tags, Summary: "Begin writes that are rolled back unless confirmed", DefaultStatus: http.StatusCreated,
		Description: "Give the id as the parameter confirmation of each write. The controller rolls back at the deadline by itself, also after a restart."},
		func(ctx context.Context, in *struct{ Body ConfirmationRequest }) (*output[Confirmation], error) {
			p, err := a.begin(ctx, in.Body.Within)
			if err != nil {
				return nil, err
			}
			return &output[Confirmation]{confirmation(p)}, nil
		})
	handle(a, huma.Operation{OperationID: "confirm", Method: http.MethodPost, Path: path + "/{id}/confirm", Tags: tags, Summary: "Keep the writes"},
		func(ctx context.Context, in *confirmationInput) (*output[Confirmation], error) {
			return a.settle(ctx, in.ID, false)
		})
	handle(a, huma.Operation{OperationID: "rollBack", Method: http.MethodDelete, Path: path + "/{id}", Tags: tags, Summary: "Roll the writes back now"},
		func(ctx context.Context, in *confirmationInput) (*output[Confirmation], error) {
			return a.settle(ctx, in.ID, true)
		})
}

func (a *API) begin(ctx context.Context, within string) (*store.Pending, error) {
	d, err := time.ParseDuration(within)
	if err != nil || d < minConfirm || d > maxConfirm {
		return nil, problem(http.StatusUnprocessableEntity, "%q is no time to confirm in; write it like 5m, from 1s to 24h", within)
	}
	a.pending.Lock()
	defer a.pending.Unlock()
	list, err := a.store.Pending(ctx)
	if err != nil {
		return nil, err
	}
	if len(list) >= maxPending {
		return nil, problem(http.StatusConflict, "%d sets of writes wait for confirmation already; confirm some", len(list))
	}
	p := &store.Pending{ID: uuid.NewString()[:8], Actor: callerOf(ctx).Actor, Deadline: time.Now().Add(d).UTC().Truncate(time.Millisecond)}
	return p, a.store.PutPending(ctx, p)
}

func (a *API) settle(ctx context.Context, id string, back bool) (*output[Confirmation], error) {
	a.pending.Lock()
	defer a.pending.Unlock()
	p, err := a.find(ctx, id)
	if err != nil {
		return nil, err
	}
	if back {
		if err := a.rollBack(ctx, callerOf(ctx).change(), p); err != nil {
			return nil, err
		}
	}
	if err := a.store.DeletePending(ctx, id); err != nil {
		return nil, err
	}
	verb := "writes confirmed"
	if back {
		verb = "writes rolled back"
	}
	a.log.Info(verb, "confirmation", id, "actor", callerOf(ctx).Actor, "writes", len(p.Writes))
	return &output[Confirmation]{confirmation(p)}, nil
}

func (a *API) find(ctx context.Context, id string) (*store.Pending, error) {
	list, err := a.store.Pending(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range list {
		if p.ID == id && time.Now().Before(p.Deadline) {
			return p, nil
		}
	}
	return nil, problem(http.StatusNotFound, "nothing waits for confirmation as %q: it was confirmed, or its time is over and it was rolled back; weft audit has what happened", id)
}

// note records a write before it is made. before is nil where it creates.
func (a *API) note(ctx context.Context, id string, before, after model.Resource) error {
	if id == "" {
		return nil
	}
	switch after.(type) {
	case *model.JoinToken, *model.AccessToken:
		return problem(http.StatusUnprocessableEntity, "%s: a token cannot wait for confirmation; give it a short ttl instead", model.Ref(after))
	}
	a.pending.Lock()
	defer a.pending.Unlock()
	p, err := a.find(ctx, id)
	if err != nil {
		return err
	}
	w := store.Write{Kind: after.GetKind(), Name: after.Meta().Name}
	if w.After, err = json.Marshal(after); err != nil {
		return fmt.Errorf("encode %s: %w", model.Ref(after), err)
	}
	if before != nil {
		if w.Before, err = json.Marshal(before); err != nil {
			return fmt.Errorf("encode %s: %w", model.Ref(before), err)
		}
	}
	p.Writes = append(p.Writes, w)
	return a.store.PutPending(ctx, p)
}
