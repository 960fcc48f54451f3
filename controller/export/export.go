// Package export sends on to other systems what the flow store has committed. Each
// exporter follows the store by id and keeps how far it is in a file: ingest never
// waits for it, and what a receiver has not taken while it was away waits where it
// is kept anyway, in the store.
package export

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"weft/controller/flowstore"
)

// Config of an Export. Zero values take the defaults.
type Config struct {
	// Dir keeps how far exporters are; it is made. Empty keeps it in memory.
	Dir       string
	Exporters []Exporter
	// Sums are figures for Prometheus; nil are none.
	Sums *Sums
	// Poll is how often it is looked for new flows: 1 s unless given.
	Poll time.Duration
	// Retry is the first pause after a failure, which doubles to a minute: 1 s
	// unless given.
	Retry time.Duration
}

// Source is where flows come from; flowstore.Store is one.
type Source interface {
	Last() (uint64, error)
	Began() (uint64, error)
	Forgotten(ctx context.Context, after uint64) (gone, next uint64, err error)
	Follow(ctx context.Context, q flowstore.Query, after uint64, many int) ([]flowstore.Flow, uint64, error)
}

// Deps of an Export.
type Deps struct {
	Flows Source
	// Keep is how long the source keeps flows.
	Keep time.Duration
	// Stdout is what jsonLines with stdout writes to.
	Stdout io.Writer
	// Alert is told of what is wrong with an exporter, and with an empty message when
	// that is over.
	Alert func(exporter string, since time.Time, message string)
	Log   *slog.Logger
}

// Export is the component.
type Export struct {
	cfg       Config
	deps      Deps
	followers []*follower
	sums      *sums
}

// sender takes flows to one receiver. It is used by one goroutine.
type sender interface {
	// send returns how many of the flows, from the first on, the receiver has; the
	// error says why not all of them, and is a later where the receiver said when to
	// try again.
	send(ctx context.Context, flows []flowstore.Flow) (n int, err error)
	// close ends what send has opened.
	close()
}

// refuser is a sender that knows how many flows its receiver would never take.
type refuser interface{ refusals() uint64 }

// later is an error of a receiver that says when to come again.
type later struct {
	error
	in time.Duration
}

// New reads how far exporters are.
func New(cfg Config, deps Deps) (*Export, error) {
	if deps.Flows == nil {
		return nil, errors.New("an export needs a store of flows")
	}
	if cfg.Poll == 0 {
		cfg.Poll = time.Second
	}
	if cfg.Retry == 0 {
		cfg.Retry = time.Second
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Alert == nil {
		deps.Alert = func(string, time.Time, string) {}
	}
	e := &Export{cfg: cfg, deps: deps}
	last, away := deps.Flows.Last()
	for i := range cfg.Exporters {
		x := &cfg.Exporters[i]
		to, err := x.sender(deps)
		if err != nil {
			return nil, err
		}
		c, err := openCursor(cfg.Dir, x.Name)
		if err == nil && away == nil {
			err = c.place(last)
		}
		if err != nil {
			return nil, err
		}
		e.followers = append(e.followers, &follower{cfg: cfg, deps: deps, log: deps.Log.With("exporter", x.Name), name: x.Name, where: x.selector, all: x.Reports == ReportsAll, to: to, cursor: c})
	}
	if cfg.Sums != nil {
		e.sums = newSums(cfg.Sums)
		e.followers = append(e.followers, &follower{cfg: cfg, deps: deps, log: deps.Log.With("exporter", sumsName), name: sumsName, where: cfg.Sums.selector, all: true, to: e.sums, cursor: cursor{after: last, placed: away == nil}})
	}
	return e, nil
}

// sumsName is the exporter that Prometheus's figures are of; no name has its dot.
const sumsName = "metrics."

// Run sends flows until ctx ends.
func (e *Export) Run(ctx context.Context, ready func()) error {
	ready()
	var all sync.WaitGroup
	for _, f := range e.followers {
		all.Go(func() { f.run(ctx) })
	}
	all.Wait()
	<-ctx.Done()
	return nil
}
