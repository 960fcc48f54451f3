// Package access says who may use the API: access tokens with a role, and root
// over the controller's own Unix socket.
package access

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weft/controller/store"
	"weft/model"
	"weft/wire"
)

// Annotation that marks the token made at the first start.
const bootstrapAnnotation = "weft/bootstrap"

// Bootstrap makes an access token of role admin where none is valid: at the
// first start, and at a start after the last was deleted or ran out. The token's
// text is returned this once. pin is the authority's; see wire.CAPin.
func Bootstrap(ctx context.Context, s *store.Store, pin string) (token string, created bool, err error) {
	list, _, err := s.List(ctx, model.KindAccessToken)
	if err != nil {
		return "", false, fmt.Errorf("look for an access token: %w", err)
	}
	for _, r := range list {
		t := r.(*model.AccessToken)
		if RoleOf(t) == model.AccessAdmin && !expired(t, time.Now()) {
			return "", false, nil
		}
	}
	for i := 1; ; i++ {
		t := model.MustKind(model.KindAccessToken).New().(*model.AccessToken)
		t.Metadata.Name = "admin"
		if i > 1 {
			t.Metadata.Name = fmt.Sprintf("admin-%d", i)
		}
		t.Metadata.Annotations = map[string]string{bootstrapAnnotation: "true"}
		t.Spec.Role = model.AccessAdmin
		err := CreateAccessToken(ctx, s, store.Change{Actor: "controller"}, t, pin)
		if errors.Is(err, store.ErrExists) {
			continue
		}
		return t.Status.Token, err == nil, err
	}
}

// CreateAccessToken stores t and the hash of a new secret, and leaves the whole
// token in t.Status.Token, the only place it will ever be.
func CreateAccessToken(ctx context.Context, s *store.Store, by store.Change, t *model.AccessToken, pin string) error {
	t.Status = model.AccessTokenStatus{Expires: AccessExpiry(t, time.Now())}
	secret := wire.NewToken(wire.PrefixAccess, t.Metadata.Name, pin)
	if err := s.Create(ctx, by, t, []byte(secret.Hash())); err != nil {
		return err
	}
	t.Status.Token = secret.String()
	return nil
}

// CreateJoinToken does the same for a join token.
func CreateJoinToken(ctx context.Context, s *store.Store, by store.Change, t *model.JoinToken, pin string) error {
	expires := time.Now().Add(t.Spec.Lifetime()).UTC().Truncate(time.Second)
	t.Status = model.JoinTokenStatus{Expires: &expires}
	secret := wire.NewToken(wire.PrefixJoin, t.Metadata.Name, pin)
	if err := s.Create(ctx, by, t, []byte(secret.Hash())); err != nil {
		return err
	}
	t.Status.Token = secret.String()
	return nil
}

// AccessExpiry is when a token made now would run out; nil for never.
func AccessExpiry(t *model.AccessToken, now time.Time) *time.Time {
	ttl, err := time.ParseDuration(t.Spec.TTL)
	if err != nil {
		return nil // empty: Validate has seen everything else
	}
	at := now.Add(ttl).UTC().Truncate(time.Second)
	return &at
}

// RoleOf returns a token's role, viewer unless given.
func RoleOf(t *model.AccessToken) model.AccessRole {
	if t.Spec.Role == "" {
		return model.AccessViewer
	}
	return t.Spec.Role
}

func expired(t *model.AccessToken, now time.Time) bool {
	return t.Status.Expires != nil && !now.Before(*t.Status.Expires)
}
