package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"time"

	"weft/controller/access"
	"weft/controller/store"
	"weft/model"
)

// systemAnnotation is the prefix of annotations that only the controller writes.
const systemAnnotation = "weft/"

// decodeAs reads a body that must be of one kind.
func decodeAs(info model.KindInfo, body []byte) (model.Resource, error) {
	r, err := model.DecodeJSON(body)
	if err != nil {
		return nil, err
	}
	if r.GetKind() != info.Kind {
		return nil, model.FieldErrors{{Field: "kind", Message: fmt.Sprintf("is %s; this path takes %s", r.GetKind(), info.Kind)}}
	}
	return r, nil
}

func matchVersion(r model.Resource, name, ifMatch string) error {
	m := r.Meta()
	if m.Name != name {
		return model.FieldErrors{{Field: "metadata.name", Message: fmt.Sprintf("is %q and the path says %q; a resource cannot be renamed", m.Name, name)}}
	}
	if version := strings.Trim(strings.TrimPrefix(ifMatch, "W/"), `"`); version != "" && version != "*" {
		m.ResourceVersion = version
	}
	return nil
}

// create stores a new resource, or only says what it would store.
func (a *API) create(ctx context.Context, r model.Resource, how writing) (warnings []string, err error) {
	m := r.Meta()
	*m = model.Metadata{Name: m.Name, Labels: m.Labels, Annotations: m.Annotations}
	maps.DeleteFunc(m.Annotations, func(k, _ string) bool { return strings.HasPrefix(k, systemAnnotation) })
	if err := a.check(ctx, r); err != nil {
		return nil, err
	}
	if err := a.guardFleet(ctx, r, false, how.force); err != nil {
		return nil, err
	}
	warnings = a.warnings(ctx, r)
	by := callerOf(ctx).change()
	if how.dryRun {
		return warnings, a.dryCreate(ctx, r)
	}
	if how.confirmation != "" {
		// What is there already is somebody's, and would be rolled back with ours.
		if _, err := a.store.Get(ctx, r.GetKind(), m.Name); err == nil {
			return nil, fmt.Errorf("%s: %w", model.Ref(r), store.ErrExists)
		}
		if err := a.note(ctx, how.confirmation, nil, r); err != nil {
			return nil, err
		}
	}
	switch t := r.(type) {
	case *model.JoinToken:
		err = access.CreateJoinToken(ctx, a.store, by, t, a.cfg.CAPin)
	case *model.AccessToken:
		err = access.CreateAccessToken(ctx, a.store, by, t, a.cfg.CAPin)
	default:
		err = a.store.Create(ctx, by, r, nil)
	}
	if err != nil {
		return nil, err
	}
	a.log.Info("resource created", "object", model.Ref(r), "actor", by.Actor)
	a.observe(r)
	return warnings, nil
}

