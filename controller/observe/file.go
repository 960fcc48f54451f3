package observe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"weft/wire/wirepb"
)

// saveEvery bounds how often the file is written.
const saveEvery = time.Second

// record is one host in the file.
type record struct {
	LastSeen  time.Time         `json:"lastSeen"`
	Facts     json.RawMessage   `json:"facts,omitempty"`
	Workloads []json.RawMessage `json:"workloads,omitempty"`
}

// Run writes the file after each change of the inventory, at most once a
// second, and once more when ctx ends.
func (o *Observer) Run(ctx context.Context, ready func()) error {
	ready()
	// Who has not come back by then is silent, though nothing else changes.
	late := time.AfterFunc(returnWithin, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.touch(false)
	})
	defer late.Stop()
	talk := make(chan error, 1)
	go func() { talk <- o.keepTalk(ctx) }()
	err := o.keep(ctx)
	return errors.Join(err, <-talk)
}

func (o *Observer) keep(ctx context.Context) error {
	if o.cfg.File == "" {
		<-ctx.Done()
		return nil
	}
	for {
		changed := o.InventoryChanged()
		select {
		case <-ctx.Done():
			return o.save()
		case <-changed:
		case <-time.After(30 * time.Second): // last-seen times alone wake nobody
		}
		select {
		case <-ctx.Done():
		case <-time.After(saveEvery):
		}
		if err := o.save(); err != nil {
			o.deps.Log.Warn("keep last reports of the hosts", "error", err)
		}
	}
}

func (o *Observer) save() error {
	o.mu.Lock()
	if !o.unsaved || o.cfg.File == "" {
		o.mu.Unlock()
		return nil
	}
	o.unsaved = false
	hosts := map[string]host{}
	for uid, h := range o.hosts {
		hosts[uid] = host{lastSeen: h.lastSeen, facts: h.facts, workloads: maps.Clone(h.workloads)}
	}
	o.mu.Unlock()

	records := map[string]record{}
	for uid, h := range hosts {
		r := record{LastSeen: h.lastSeen}
		var err error
		if h.facts != nil {
			if r.Facts, err = protojson.Marshal(h.facts); err != nil {
				return fmt.Errorf("encode facts of %s: %w", uid, err)
			}
		}
		for _, id := range slices.Sorted(maps.Keys(h.workloads)) {
			raw, err := protojson.Marshal(h.workloads[id])
			if err != nil {
				return fmt.Errorf("encode workload %s of %s: %w", id, uid, err)
			}
			r.Workloads = append(r.Workloads, raw)
		}
		records[uid] = r
	}
	data, err := json.Marshal(records)
	if err != nil {
		return fmt.Errorf("encode last reports: %w", err)
	}
	return replaceFile(o.cfg.File, data)
}

// replaceFile puts a new file in the old one's place, or leaves the old one.
func replaceFile(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

func (o *Observer) load() {
	if o.cfg.File == "" {
		return
	}
	data, err := os.ReadFile(o.cfg.File)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var records map[string]record
	if err == nil {
		err = json.Unmarshal(data, &records)
	}
	if err != nil {
		o.deps.Log.Warn("pass over the file of last reports; agents will report anew", "file", o.cfg.File, "error", err)
		return
	}
	lenient := protojson.UnmarshalOptions{DiscardUnknown: true}
	for uid, r := range records {
		h := o.host(uid)
		h.lastSeen = r.LastSeen
		var facts wirepb.HostFacts
		if len(r.Facts) > 0 && lenient.Unmarshal(r.Facts, &facts) == nil {
			h.facts = &facts
		}
		for _, raw := range r.Workloads {
			var w wirepb.Workload
			if lenient.Unmarshal(raw, &w) == nil && w.Id != "" {
				h.workloads[w.Id] = &w
			}
		}
	}
}
