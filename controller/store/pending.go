package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weft/model"
)

const prefixPending = prefix + "pending/"

// Pending is a set of writes that is taken back at the deadline unless somebody
// confirms it before.
type Pending struct {
	ID       string    `json:"id"`
	Actor    string    `json:"actor"`
	Deadline time.Time `json:"deadline"`
	Writes   []Write   `json:"writes"` // in the order they were made
}

// Write is one of them. It is recorded before it is made, so that one cut short
// is known too: whether it was made shows in what is stored.
type Write struct {
	Kind   model.Kind      `json:"kind"`
	Name   string          `json:"name"`
	Before json.RawMessage `json:"before,omitempty"` // none where the write creates
	After  json.RawMessage `json:"after"`
}

// PutPending stores or replaces one.
func (s *Store) PutPending(ctx context.Context, p *Pending) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if err := s.room(); err != nil {
		return fmt.Errorf("keep what waits for confirmation: %w", err)
	}
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode what waits for confirmation: %w", err)
	}
	if _, err := s.client.Put(ctx, prefixPending+p.ID, string(data)); err != nil {
		return fmt.Errorf("keep what waits for confirmation: %w", s.silence(err))
	}
	return nil
}

// Pending returns all that wait, by id.
func (s *Store) Pending(ctx context.Context) ([]*Pending, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	resp, err := s.client.Get(ctx, prefixPending, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
	if err != nil {
		return nil, fmt.Errorf("list what waits for confirmation: %w", s.silence(err))
	}
	out := make([]*Pending, 0, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		var p Pending
		if err := json.Unmarshal(kv.Value, &p); err != nil {
			return nil, fmt.Errorf("read %s: %w", kv.Key, err)
		}
		out = append(out, &p)
	}
	return out, nil
}

// DeletePending forgets one, or returns ErrNotFound.
func (s *Store) DeletePending(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	resp, err := s.client.Delete(ctx, prefixPending+id)
	if err != nil {
		return fmt.Errorf("forget what waited for confirmation: %w", s.silence(err))
	}
	if resp.Deleted == 0 {
		return fmt.Errorf("nothing waits for confirmation as %q: %w", id, ErrNotFound)
	}
	return nil
}