func (a *API) dryCreate(ctx context.Context, r model.Resource) error {
	_, err := a.store.Get(ctx, r.GetKind(), r.Meta().Name)
	if err == nil {
		return fmt.Errorf("%s: %w", model.Ref(r), store.ErrExists)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	now := time.Now().UTC().Truncate(time.Second)
	r.Meta().Generation, r.Meta().CreationTimestamp = 1, &now
	return nil
}

// A write without a resource version is repeated when another comes between.
const replaceTries = 5

// replace writes spec, labels and annotations over those of the stored
// resource, and keeps everything else. It returns what is stored then.
func (a *API) replace(ctx context.Context, r model.Resource, how writing) (model.Resource, []string, error) {
	if err := a.check(ctx, r); err != nil {
		return nil, nil, err
	}
	if err := a.guardFleet(ctx, r, false, how.force); err != nil {
		return nil, nil, err
	}
	asked := *r.Meta()
	for try := 1; ; try++ {
		old, err := a.store.Get(ctx, r.GetKind(), asked.Name)
		if errors.Is(err, store.ErrNotFound) && !model.MustKind(r.GetKind()).Joined {
			err = fmt.Errorf("%w; create it with POST", err)
		} else if errors.Is(err, store.ErrNotFound) {
			err = fmt.Errorf("%w; it comes to be by joining: weft token create", err)
		}
		if err != nil {
			return nil, nil, err
		}
		if v := old.Meta().ResourceVersion; asked.ResourceVersion != "" && asked.ResourceVersion != v {
			return nil, nil, fmt.Errorf("%s: %w: it is at version %s, yours is %s; get it again and repeat the change",
				model.Ref(r), store.ErrConflict, v, asked.ResourceVersion)
		}
		changed, err := carryOver(r, old, asked)
		if err != nil {
			return nil, nil, err
		}
		if changed && !how.dryRun {
			by := callerOf(ctx).change()
			if err := a.note(ctx, how.confirmation, old, r); err != nil {
				return nil, nil, err
			}
			err = a.store.Update(ctx, by, r)
			if errors.Is(err, store.ErrConflict) && asked.ResourceVersion == "" && try < replaceTries {
				continue
			}
			if err != nil {
				return nil, nil, err
			}
			a.log.Info("resource changed", "object", model.Ref(r), "actor", by.Actor)
		}
		a.observe(r)
		return r, a.warnings(ctx, r), nil
	}
}

// carryOver makes r the successor of old, and says whether it differs.
func carryOver(r, old model.Resource, asked model.Metadata) (changed bool, err error) {
	m, o := r.Meta(), old.Meta()
	*m = *o
	m.Labels, m.Annotations = asked.Labels, map[string]string{}
	for k, v := range asked.Annotations {
		if !strings.HasPrefix(k, systemAnnotation) {
			m.Annotations[k] = v
		}
	}
	for k, v := range o.Annotations {
		if strings.HasPrefix(k, systemAnnotation) {
			m.Annotations[k] = v
		}
	}
	if len(m.Annotations) == 0 {
		m.Annotations = nil
	}
	var spec bool // changed
	switch r := r.(type) {
	case *model.Host:
		old := old.(*model.Host)
		if old.Spec.Revoked && !r.Spec.Revoked {
			return false, revokedForGood("host")
		}
		r.Status, spec = old.Status, differ(r.Spec, old.Spec)
	case *model.Relay:
		old := old.(*model.Relay)
		if old.Spec.Revoked && !r.Spec.Revoked {
			return false, revokedForGood("relay")
		}
		if len(r.Spec.Addresses) == 0 {
			r.Spec.Addresses = old.Spec.Addresses // said when it joined
		}
		r.Status, spec = old.Status, differ(r.Spec, old.Spec)
	case *model.JoinToken:
		old := old.(*model.JoinToken)
		if differ(r.Spec, old.Spec) {
			return false, tokenIsFixed()
		}
		r.Status = old.Status
	case *model.AccessToken:
		old := old.(*model.AccessToken)
		if differ(r.Spec, old.Spec) {
			return false, tokenIsFixed()
		}
		r.Status = old.Status
	case *model.Group:
		spec = differ(r.Spec, old.(*model.Group).Spec)
	case *model.Policy:
		spec = differ(r.Spec, old.(*model.Policy).Spec)
	case *model.Tap:
		spec = differ(r.Spec, old.(*model.Tap).Spec)
	default:
		return false, fmt.Errorf("replace a %s: no such case", r.GetKind())
	}
	if spec {
		m.Generation++
	}
	return spec || differ(m.Labels, o.Labels) || differ(m.Annotations, o.Annotations), nil
}

// differ compares as JSON does, where nil and empty are one.
func differ(a, b any) bool {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	if va.Kind() == reflect.Map && va.Len() == 0 && vb.Len() == 0 {
		return false
	}
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX != nil || errY != nil || string(x) != string(y)
}

func revokedForGood(kind string) error {
	return model.FieldErrors{{Field: "spec.revoked", Message: "a revoked " + kind + " stays revoked; delete it, and let the machine join again with a new token"}}
}

func tokenIsFixed() error {
	return model.FieldErrors{{Field: "spec", Message: "the bounds of a token cannot change; delete it and make another"}}
}

func (a *API) delete(ctx context.Context, info model.KindInfo, name, version string, how writing) (model.Resource, error) {
	r, err := a.get(ctx, info, name)
	if err != nil {
		return nil, err
	}
	if v := r.Meta().ResourceVersion; version != "" && version != v {
		return nil, fmt.Errorf("%s: %w: it is at version %s, yours is %s; get it again", model.Ref(r), store.ErrConflict, v, version)
	}
	if info.Kind == model.KindGroup {
		users, err := a.groupUsers(ctx, name)
		if err != nil {
			return nil, err
		}
		if len(users) > 0 {
			return nil, problem(http.StatusConflict, "%s is used by %s; change or delete what uses it first", model.Ref(r), strings.Join(users, ", "))
		}
	}
	if err := a.guardFleet(ctx, r, true, how.force); err != nil {
		return nil, err
	}
	if how.dryRun {
		return r, nil
	}
	by := callerOf(ctx).change()
	if err := a.store.Delete(ctx, by, info.Kind, name, version); err != nil {
		return nil, err
	}
	a.log.Info("resource deleted", "object", model.Ref(r), "actor", by.Actor)
	return r, nil
}
