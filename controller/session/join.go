package session

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"weft/controller/store"
	"weft/model"
	"weft/wire"
	"weft/wire/wirepb"
)

// Annotations that joining leaves on a Host or Relay.
const (
	// AnnotationKey is the SHA-256 of the public key it joined with, in hex.
	AnnotationKey = "weft/join-key"
	// AnnotationToken is the name of the token it joined with.
	AnnotationToken = "weft/join-token"
)

const maxAddresses = 16

// Join implements the service: it turns a token into a Host or Relay and a
// certificate. A name that another machine holds is refused, whether that
// machine is online or not, since nobody can tell a rebuilt machine from an
// impostor; revoking or deleting the old resource frees the name. A machine
// that repeats its request with the same key gets a certificate again without
// using the token up: its first answer may have been lost on the way.
func (s *Service) Join(ctx context.Context, req *connect.Request[wirepb.JoinRequest]) (*connect.Response[wirepb.JoinResponse], error) {
	m := req.Msg
	remote := requestOf(ctx).remote
	log := s.deps.Log.With("name", m.Name, "role", m.Role, "remote", remote)
	resp, err := s.join(ctx, m, remote)
	if err != nil {
		log.Warn("join refused", "error", err)
		var refusal *connect.Error
		if !errors.As(err, &refusal) {
			err = connect.NewError(connect.CodeUnavailable, err)
		}
		return nil, err
	}
	log.Info("joined", "uid", resp.Uid)
	return connect.NewResponse(resp), nil
}

func (s *Service) join(ctx context.Context, m *wirepb.JoinRequest, remote string) (*wirepb.JoinResponse, error) {
	token, err := wire.ParseToken(wire.PrefixJoin, m.Token)
	if err != nil {
		return nil, refuse(connect.CodeUnauthenticated, wire.ReasonToken, "%w", err)
	}
	t, err := s.checkToken(ctx, token, model.Role(m.Role))
	if err != nil {
		return nil, err
	}
	fingerprint, err := checkJoin(m)
	if err != nil {
		return nil, err
	}
	kind, _ := kindOf(model.Role(m.Role))
	old, err := s.deps.Store.Get(ctx, kind, m.Name)
	switch {
	case isNotFound(err):
	case err != nil:
		return nil, err
	case revoked(old): // another host from now on
	case old.Meta().Annotations[AnnotationKey] == fingerprint && old.Meta().Annotations[AnnotationToken] == token.Name:
		return s.certify(m, old)
	default:
		return nil, s.nameTaken(kind, old)
	}
	if t.Status.Used >= max(t.Spec.Uses, 1) {
		return nil, refuse(connect.CodePermissionDenied, wire.ReasonTokenUsedUp, "join token %q is used up (%d of %d); ask for a new one: weft token create", token.Name, t.Status.Used, max(t.Spec.Uses, 1))
	}
	return s.create(ctx, m, t, old, fingerprint, remote)
}

// create uses the token and makes the resource.
func (s *Service) create(ctx context.Context, m *wirepb.JoinRequest, t *model.JoinToken, old model.Resource, fingerprint, remote string) (*wirepb.JoinResponse, error) {
	r := newResource(m, t, fingerprint)
	// Signed first: a request that cannot be signed must not use up the token.
	resp, err := s.certify(m, r)
	if err != nil {
		return nil, err
	}
	by := store.Change{Actor: "jointoken/" + t.Metadata.Name, Remote: remote}
	if err := s.use(ctx, by, t.Metadata.Name, +1); err != nil {
		return nil, err
	}
	if old != nil {
		err = s.deps.Store.Delete(ctx, by, old.GetKind(), m.Name, old.Meta().ResourceVersion)
	}
	if err == nil || isNotFound(err) {
		err = s.deps.Store.Create(ctx, by, r, nil)
	}
	if err == nil {
		return resp, nil
	}
	if back := s.use(context.WithoutCancel(ctx), by, t.Metadata.Name, -1); back != nil {
		s.deps.Log.Warn("give back a use of a join token", "token", t.Metadata.Name, "error", back)
	}
	if errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrConflict) {
		return nil, s.nameTaken(r.GetKind(), r)
	}
	return nil, err
}

func newResource(m *wirepb.JoinRequest, t *model.JoinToken, fingerprint string) model.Resource {
	var r model.Resource
	if model.Role(m.Role) == model.RoleRelay {
		relay := model.MustKind(model.KindRelay).New().(*model.Relay)
		relay.Spec.Addresses = m.Addresses
		r = relay
	} else {
		r = model.MustKind(model.KindHost).New()
	}
	meta := r.Meta()
	meta.Name, meta.UID, meta.Labels = m.Name, uuid.NewString(), t.Spec.Labels
	meta.Annotations = map[string]string{AnnotationKey: fingerprint, AnnotationToken: t.Metadata.Name}
	if len(t.Spec.Claims) > 0 {
		meta.Annotations[model.AnnotationClaims] = t.Spec.Claims.String()
	}
	return r
}

func (s *Service) certify(m *wirepb.JoinRequest, r model.Resource) (*wirepb.JoinResponse, error) {
	id := wire.Identity{TrustDomain: s.cfg.TrustDomain, Role: model.Role(m.Role), Name: m.Name, UID: r.Meta().UID}
	der, err := s.deps.Authority.Sign(m.Csr, id)
	if err != nil {
		return nil, refuse(connect.CodeInvalidArgument, wire.ReasonRequest, "%w", err)
	}
	return &wirepb.JoinResponse{Name: m.Name, Uid: r.Meta().UID, Certificate: der, CaBundle: s.deps.Authority.Bundle()}, nil
}

