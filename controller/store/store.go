// Package store keeps the resources in etcd: embedded, in a directory of the
// controller's own, or a cluster that the owner runs. Both are used through
// the same client.
//
// Layout of the keys, all under /weft/v1/:
//
//	resources/PLURAL/NAME   the resource, JSON
//	secrets/PLURAL/NAME     what is stored for its secret (a hash), never shown
//	audit/REVTIME           one change: who, what, before and after, JSON
//
// A change and its audit entry are one transaction.
package store

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/model"
)

// What a caller branches on.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("already exists")
	ErrConflict = errors.New("changed meanwhile")
)

const (
	prefix          = "/weft/v1/"
	prefixResources = prefix + "resources/"
	prefixSecrets   = prefix + "secrets/"
	prefixAudit     = prefix + "audit/"
)

// Config says where the resources are kept. Either Dir (embedded) or Endpoints.
type Config struct {
	Dir       string
	Endpoints []string
	TLS       *tls.Config
}

// Store is safe for concurrent use.
type Store struct {
	at     string // where the resources are, for people
	dir    string // of the embedded etcd; "" for a cluster
	client *clientv3.Client
	stop   func()
	dead   <-chan error
	now    func() time.Time
}

// Open starts the embedded etcd or connects to the cluster.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s := &Store{now: time.Now}
	if len(cfg.Endpoints) > 0 {
		client, err := clientv3.New(clientv3.Config{Endpoints: cfg.Endpoints, TLS: cfg.TLS, DialTimeout: 5 * time.Second, Context: ctx})
		if err != nil {
			return nil, fmt.Errorf("connect to etcd at %v: %w", cfg.Endpoints, err)
		}
		s.at = "etcd at " + strings.Join(cfg.Endpoints, ", ")
		s.client, s.stop = client, func() { client.Close() }
		probe, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if _, err := client.Get(probe, prefix); err != nil {
			s.Close()
			return nil, fmt.Errorf("reach etcd at %v: %w", cfg.Endpoints, err)
		}
		return s, nil
	}
	return s, s.embed(ctx, cfg.Dir)
}

// Close stops the client, and the embedded etcd where there is one.
func (s *Store) Close() error {
	s.stop()
	return nil
}

// Dead yields an error when the embedded etcd has failed; nil for a cluster.
func (s *Store) Dead() <-chan error { return s.dead }

// answerWithin bounds one question to etcd: a person who waits longer thinks
// that nothing happens.
const answerWithin = 5 * time.Second

// ErrSilent says that etcd does not answer; whether a write has come about is
// not known.
var ErrSilent = errors.New("the store does not answer")

// silence names the store where a question to it has run out of time.
func (s *Store) silence(err error) error {
	if !errors.Is(err, context.DeadlineExceeded) && status.Code(err) != codes.DeadlineExceeded && status.Code(err) != codes.Unavailable {
		return err
	}
	return fmt.Errorf("%w (%s): %v; agents work on: look after it and repeat", ErrSilent, s.at, err)
}

// Change says who asks for a write, for the audit log.
type Change struct {
	Actor  string // "token/admin", "host/web-1", "controller"
	Remote string // address it came from
}

func key(kind model.Kind, name string) string {
	return prefixResources + model.MustKind(kind).Plural + "/" + name
}

func secretKey(kind model.Kind, name string) string {
	return prefixSecrets + model.MustKind(kind).Plural + "/" + name
}

func decode(kind model.Kind, value []byte, rev int64) (model.Resource, error) {
	r := model.MustKind(kind).New()
	if err := json.Unmarshal(value, r); err != nil {
		return nil, fmt.Errorf("decode stored %s: %w", kind, err)
	}
	r.Meta().ResourceVersion = strconv.FormatInt(rev, 10)
	return r, nil
}

func encode(r model.Resource) ([]byte, error) {
	m := r.Meta()
	version := m.ResourceVersion
	m.ResourceVersion = "" // it is the key's revision, not part of the value
	defer func() { m.ResourceVersion = version }()
	return json.Marshal(r)
}

// Get returns one resource, or ErrNotFound.
func (s *Store) Get(ctx context.Context, kind model.Kind, name string) (model.Resource, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	resp, err := s.client.Get(ctx, key(kind, name))
	if err != nil {
		return nil, fmt.Errorf("get %s %s: %w", kind, name, s.silence(err))
	}
	if len(resp.Kvs) == 0 {
		return nil, fmt.Errorf("%s %q: %w", kind, name, ErrNotFound)
	}
	return decode(kind, resp.Kvs[0].Value, resp.Kvs[0].ModRevision)
}

// List returns all of a kind, by name, and the revision they were read at.
func (s *Store) List(ctx context.Context, kind model.Kind) ([]model.Resource, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	resp, err := s.client.Get(ctx, key(kind, ""), clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
	if err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", kind, s.silence(err))
	}
	list := make([]model.Resource, 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		r, err := decode(kind, kv.Value, kv.ModRevision)
		if err != nil {
			return nil, 0, err
		}
		list = append(list, r)
	}
	return list, resp.Header.Revision, nil
}

