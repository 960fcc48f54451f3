package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"weft/controller/store"
	"weft/model"
)

// WatchEvent is one line of a watch. A watch begins with everything there is,
// as ADDED, and one SYNCED; HEARTBEAT comes when nothing else does.
type WatchEvent struct {
	Type   string          `json:"type" enum:"ADDED,MODIFIED,DELETED,SYNCED,HEARTBEAT"`
	Object json.RawMessage `json:"object,omitempty" doc:"The resource, with its status; of DELETED the last that was seen."`
}

// The events that no store has.
const (
	eventSynced    = "SYNCED"
	eventHeartbeat = "HEARTBEAT"
)

type watchOutput struct {
	ContentType string `header:"Content-Type"`
	Body        func(huma.Context)
}

func (a *API) registerWatch(info model.KindInfo) {
	op := huma.Operation{
		OperationID: "watch" + plural(string(info.Kind)), Method: http.MethodGet, Path: "/api/v1/watch/" + info.Plural,
		Tags: []string{string(info.Kind)}, Summary: "Watch " + info.Plural + " and their status",
		Description: "One JSON document a line, until the client leaves. Changes that follow one another within 100 ms may be reported as one.",
	}
	handle(a, op, func(ctx context.Context, in *listInput) (*watchOutput, error) {
		sel, err := parseSelector("labelSelector", in.Selector)
		if err != nil {
			return nil, err
		}
		select {
		case a.watches <- struct{}{}:
		default:
			return nil, problem(http.StatusServiceUnavailable, "%d watches are open, which is the limit; close some", maxWatches)
		}
		return &watchOutput{ContentType: "application/x-ndjson", Body: func(hc huma.Context) {
			defer func() { <-a.watches }()
			r, w := humago.Unwrap(hc)
			w.Header().Set("Content-Type", "application/x-ndjson")
			(&watch{api: a, info: info, sel: sel, w: w, rc: http.NewResponseController(w), last: map[string][]byte{}}).run(r.Context())
		}}, nil
	})
	a.huma.OpenAPI().Paths[op.Path].Get.Responses["200"] = &huma.Response{Description: "The stream.", Content: map[string]*huma.MediaType{
		"application/x-ndjson": {Schema: watchSchema(a.huma.OpenAPI().Components.Schemas)},
	}}
}

// watch compares what is with what it last said, so what it says depends on the
// present state alone and no change of anything can be forgotten.
type watch struct {
	api  *API
	info model.KindInfo
	sel  *model.Selector
	w    http.ResponseWriter
	rc   *http.ResponseController
	last map[string][]byte // as sent, by name
}

func (w *watch) run(ctx context.Context) {
	var events <-chan store.Event
	beat := time.NewTicker(w.api.cfg.Heartbeat)
	defer beat.Stop()
	for first := true; ; first = false {
		changed := w.api.seen.Changed() // before reading, so that nothing is missed between
		if events == nil && !w.info.Observed {
			_, rev, err := w.api.store.List(ctx, w.info.Kind)
			if err != nil {
				return
			}
			events = w.api.store.Watch(ctx, w.info.Kind, rev)
		}
		if err := w.report(ctx); err != nil {
			return
		}
		if first && w.send(WatchEvent{Type: eventSynced}) != nil {
			return
		}
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return
			case <-changed:
				waiting = false
			case _, ok := <-events:
				if !ok {
					events = nil
				}
				waiting = false
			case <-beat.C:
				if w.send(WatchEvent{Type: eventHeartbeat}) != nil {
					return
				}
			}
		}
		if events = settle(ctx, events); ctx.Err() != nil {
			return
		}
	}
}

// settle lets changes that come in bursts come to rest, and drains them.
func settle(ctx context.Context, events <-chan store.Event) <-chan store.Event {
	wait := time.NewTimer(minInterval)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return events
		case <-wait.C:
			return events
		case _, ok := <-events:
			if !ok {
				events = nil // a nil channel is never ready
			}
		}
	}
}

func (w *watch) report(ctx context.Context) error {
	list, _, err := w.api.list(ctx, w.info, w.sel)
	if err != nil {
		return err
	}
	now := make(map[string][]byte, len(list))
	for _, r := range list {
		name := r.Meta().Name
		data, err := json.Marshal(r)
		if err != nil {
			return err
		}
		now[name] = data
		before, known := w.last[name]
		switch {
		case !known:
			err = w.send(WatchEvent{string(store.Added), data})
		case !bytes.Equal(before, data):
			err = w.send(WatchEvent{string(store.Modified), data})
		}
		if err != nil {
			return err
		}
	}
	var gone []string
	for name := range w.last {
		if now[name] == nil {
			gone = append(gone, name)
		}
	}
	slices.Sort(gone)
	for _, name := range gone {
		if err := w.send(WatchEvent{string(store.Deleted), w.last[name]}); err != nil {
			return err
		}
	}
	w.last = now
	return nil
}

// send writes one line. A client that does not read for ten seconds is left.
func (w *watch) send(e WatchEvent) error {
	_ = w.rc.SetWriteDeadline(time.Now().Add(10 * time.Second)) // not every writer has one
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if _, err := w.w.Write(append(data, '\n')); err != nil {
		return err
	}
	return w.rc.Flush()
}

func watchSchema(r huma.Registry) *huma.Schema {
	return &huma.Schema{Type: "object", Description: "One line each.", Required: []string{"type"}, Properties: map[string]*huma.Schema{
		"type":   {Type: "string", Enum: []any{string(store.Added), string(store.Modified), string(store.Deleted), eventSynced, eventHeartbeat}},
		"object": {Type: "object", Description: "The resource with its status; of DELETED the last that was seen."},
	}}
}
