package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"weft/controller/store"
	"weft/model"
)

// lookEvery is how late a rollback may be.
const lookEvery = 500 * time.Millisecond

// Run rolls back what was not confirmed in time, and promotes staged policies
// whose quiet time is over, until ctx ends.
func (a *API) Run(ctx context.Context, ready func()) error {
	ready()
	tick, promotion := time.NewTicker(lookEvery), time.NewTicker(promoteEvery)
	defer tick.Stop()
	defer promotion.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := a.expire(ctx); err != nil && ctx.Err() == nil {
				a.log.Warn("roll back what was not confirmed; trying again", "error", err)
			}
		case now := <-promotion.C:
			if err := a.promote(ctx, now); err != nil && ctx.Err() == nil {
				a.log.Warn("look for policies to promote; trying again", "error", err)
			}
		}
	}
}

func (a *API) expire(ctx context.Context) error {
	a.pending.Lock()
	defer a.pending.Unlock()
	list, err := a.store.Pending(ctx)
	if err != nil {
		return err
	}
	for _, p := range list {
		if time.Now().Before(p.Deadline) {
			continue
		}
		// Rolling back twice does nothing more, so the record goes last.
		if err := a.rollBack(ctx, store.Change{Actor: "controller", Remote: "confirmation " + p.ID}, p); err != nil {
			return err
		}
		if err := a.store.DeletePending(ctx, p.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		a.log.Warn("writes rolled back: nobody confirmed them", "confirmation", p.ID, "actor", p.Actor, "writes", len(p.Writes))
	}
	return nil
}

// rollBack takes writes back, the last first. What somebody else has written over
// since is left: it was meant.
func (a *API) rollBack(ctx context.Context, by store.Change, p *store.Pending) error {
	for _, w := range slices.Backward(p.Writes) {
		for try := 1; ; try++ {
			err := a.takeBack(ctx, by, w)
			if errors.Is(err, store.ErrConflict) && try < replaceTries {
				continue // written meanwhile: look again
			}
			if err != nil {
				return fmt.Errorf("roll back %s %s: %w", w.Kind, w.Name, err)
			}
			break
		}
	}
	return nil
}

func (a *API) takeBack(ctx context.Context, by store.Change, w store.Write) error {
	after := model.MustKind(w.Kind).New()
	if err := json.Unmarshal(w.After, after); err != nil {
		return err
	}
	now, err := a.store.Get(ctx, w.Kind, w.Name)
	if errors.Is(err, store.ErrNotFound) {
		return nil // deleted since, or never made
	}
	if err != nil {
		return err
	}
	if same, err := sameWrite(now, after); err != nil || !same {
		return err
	}
	if w.Before == nil {
		err := a.store.Delete(ctx, by, w.Kind, w.Name, now.Meta().ResourceVersion)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	}
	before := model.MustKind(w.Kind).New()
	if err := json.Unmarshal(w.Before, before); err != nil {
		return err
	}
	m := before.Meta()
	m.UID, m.CreationTimestamp, m.ResourceVersion, m.Generation = now.Meta().UID, now.Meta().CreationTimestamp, now.Meta().ResourceVersion, now.Meta().Generation+1
	return a.store.Update(ctx, by, before)
}

// sameWrite says whether what is stored is what was written: the same intent,
// whatever the versions.
func sameWrite(a, b model.Resource) (bool, error) {
	x, err := intentOf(a)
	if err != nil {
		return false, err
	}
	y, err := intentOf(b)
	return x == y, err
}

func intentOf(r model.Resource) (string, error) {
	raw, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		return "", err
	}
	meta, _ := doc["metadata"].(map[string]any)
	out, err := json.Marshal([]any{doc["spec"], meta["labels"], meta["annotations"]})
	return string(out), err
}
