package api

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strconv"

	"weft/controller/store"
	"weft/model"
)

// list returns all of a kind that a selector matches (nil: all), by name, with
// the status of this moment, and the version they were read at.
func (a *API) list(ctx context.Context, info model.KindInfo, sel *model.Selector) ([]model.Resource, string, error) {
	var all []model.Resource
	var version string
	switch info.Kind {
	case model.KindWorkload:
		for _, w := range a.seen.Workloads() {
			all = append(all, w)
		}
	case model.KindAlert:
		for _, alert := range a.seen.Alerts() {
			all = append(all, alert)
		}
	default:
		stored, rev, err := a.store.List(ctx, info.Kind)
		if err != nil {
			return nil, "", err
		}
		all, version = stored, strconv.FormatInt(rev, 10)
	}
	out := all[:0]
	for _, r := range all {
		a.observe(r)
		if sel == nil || sel.Matches(searchable(r)) {
			out = append(out, r)
		}
	}
	return out, version, nil
}

func (a *API) get(ctx context.Context, info model.KindInfo, name string) (model.Resource, error) {
	switch info.Kind {
	case model.KindWorkload:
		for _, w := range a.seen.Workloads() {
			if w.Metadata.Name == name {
				return w, nil
			}
		}
		return nil, fmt.Errorf("workload %q: %w", name, store.ErrNotFound)
	case model.KindAlert:
		for _, alert := range a.seen.Alerts() {
			if alert.Metadata.Name == name {
				return alert, nil
			}
		}
		return nil, fmt.Errorf("alert %q: %w", name, store.ErrNotFound)
	}
	if err := model.CheckName(name); err != nil {
		return nil, problem(http.StatusNotFound, "%v", err)
	}
	r, err := a.store.Get(ctx, info.Kind, name)
	if err != nil {
		return nil, err
	}
	a.observe(r)
	return r, nil
}

// observe fills in the status that agents report. That of tokens is stored.
func (a *API) observe(r model.Resource) {
	switch r := r.(type) {
	case *model.Host:
		r.Status = a.seen.HostStatus(r)
	case *model.Relay:
		r.Status = a.seen.RelayStatus(r)
	case *model.Group:
		r.Status = a.seen.GroupStatus(r)
	case *model.Policy:
		r.Status = a.seen.PolicyStatus(r)
	case *model.AlertRule:
		r.Status = model.AlertRuleStatus{}
		for _, x := range a.seen.Alerts() {
			if x.Spec.Type == r.Metadata.Name {
				r.Status.Firing = append(r.Status.Firing, x.Spec.Host)
			}
		}
	case *model.Probe:
		r.Status = a.seen.ProbeStatus(r)
	case *model.Tap:
		r.Status = a.seen.TapStatus(r)
	}
}

// searchable returns the labels by which a resource is found: of a host also
// those that its agent reports and those that its spec adds.
func searchable(r model.Resource) map[string]string {
	h, ok := r.(*model.Host)
	if !ok {
		return r.Meta().Labels
	}
	labels := map[string]string{}
	maps.Copy(labels, h.Status.Labels)
	maps.Copy(labels, h.Metadata.Labels)
	maps.Copy(labels, h.Spec.Labels)
	return labels
}