func (s *Service) nameTaken(kind model.Kind, old model.Resource) error {
	word := strings.ToLower(string(kind))
	state := "offline"
	s.mu.Lock()
	for _, l := range s.live {
		if l.id.Name == old.Meta().Name && string(l.id.Role) == word {
			state = "online"
		}
	}
	s.mu.Unlock()
	return refuse(connect.CodeAlreadyExists, wire.ReasonNameTaken,
		"the name %q is taken by another %s, which is %s; join under another name (--name), or, if this machine takes its place: weft delete %s %s",
		old.Meta().Name, word, state, word, old.Meta().Name)
}

// checkToken finds the token by its name and compares the secret. An unknown
// name and a wrong secret get one answer, so that names cannot be tried out.
func (s *Service) checkToken(ctx context.Context, token wire.Token, role model.Role) (*model.JoinToken, error) {
	unknown := refuse(connect.CodeUnauthenticated, wire.ReasonToken, "join token is not known here; it may have been deleted: weft token list")
	secret, err := s.deps.Store.Secret(ctx, model.KindJoinToken, token.Name)
	if isNotFound(err) {
		return nil, unknown
	} else if err != nil {
		return nil, err
	}
	if !token.HashEqual(string(secret)) {
		return nil, unknown
	}
	r, err := s.deps.Store.Get(ctx, model.KindJoinToken, token.Name)
	if isNotFound(err) {
		return nil, unknown
	} else if err != nil {
		return nil, err
	}
	t := r.(*model.JoinToken)
	if ends := expiry(t); s.now().After(ends) {
		return nil, refuse(connect.CodePermissionDenied, wire.ReasonTokenExpired, "join token %q expired at %s; ask for a new one: weft token create", token.Name, ends.UTC().Format("2006-01-02 15:04:05Z"))
	}
	want := t.Spec.Role
	if want == "" {
		want = model.RoleHost
	}
	if role != want {
		return nil, refuse(connect.CodePermissionDenied, wire.ReasonTokenRole, "join token %q admits a %s, not a %q; ask for one with --role %s", token.Name, want, role, role)
	}
	return t, nil
}

// use counts a use (+1) or gives one back (-1), against whoever else does so at
// this moment.
func (s *Service) use(ctx context.Context, by store.Change, name string, n int) error {
	for {
		r, err := s.deps.Store.Get(ctx, model.KindJoinToken, name)
		if isNotFound(err) {
			return refuse(connect.CodeUnauthenticated, wire.ReasonToken, "join token %q was deleted meanwhile", name)
		} else if err != nil {
			return err
		}
		t := r.(*model.JoinToken)
		limit := max(t.Spec.Uses, 1)
		if n > 0 && t.Status.Used >= limit {
			return refuse(connect.CodePermissionDenied, wire.ReasonTokenUsedUp, "join token %q is used up (%d of %d); ask for a new one: weft token create", name, t.Status.Used, limit)
		}
		t.Status.Used = max(t.Status.Used+n, 0)
		err = s.deps.Store.Update(ctx, by, t)
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// expiry is when a token ends: as its status says, or counted from its creation.
func expiry(t *model.JoinToken) time.Time {
	if t.Status.Expires != nil {
		return *t.Status.Expires
	}
	if t.Metadata.CreationTimestamp == nil {
		return time.Time{}
	}
	return t.Metadata.CreationTimestamp.Add(t.Spec.Lifetime())
}

// checkJoin checks what the machine says of itself and returns the SHA-256 of
// its public key.
func checkJoin(m *wirepb.JoinRequest) (string, error) {
	if err := model.CheckName(m.Name); err != nil {
		return "", refuse(connect.CodeInvalidArgument, wire.ReasonName, "%w; give one with --name", err)
	}
	csr, err := x509.ParseCertificateRequest(m.Csr)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return "", refuse(connect.CodeInvalidArgument, wire.ReasonRequest, "certificate request: %w", err)
	}
	if len(m.Addresses) > maxAddresses {
		return "", refuse(connect.CodeInvalidArgument, wire.ReasonRequest, "%d addresses; %d at most", len(m.Addresses), maxAddresses)
	}
	if model.Role(m.Role) == model.RoleRelay && len(m.Addresses) == 0 {
		return "", refuse(connect.CodeInvalidArgument, wire.ReasonRequest, "a relay needs at least one address where agents reach it, HOST:PORT")
	}
	for _, a := range m.Addresses {
		if err := checkAddress(a); err != nil {
			return "", refuse(connect.CodeInvalidArgument, wire.ReasonRequest, "address %q: %w", a, err)
		}
	}
	sum := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:]), nil
}

func checkAddress(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return errors.New("want HOST:PORT")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || host == "" || len(host) > 253 {
		return fmt.Errorf("want HOST:PORT with a port from 1 to 65535")
	}
	return nil
}

// Renew implements the service.
func (s *Service) Renew(ctx context.Context, req *connect.Request[wirepb.RenewRequest]) (*connect.Response[wirepb.RenewResponse], error) {
	id, _, err := s.admit(ctx)
	if err != nil {
		return nil, err
	}
	der, err := s.deps.Authority.Sign(req.Msg.Csr, id)
	if err != nil {
		return nil, refuse(connect.CodeInvalidArgument, wire.ReasonRequest, "%w", err)
	}
	s.deps.Log.Info("certificate renewed", "identity", id.String(), "remote", requestOf(ctx).remote)
	return connect.NewResponse(&wirepb.RenewResponse{Certificate: der, CaBundle: s.deps.Authority.Bundle()}), nil
}
