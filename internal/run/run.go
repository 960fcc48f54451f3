// Package run starts the services of a program in order and stops them in
// reverse, each within a deadline.
package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Service is one part of a program. Run works until ctx ends or the part
// fails; it calls ready once, when those started after it may rely on it. A
// Run that returns nil before ctx ends stops the program without an error.
type Service struct {
	Name string
	Run  func(ctx context.Context, ready func()) error
	// Stop bounds how long the service may take to stop; 10 s unless given.
	Stop time.Duration
}

const defaultStop = 10 * time.Second

type running struct {
	Service
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// All starts the services in order, waiting for each to be ready, and returns
// when all have stopped: at the first that exits, or when ctx ends. The error
// joins those of every service, each under its name.
func All(ctx context.Context, log *slog.Logger, services ...Service) error {
	exited := make(chan *running, len(services))
	var started []*running
	for _, s := range services {
		r := start(s, exited)
		started = append(started, r.running)
		select {
		case <-r.ready:
			log.Debug("service ready", "service", s.Name)
			continue
		case <-exited:
		case <-ctx.Done():
		}
		return stop(ctx, log, started)
	}
	select {
	case <-exited:
	case <-ctx.Done():
	}
	return stop(ctx, log, started)
}

type starting struct {
	*running
	ready chan struct{}
}

func start(s Service, exited chan<- *running) starting {
	// Not derived from the caller's context: stopping is ordered, below.
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Service: s, cancel: cancel, done: make(chan struct{})}
	ready := make(chan struct{})
	go func() {
		defer close(r.done)
		var called bool
		r.err = s.Run(ctx, func() {
			if !called {
				called = true
				close(ready)
			}
		})
		exited <- r
	}()
	return starting{r, ready}
}

func stop(ctx context.Context, log *slog.Logger, started []*running) error {
	var errs []error
	for i := len(started) - 1; i >= 0; i-- {
		r := started[i]
		limit := r.Stop
		if limit == 0 {
			limit = defaultStop
		}
		r.cancel()
		select {
		case <-r.done:
			if r.err != nil && !errors.Is(r.err, context.Canceled) {
				errs = append(errs, fmt.Errorf("%s: %w", r.Name, r.err))
			}
		case <-time.After(limit):
			errs = append(errs, fmt.Errorf("%s: still running %s after it was told to stop", r.Name, limit))
		}
		log.Debug("service stopped", "service", r.Name)
	}
	return errors.Join(errs...)
}
