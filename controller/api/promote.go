package api

import (
	"context"
	"fmt"
	"time"

	"weft/controller/observe"
	"weft/controller/store"
	"weft/model"
)

// promoteEvery is how often staged policies are looked at.
const promoteEvery = 5 * time.Second

// quiet is since when a staged policy would have turned down nothing. It is not
// kept over restarts: a controller that was away has seen nothing.
type quiet struct {
	uid        string
	generation int64
	since      time.Time
	missed     uint64 // conversations that were evicted, lost or unread by then
	warned     bool
}

// promote makes staged policies active whose quiet time is over.
func (a *API) promote(ctx context.Context, now time.Time) error {
	list, _, err := a.store.List(ctx, model.KindPolicy)
	if err != nil {
		return fmt.Errorf("list policies to promote: %w", err)
	}
	asked := map[string]*quiet{}
	for _, r := range list {
		p := r.(*model.Policy)
		after, err := time.ParseDuration(p.Spec.PromoteAfter)
		if err != nil || p.Spec.StageOrDefault() != model.StageStaged {
			continue
		}
		recorded := a.seen.Conversations(time.Time{})
		q := a.quietSince(p, recorded, now)
		asked[p.Metadata.Name] = q
		if now.Sub(q.since) < after {
			continue
		}
		if err := a.promoteOne(ctx, p); err != nil {
			if !q.warned {
				a.log.Warn("a staged policy is not promoted", "policy", p.Metadata.Name, "error", err)
			}
			q.warned = true
		}
	}
	a.quiet = asked // those that nobody asks for any more are forgotten
	return nil
}

// quietSince is since when the policy has been quiet: now, where it is not.
func (a *API) quietSince(p *model.Policy, r observe.Recorded, now time.Time) *quiet {
	m, missed := p.Metadata, r.Evicted+r.Lost+r.Unread
	fresh := &quiet{uid: m.UID, generation: m.Generation, since: now, missed: missed}
	q := a.quiet[m.Name]
	st := a.seen.PolicyStatus(p)
	switch {
	case q == nil, q.uid != m.UID, q.generation != m.Generation:
		return fresh
	case st.State != model.PolicyStaged, st.Targeted == 0, st.Applied != st.Targeted:
		return fresh // nobody is there to say what would be
	case q.missed != missed:
		return fresh // what was missed may have been a denial
	}
	for _, c := range r.Conversations {
		if c.Last.Before(q.since) {
			break // the last heard of come first
		}
		denied := c.StagedAction == model.ActionDeny || c.StagedAction == model.ActionReject
		if denied && c.Action == model.ActionAllow && p.Spec.Subject.Selector.Matches(c.Labels) {
			return fresh
		}
	}
	return q
}

// promoteOne writes the policy as Active. Somebody else's write that comes between
// is left, and looked at next time.
func (a *API) promoteOne(ctx context.Context, p *model.Policy) error {
	next := *p
	next.Spec.Stage = model.StageActive
	if err := a.guardFleet(ctx, &next, false, false); err != nil {
		return err
	}
	next.Metadata.Generation++
	by := store.Change{Actor: "controller", Remote: "promoted after " + p.Spec.PromoteAfter + " of quiet"}
	if err := a.store.Update(ctx, by, &next); err != nil {
		return err
	}
	a.log.Info("staged policy promoted", "policy", p.Metadata.Name, "quiet", p.Spec.PromoteAfter)
	return nil
}
