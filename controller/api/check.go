package api

import (
	"context"
	"fmt"
	"slices"
	"strings"

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
			if path := pathTo(groups, nested, r.Metadata.Name, map[string]bool{}); path != nil {
				faults = append(faults, model.FieldError{Field: fmt.Sprintf("spec.groups[%d]", i),
					Message: fmt.Sprintf("makes a circle: %s -> %s; take one of them out", r.Metadata.Name, strings.Join(path, " -> "))})
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

// pathTo returns the groups on the way from one to another through nesting, both
// included, or nil where there is none.
func pathTo(groups map[string]*model.Group, from, to string, been map[string]bool) []string {
	if from == to {
		return []string{from}
	}
	g := groups[from]
	if g == nil || been[from] {
		return nil
	}
	been[from] = true
	for _, next := range g.Spec.Groups {
		if path := pathTo(groups, next, to, been); path != nil {
			return append([]string{from}, path...)
		}
	}
	return nil
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
