package store

import (
	"errors"
	"testing"
	"time"

	"weft/model"
)

var by = Change{Actor: "test"}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func group(name string) *model.Group {
	g := model.MustKind(model.KindGroup).New().(*model.Group)
	g.Metadata.Name = name
	g.Spec.Selector = &model.Selector{}
	return g
}

func TestStoreKeepsAndGuardsResources(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ctx := t.Context()
	g := group("web")
	if err := s.Create(ctx, by, g, []byte("hash")); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(ctx, by, group("web"), nil); !errors.Is(err, ErrExists) {
		t.Errorf("second create: %v", err)
	}
	stale := *g
	g.Metadata.Labels = map[string]string{"a": "b"}
	if err := s.Update(ctx, by, g); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(ctx, by, &stale); !errors.Is(err, ErrConflict) {
		t.Errorf("stale update: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, dir)
	defer s.Close()
	back, err := s.Get(ctx, model.KindGroup, "web")
	if err != nil || back.Meta().Labels["a"] != "b" || back.Meta().ResourceVersion != g.Metadata.ResourceVersion {
		t.Fatalf("after reopening: %+v, %v", back, err)
	}
	if secret, err := s.Secret(ctx, model.KindGroup, "web"); err != nil || string(secret) != "hash" {
		t.Errorf("secret: %q, %v", secret, err)
	}
	if err := s.Delete(ctx, by, model.KindGroup, "web", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Secret(ctx, model.KindGroup, "web"); !errors.Is(err, ErrNotFound) {
		t.Errorf("secret outlives its resource: %v", err)
	}
	entries, err := s.Audit(ctx, 10)
	if err != nil || len(entries) != 3 || entries[0].Verb != "delete" || entries[2].Verb != "create" {
		t.Errorf("audit: %+v, %v", entries, err)
	}
}

func TestPruneAuditForgetsOnlyWhatIsOld(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	ctx := t.Context()
	now := time.Now()
	for i, age := range []time.Duration{48 * time.Hour, time.Hour} {
		s.now = func() time.Time { return now.Add(-age) }
		if err := s.Create(ctx, by, group([]string{"old", "new"}[i]), nil); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := s.PruneAudit(ctx, now.Add(-24*time.Hour)); n != 1 || err != nil {
		t.Errorf("pruned %d, %v", n, err)
	}
	if left, err := s.Audit(ctx, 10); err != nil || len(left) != 1 || left[0].Object != "group/new" {
		t.Errorf("left: %+v, %v", left, err)
	}
}

func TestWatchReportsEveryChangeAfterTheList(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	ctx := t.Context()
	if err := s.Create(ctx, by, group("before"), nil); err != nil {
		t.Fatal(err)
	}
	list, rev, err := s.List(ctx, model.KindGroup)
	if err != nil || len(list) != 1 {
		t.Fatalf("list: %v, %v", list, err)
	}
	g := group("after")
	if err := s.Create(ctx, by, g, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(ctx, by, g); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, by, model.KindGroup, "after", ""); err != nil {
		t.Fatal(err)
	}
	events := s.Watch(ctx, "", rev)
	for _, want := range []EventType{Added, Modified, Deleted} {
		select {
		case e := <-events:
			if e.Type != want || e.Resource.Meta().Name != "after" {
				t.Errorf("got %s %s, want %s after", e.Type, e.Resource.Meta().Name, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no %s event", want)
		}
	}
}