// Create stores a new resource, or returns ErrExists. It fills in UID,
// creation time, generation and resource version. secret may be nil.
func (s *Store) Create(ctx context.Context, by Change, r model.Resource, secret []byte) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if err := s.room(); err != nil {
		return fmt.Errorf("create %s: %w", model.Ref(r), err)
	}
	kind, m := r.GetKind(), r.Meta()
	now := s.now().UTC().Truncate(time.Second)
	if m.UID == "" {
		m.UID = uuid.NewString()
	}
	m.CreationTimestamp, m.Generation = &now, 1
	value, err := encode(r)
	if err != nil {
		return fmt.Errorf("encode %s: %w", model.Ref(r), err)
	}
	ops := []clientv3.Op{clientv3.OpPut(key(kind, m.Name), string(value)), s.auditOp(by, "create", r, nil, value)}
	if secret != nil {
		ops = append(ops, clientv3.OpPut(secretKey(kind, m.Name), string(secret)))
	}
	resp, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key(kind, m.Name)), "=", 0)).Then(ops...).Commit()
	if err != nil {
		return fmt.Errorf("create %s: %w", model.Ref(r), s.silence(err))
	}
	if !resp.Succeeded {
		return fmt.Errorf("%s: %w", model.Ref(r), ErrExists)
	}
	m.ResourceVersion = strconv.FormatInt(resp.Header.Revision, 10)
	return nil
}

// Update replaces a resource that is still at r's resource version, or returns
// ErrConflict; ErrNotFound where it is gone. The caller keeps UID, creation
// time and generation as they should be.
func (s *Store) Update(ctx context.Context, by Change, r model.Resource) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if err := s.room(); err != nil {
		return fmt.Errorf("update %s: %w", model.Ref(r), err)
	}
	kind, m := r.GetKind(), r.Meta()
	rev, err := strconv.ParseInt(m.ResourceVersion, 10, 64)
	if err != nil {
		return fmt.Errorf("update %s: resourceVersion %q is no number", model.Ref(r), m.ResourceVersion)
	}
	value, err := encode(r)
	if err != nil {
		return fmt.Errorf("encode %s: %w", model.Ref(r), err)
	}
	k := key(kind, m.Name)
	before, err := s.client.Get(ctx, k)
	if err != nil {
		return fmt.Errorf("update %s: %w", model.Ref(r), s.silence(err))
	}
	if len(before.Kvs) == 0 {
		return fmt.Errorf("%s: %w", model.Ref(r), ErrNotFound)
	}
	resp, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(k), "=", rev)).
		Then(clientv3.OpPut(k, string(value)), s.auditOp(by, "update", r, before.Kvs[0].Value, value)).Commit()
	if err != nil {
		return fmt.Errorf("update %s: %w", model.Ref(r), s.silence(err))
	}
	if !resp.Succeeded {
		return fmt.Errorf("%s: %w: it is at version %d, yours is %d; get it again and repeat the change",
			model.Ref(r), ErrConflict, before.Kvs[0].ModRevision, rev)
	}
	m.ResourceVersion = strconv.FormatInt(resp.Header.Revision, 10)
	return nil
}

// Delete removes a resource and its secret, or returns ErrNotFound. A version
// other than "" must be the present one.
func (s *Store) Delete(ctx context.Context, by Change, kind model.Kind, name, version string) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	r, err := s.Get(ctx, kind, name)
	if err != nil {
		return err
	}
	if version == "" {
		version = r.Meta().ResourceVersion
	}
	rev, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return fmt.Errorf("delete %s: resourceVersion %q is no number", model.Ref(r), version)
	}
	if err := s.room(); err != nil {
		return fmt.Errorf("delete %s: %w", model.Ref(r), err)
	}
	value, err := encode(r)
	if err != nil {
		return fmt.Errorf("encode %s: %w", model.Ref(r), err)
	}
	resp, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key(kind, name)), "=", rev)).
		Then(clientv3.OpDelete(key(kind, name)), clientv3.OpDelete(secretKey(kind, name)), s.auditOp(by, "delete", r, value, nil)).Commit()
	if err != nil {
		return fmt.Errorf("delete %s: %w", model.Ref(r), s.silence(err))
	}
	if !resp.Succeeded {
		return fmt.Errorf("%s: %w", model.Ref(r), ErrConflict)
	}
	return nil
}

// Secret returns what Create stored beside a resource, or ErrNotFound.
func (s *Store) Secret(ctx context.Context, kind model.Kind, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	resp, err := s.client.Get(ctx, secretKey(kind, name))
	if err != nil {
		return nil, fmt.Errorf("get secret of %s %s: %w", kind, name, s.silence(err))
	}
	if len(resp.Kvs) == 0 {
		return nil, fmt.Errorf("secret of %s %q: %w", kind, name, ErrNotFound)
	}
	return resp.Kvs[0].Value, nil
}
