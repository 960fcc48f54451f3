package store

import (
	"context"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weft/model"
)

// EventType says what happened to a resource.
type EventType string

// What a watch reports.
const (
	Added    EventType = "ADDED"
	Modified EventType = "MODIFIED"
	Deleted  EventType = "DELETED"
)

// Event is one change. For Deleted, Resource is what it was.
type Event struct {
	Type     EventType
	Resource model.Resource
	Revision int64
}

// Watch sends every change of a kind ("" for all kinds) made after a revision,
// in order, until ctx ends or the watch breaks (the revision was compacted,
// etcd is gone): then the channel is closed, and the caller lists again.
func (s *Store) Watch(ctx context.Context, kind model.Kind, after int64) <-chan Event {
	from := prefixResources
	if kind != "" {
		from = key(kind, "")
	}
	out := make(chan Event)
	changes := s.client.Watch(clientv3.WithRequireLeader(ctx), from, clientv3.WithPrefix(), clientv3.WithRev(after+1), clientv3.WithPrevKV())
	go func() {
		defer close(out)
		for resp := range changes {
			for _, change := range resp.Events {
				e, err := event(change)
				if err != nil {
					continue // a kind of a newer version than ours
				}
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

func event(change *clientv3.Event) (Event, error) {
	plural, _, _ := strings.Cut(strings.TrimPrefix(string(change.Kv.Key), prefixResources), "/")
	info, err := model.FindKind(plural)
	if err != nil {
		return Event{}, fmt.Errorf("watch: %w", err)
	}
	kv, typ := change.Kv, Modified
	switch {
	case change.Type == clientv3.EventTypeDelete:
		kv, typ = change.PrevKv, Deleted
		if kv == nil {
			return Event{}, fmt.Errorf("watch: deleted %s without its last value", change.Kv.Key)
		}
	case change.IsCreate():
		typ = Added
	}
	r, err := decode(info.Kind, kv.Value, change.Kv.ModRevision)
	return Event{typ, r, change.Kv.ModRevision}, err
}
