package run

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func recorder(name string, log *[]string, fail error) Service {
	return Service{Name: name, Run: func(ctx context.Context, ready func()) error {
		*log = append(*log, "start "+name)
		ready()
		if fail != nil {
			return fail
		}
		<-ctx.Done()
		*log = append(*log, "stop "+name)
		return nil
	}}
}

func TestAllStartsInOrderAndStopsInReverse(t *testing.T) {
	var log []string
	ctx, cancel := context.WithCancel(t.Context())
	last := Service{Name: "c", Run: func(ctx context.Context, ready func()) error {
		ready()
		cancel()
		<-ctx.Done()
		log = append(log, "stop c")
		return nil
	}}
	if err := All(ctx, slog.New(slog.DiscardHandler), recorder("a", &log, nil), recorder("b", &log, nil), last); err != nil {
		t.Fatal(err)
	}
	want := "start a,start b,stop c,stop b,stop a"
	if got := strings.Join(log, ","); got != want {
		t.Errorf("order: got %s, want %s", got, want)
	}
}

func TestAllStopsAtTheFirstFailure(t *testing.T) {
	var log []string
	boom := errors.New("boom")
	err := All(t.Context(), slog.New(slog.DiscardHandler), recorder("a", &log, nil),
		Service{Name: "b", Run: func(context.Context, func()) error { return boom }},
		recorder("never", &log, nil))
	if !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "b: ") {
		t.Errorf("got %v, want b: boom", err)
	}
	if got := strings.Join(log, ","); got != "start a,stop a" {
		t.Errorf("got %s", got)
	}
}

func TestAllNamesTheServiceThatDoesNotStop(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := All(ctx, slog.New(slog.DiscardHandler), Service{Name: "stuck", Stop: 10 * time.Millisecond,
		Run: func(context.Context, func()) error { <-release; return nil }})
	if err == nil || !strings.Contains(err.Error(), "stuck: still running") {
		t.Errorf("got %v", err)
	}
}
