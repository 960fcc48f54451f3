package api

import (
	"context"
	"slices"

	"weft/controller/filter"
	"weft/model"
)

// check finds what Validate cannot know: the grammar of a filter, and groups
// that would contain themselves.
func (a *API) check(ctx context.Context, r model.Resource) error {
	var faults model.FieldErrors
	switch r := r.(type) {
	case *model.Tap:
		if _, err := filter.Compile(r.Spec.Filter); err != nil {
			faults = append(faults, model.FieldError{Field: "spec.filter", Message: err.Error()})
		}
	case *model.Group:
		groups, err := a.groups(ctx)
		if err != nil {
			return err
		}
		groups[r.Metadata.Name] = r
		for i, nested := range r.Spec.Groups {
			if path := model.GroupPath(groups, nested, r.Metadata.Name); path != nil {
				faults = append(faults, model.CircleFault(r.Metadata.Name, i, path))
			}
		}
	}
	return faults.OrNil()
}

func (a *API) groups(ctx context.Context) (map[string]*model.Group, error) {
	list, _, err := a.store.List(ctx, model.KindGroup)
	if err != nil {
		return nil, err
	}
	groups := map[string]*model.Group{}
	for _, r := range list {
		groups[r.Meta().Name] = r.(*model.Group)
	}
	return groups, nil
}

// groupUsers lists what refers to a group.
func (a *API) groupUsers(ctx context.Context, name string) ([]string, error) {
	groups, err := a.groups(ctx)
	if err != nil {
		return nil, err
	}
	var users []string
	for _, g := range groups {
		if slices.Contains(g.Spec.Groups, name) {
			users = append(users, model.Ref(g))
		}
	}
	taps, _, err := a.store.List(ctx, model.KindTap)
	if err != nil {
		return nil, err
	}
	for _, r := range taps {
		if t := r.(*model.Tap); t.Spec.From.Group == name || t.Spec.To.Group == name {
			users = append(users, model.Ref(t))
		}
	}
	slices.Sort(users)
	return users, nil
}
