package api

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"weft/controller/observe"
	"weft/controller/store"
	"weft/model"
)

// quietWorld is an observer that says of policies what a test wants.
type quietWorld struct {
	Observer
	status   model.PolicyStatus
	recorded observe.Recorded
}

func (w *quietWorld) PolicyStatus(*model.Policy) model.PolicyStatus { return w.status }
func (w *quietWorld) Conversations(time.Time) observe.Recorded      { return w.recorded }
func (w *quietWorld) all(hosts int) {
	w.status = model.PolicyStatus{State: model.PolicyStaged, Targeted: hosts, Applied: hosts}
}

func TestPromotion(t *testing.T) {
	ctx := t.Context()
	st, err := store.Open(ctx, store.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	w := &quietWorld{Observer: observe.New(observe.Config{}, observe.Deps{})}
	w.all(2)
	a, err := New(Config{}, Deps{Store: st, Observer: w, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	sel, err := model.ParseSelector("app=web")
	if err != nil {
		t.Fatal(err)
	}
	p := model.MustKind(model.KindPolicy).New().(*model.Policy)
	p.Metadata.Name = "web"
	p.Spec = model.PolicySpec{Stage: model.StageStaged, PromoteAfter: "1h", Subject: model.PolicySubject{Selector: &sel}, Ingress: []model.PolicyRule{}}
	if _, err := a.create(ctx, p, writing{}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	stage := func(after time.Duration) model.Stage {
		t.Helper()
		if err := a.promote(ctx, began.Add(after)); err != nil {
			t.Fatal(err)
		}
		return stageOf(t, ctx, st)
	}
	denial := func(at time.Duration, app string) observe.Recorded {
		return observe.Recorded{Conversations: []*observe.Conversation{{Labels: map[string]string{"app": app}, Action: model.ActionAllow, StagedAction: model.ActionDeny, Last: began.Add(at)}}}
	}
	stage(0)
	for _, c := range []struct {
		what string
		at   time.Duration
		set  func()
		want model.Stage
	}{
		{"not yet", 59 * time.Minute, func() {}, model.StageStaged},
		{"a denial that would be", 61 * time.Minute, func() { w.recorded = denial(60*time.Minute, "web") }, model.StageStaged},
		{"an hour after the denial is not over", 120 * time.Minute, func() {}, model.StageStaged},
		{"a host is away", 122 * time.Minute, func() { w.status.Applied = 1 }, model.StageStaged},
		{"it is back", 124 * time.Minute, func() { w.all(2) }, model.StageStaged},
		{"conversations were lost", 180 * time.Minute, func() { w.recorded.Lost++ }, model.StageStaged},
		{"another workload's denial", 200 * time.Minute, func() { w.recorded = denial(199*time.Minute, "db"); w.recorded.Lost = 1 }, model.StageStaged},
		{"quiet for an hour", 241 * time.Minute, func() {}, model.StageActive},
	} {
		c.set()
		if got := stage(c.at); got != c.want {
			t.Fatalf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}

func stageOf(t *testing.T, ctx context.Context, st *store.Store) model.Stage {
	t.Helper()
	r, err := st.Get(ctx, model.KindPolicy, "web")
	if err != nil {
		t.Fatal(err)
	}
	return r.(*model.Policy).Spec.Stage
}
