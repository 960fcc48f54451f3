package api

import (
	"context"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"weft/controller/observe"
	"weft/controller/store"
	"weft/model"
)

// A rollback that falls due while no controller runs is made by the next one.
func TestRollbackSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	ctx := t.Context()
	open := func() (*store.Store, *API) {
		t.Helper()
		st, err := store.Open(ctx, store.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		a, err := New(Config{}, Deps{Store: st, Observer: observe.New(observe.Config{}, observe.Deps{}), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return st, a
	}
	group := func(selector string) *model.Group {
		s, err := model.ParseSelector(selector)
		if err != nil {
			t.Fatal(err)
		}
		g := model.MustKind(model.KindGroup).New().(*model.Group)
		g.Metadata.Name, g.Spec.Selector = "web", &s
		return g
	}
	st, a := open()
	if _, err := a.create(ctx, group("app=web"), writing{}); err != nil {
		t.Fatal(err)
	}
	p, err := a.begin(ctx, "1s")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.replace(ctx, group("app=shop"), writing{confirmation: p.ID}); err != nil {
		t.Fatal(err)
	}
	// A write that was recorded and never made, as by a controller that was killed.
	ghost := group("app=ghost")
	ghost.Metadata.Name = "ghost"
	if err := a.note(ctx, p.ID, nil, ghost); err != nil {
		t.Fatal(err)
	}
	st.Close()
	time.Sleep(time.Until(p.Deadline))

	st, a = open()
	defer st.Close()
	runCtx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- a.Run(runCtx, func() {}) }()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		list, err := st.Pending(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("not rolled back")
		}
	}
	cancel()
	<-done
	r, err := st.Get(ctx, model.KindGroup, "web")
	if err != nil {
		t.Fatal(err)
	}
	if got := r.(*model.Group); got.Spec.Selector.String() != "app=web" || got.Metadata.Generation != 3 {
		t.Errorf("selector %s, generation %d", got.Spec.Selector, got.Metadata.Generation)
	}
	var late *Problem
	if err := a.asProblem(a.note(ctx, p.ID, nil, group("x=y"))); !asProblem(err, &late) || late.Status != http.StatusNotFound {
		t.Errorf("a write after the deadline: %v", err)
	}
}

func asProblem(err error, into **Problem) bool {
	p, ok := err.(*Problem)
	*into = p
	return ok
}
