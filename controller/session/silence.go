package session

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"weft/controller/store"
	"weft/model"
)

// silenceLooks is how often it is looked who is silent, and silenceNotes how many
// entries one look may add to the audit log; the rest comes at the next.
const (
	silenceLooks = 2 * time.Second
	silenceNotes = 50
)

// noteSilence writes into the log and the audit log which hosts have fallen silent
// and which are back. One whose agent is only restarted is in neither.
func (s *Service) noteSilence(ctx context.Context) {
	tick := time.NewTicker(min(silenceLooks, s.cfg.Heartbeat))
	defer tick.Stop()
	noted := map[string]time.Time{} // by host: since when it was silent
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.noteSilenceOf(ctx, s.deps.Observer.Silent(), noted)
		}
	}
}

func (s *Service) noteSilenceOf(ctx context.Context, silent map[string]model.Condition, noted map[string]time.Time) {
	left := silenceNotes
	for _, name := range slices.Sorted(maps.Keys(silent)) {
		c := silent[name]
		if _, done := noted[name]; done || left == 0 || s.now().Sub(c.Since) < missedBeats*s.cfg.Heartbeat {
			continue
		}
		left--
		s.deps.Log.Warn("host is silent", "host", name, "since", c.Since)
		s.note(ctx, "silent", name, c.Message)
		noted[name] = c.Since
	}
	for _, name := range slices.Sorted(maps.Keys(noted)) {
		if _, still := silent[name]; still || left == 0 {
			continue
		}
		left--
		since := noted[name]
		delete(noted, name)
		h, err := s.deps.Store.Get(ctx, model.KindHost, name)
		if err != nil || revoked(h) {
			continue // not back, but gone: that is in the log already
		}
		s.deps.Log.Info("host is heard again", "host", name, "since", since)
		s.note(ctx, "heard", name, fmt.Sprintf("heard again after %s", s.now().Sub(since).Round(time.Second)))
	}
}

func (s *Service) note(ctx context.Context, verb, host, message string) {
	err := s.deps.Store.Note(ctx, store.Change{Actor: "controller"}, verb, model.KindHost, host, message)
	if err != nil && ctx.Err() == nil {
		s.deps.Log.Warn("write into the audit log", "verb", verb, "host", host, "error", err)
	}
}
