package api

import (
	"context"
	"slices"

	"weft/controller/observe"
	"weft/controller/plan"
	"weft/model"
	"weft/policy"
)

// fleet is all that policy depends on, at one moment.
type fleet struct {
	policies  []*model.Policy
	groups    []*model.Group
	relays    []*model.Relay
	workloads []*model.Workload
	directory *plan.Directory
	failsafe  []*model.Policy
}

func (a *API) fleet(ctx context.Context) (*fleet, error) {
	f := &fleet{workloads: a.seen.Workloads()}
	var err error
	if f.policies, err = stored[*model.Policy](ctx, a, model.KindPolicy); err != nil {
		return nil, err
	}
	if f.groups, err = stored[*model.Group](ctx, a, model.KindGroup); err != nil {
		return nil, err
	}
	if f.relays, err = stored[*model.Relay](ctx, a, model.KindRelay); err != nil {
		return nil, err
	}
	f.directory = plan.NewDirectory(f.workloads, a.seen.Interfaces())
	f.failsafe = policy.Failsafe(plan.FailsafeOf(a.cfg.Failsafe, f.relays))
	return f, nil
}

func stored[R model.Resource](ctx context.Context, a *API, kind model.Kind) ([]R, error) {
	list, _, err := a.store.List(ctx, kind)
	if err != nil {
		return nil, err
	}
	out := make([]R, len(list))
	for i, r := range list {
		out[i] = r.(R)
	}
	return out, nil
}

// over returns the fleet with resources put in place of those of their names.
func (f *fleet) over(policies []*model.Policy, groups []*model.Group) *fleet {
	out := *f
	out.policies, out.groups = overlay(f.policies, policies), overlay(f.groups, groups)
	return &out
}

func overlay[R model.Resource](have, with []R) []R {
	out := slices.DeleteFunc(slices.Clone(have), func(h R) bool {
		return slices.ContainsFunc(with, func(w R) bool { return w.Meta().Name == h.Meta().Name })
	})
	return append(out, with...)
}

// without returns the fleet without a policy or a group.
func (f *fleet) without(r model.Resource) *fleet {
	out := *f
	switch r.(type) {
	case *model.Policy:
		out.policies = slices.DeleteFunc(slices.Clone(f.policies), func(p *model.Policy) bool { return p.Metadata.Name == r.Meta().Name })
	case *model.Group:
		out.groups = slices.DeleteFunc(slices.Clone(f.groups), func(g *model.Group) bool { return g.Metadata.Name == r.Meta().Name })
	}
	return &out
}

// worlds makes the worlds of fleets that number identities alike: what one tells
// apart, all do. Label sets of workloads that are gone get numbers too.
func worlds(gone []map[string]string, fleets ...*fleet) ([]*plan.World, error) {
	var keys []string
	for _, f := range fleets {
		keys = append(keys, plan.IdentityKeys(f.policies, f.groups)...)
	}
	given := policy.NewIdentities()
	number := func(labels map[string]string) (policy.Identity, error) {
		id, _ := given.Intern(labels)
		return id, nil
	}
	var out []*plan.World
	var last *plan.World
	for _, f := range fleets {
		w, err := plan.NewWorld(plan.WorldInput{Policies: f.policies, Failsafe: f.failsafe, Groups: f.groups, Workloads: f.workloads,
			Number: number, Keys: keys, Sets: gone, Last: last})
		if err != nil {
			return nil, err
		}
		out, last = append(out, w), w
	}
	return out, nil
}

// goneSets are the labels that conversations remember.
func goneSets(list []*observe.Conversation) []map[string]string {
	var out []map[string]string
	for _, c := range list {
		out = append(out, c.Labels)
		if c.PeerLabels != nil {
			out = append(out, c.PeerLabels)
		}
	}
	return out
}
