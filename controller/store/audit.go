package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weft/model"
)

// AuditEntry is one change of one resource. Before and After are the resource
// as stored; secrets are never part of one.
type AuditEntry struct {
	Time   time.Time       `json:"time"`
	Actor  string          `json:"actor"`
	Remote string          `json:"remote,omitempty"`
	Verb   string          `json:"verb"` // create, update, delete; silent, heard
	Object string          `json:"object"`
	Before json.RawMessage `json:"before,omitempty"`
	After  json.RawMessage `json:"after,omitempty"`
	// Message is of a thing that happened, which changed no resource.
	Message string `json:"message,omitempty"`
}

func (s *Store) auditOp(by Change, verb string, r model.Resource, before, after []byte) clientv3.Op {
	return s.entryOp(AuditEntry{Actor: by.Actor, Remote: by.Remote, Verb: verb, Object: model.Ref(r), Before: before, After: after})
}

func (s *Store) entryOp(e AuditEntry) clientv3.Op {
	e.Time = s.now().UTC()
	entry, err := json.Marshal(e)
	if err != nil {
		panic(fmt.Sprintf("marshal audit entry of %s: %v", e.Object, err)) // only our own types
	}
	// The time orders the keys; the object keeps two in one nanosecond apart.
	k := fmt.Sprintf("%s%s/%s", prefixAudit, e.Time.Format("20060102T150405.000000000"), e.Object)
	return clientv3.OpPut(k, string(entry))
}

// Note keeps among the changes something that happened to a resource.
func (s *Store) Note(ctx context.Context, by Change, verb string, kind model.Kind, name, message string) error {
	e := AuditEntry{Actor: by.Actor, Remote: by.Remote, Verb: verb, Object: strings.ToLower(string(kind)) + "/" + name, Message: message}
	_, err := s.client.Do(ctx, s.entryOp(e))
	if err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	return nil
}

// Audit returns the newest entries first, at most limit of them.
func (s *Store) Audit(ctx context.Context, limit int64) ([]AuditEntry, error) {
	resp, err := s.client.Get(ctx, prefixAudit, clientv3.WithPrefix(), clientv3.WithLimit(limit),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	entries := make([]AuditEntry, 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		var e AuditEntry
		if err := json.Unmarshal(kv.Value, &e); err != nil {
			return nil, fmt.Errorf("decode audit entry %s: %w", kv.Key, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// PruneAudit removes entries older than the given time.
func (s *Store) PruneAudit(ctx context.Context, before time.Time) (int64, error) {
	end := prefixAudit + before.UTC().Format("20060102T150405.000000000")
	resp, err := s.client.Delete(ctx, prefixAudit, clientv3.WithRange(end))
	if err != nil {
		return 0, fmt.Errorf("prune audit log: %w", err)
	}
	return resp.Deleted, nil
}
