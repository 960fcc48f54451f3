package flowstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"weft/model"
)

// Config of a Store. Zero values take the defaults.
type Config struct {
	// Dir is where the embedded database is; empty keeps it in memory.
	Dir string
	// ClickHouse is the address of a server that is used in place of the embedded
	// database, as http://USER@HOST:8123/DATABASE, and Password the user's.
	ClickHouse, Password string
	// Keep is how long reports are kept, 7 days unless given; KeepMinutes and
	// KeepHours how long sums over each minute and hour are, 30 and 400 days unless
	// given, and at least as long as what they are made of.
	Keep, KeepMinutes, KeepHours time.Duration
	// Groups reads the groups as they are now, by which flows can be asked; none unless
	// given.
	Groups func(context.Context) ([]*model.Group, error)
	// Now is the clock; the machine's unless given.
	Now func() time.Time
}

// Store is a database of flows. One goroutine writes: Append, Roll and Prune are
// not called at the same time.
type Store struct {
	db   backend
	keep [len(tables)]time.Duration
	read func(context.Context) ([]*model.Group, error)
	sum  uint64 // how many reports are summed up at once
	now  func() time.Time

	// Of the goroutine that writes.
	unsure   bool   // a write failed, or nothing was read yet: what is there is to be read
	prepared bool   // the tables are there
	snapshot uint32 // part of the progress that begins with all hosts

	mu       sync.Mutex
	opened   bool               // it was read what is there
	at       [len(tables)]place // what counts
	began    uint64             // id up to which flows were kept when that was read first
	progress map[account]reached
	counts   Counts
}

// place is how far a table is filled.
type place struct {
	last   uint64 // id up to which rows count
	upto   uint64 // id of the finer table up to which its rows are in these sums
	fences []fence
}

// fence is ids whose rows do not count: those above one, up to another.
type fence struct{ above, upto uint64 }

type account struct {
	host  string
	epoch uint64
}

type reached struct {
	number, lost uint64
	seen         uint64 // when, in milliseconds
}

// Counts is what a Store has done since it was opened.
type Counts struct{ Batches, Flows uint64 }

// openWithin is how long Open waits for a server.
const openWithin = 10 * time.Second

// Open opens the database, or makes it. One that cannot be reached is opened when
// it can: the controller has more to do than to keep flows.
func Open(ctx context.Context, cfg Config) (_ *Store, err error) {
	s := &Store{now: cfg.Now, read: cfg.Groups, sum: rollTogether, progress: map[account]reached{}}
	if s.now == nil {
		s.now = time.Now
	}
	const day = 24 * time.Hour
	s.keep[reports] = cmp.Or(cfg.Keep, 7*day)
	s.keep[minutes] = max(cmp.Or(cfg.KeepMinutes, 30*day), s.keep[reports])
	s.keep[hours] = max(cmp.Or(cfg.KeepHours, 400*day), s.keep[minutes])
	switch {
	case cfg.ClickHouse != "":
		s.db, err = openClickHouse(cfg.ClickHouse, cfg.Password)
	case cfg.Dir != "":
		s.db, err = openDuckDB(filepath.Join(cfg.Dir, "flows.duckdb"))
	default:
		s.db, err = openDuckDB("")
	}
	if err != nil {
		return nil, err
	}
	s.unsure = true
	first, cancel := context.WithTimeout(ctx, openWithin)
	defer cancel()
	if err := s.Ready(first); err != nil && (ctx.Err() != nil || !errors.Is(err, ErrAway)) {
		return nil, errors.Join(err, s.db.close())
	}
	return s, nil
}

// prepare makes what tables there are not.
func (s *Store) prepare(ctx context.Context) error {
	all := append(slices.Clone(tables[:]), progress, rolls, fences)
	if err := s.db.ensure(ctx, all...); err != nil {
		return fmt.Errorf("prepare the database of flows: %w", err)
	}
	for _, t := range all {
		var names []string
		for _, c := range t.columns {
			names = append(names, c.name)
		}
		if _, err := s.db.query(ctx, ask("SELECT "+strings.Join(names, ", ")+" FROM "+t.name+" LIMIT 0")); err != nil {
			return fmt.Errorf("the database of flows is not of this version of weft; move it away, or name another: %w", err)
		}
	}
	return nil
}

// Close closes the database.
func (s *Store) Close() error { return s.db.close() }

// Has says whether a batch is kept.
func (s *Store) Has(hostUID string, epoch, number uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.progress[account{hostUID, epoch}].number >= number
}

// Lost returns how many records hosts could not keep.
func (s *Store) Lost() (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.progress {
		n += r.lost
	}
	return n
}

// Counts returns what was kept.
func (s *Store) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// places are how far each table is filled, at one moment.
func (s *Store) places() ([len(tables)]place, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.opened {
		return s.at, ErrAway
	}
	return s.at, nil
}

// Append keeps batches, all or none; those it has are left out.
func (s *Store) Append(ctx context.Context, batches []Batch) error {
	if err := s.Ready(ctx); err != nil {
		return err
	}
	fresh, reachedNow := s.fresh(batches)
	if len(fresh) == 0 {
		return nil
	}
	total := 0
	for _, b := range fresh {
		total += len(b.Flows)
	}
	now := millis(s.now())
	rows, id := newBlock(tables[reports], total), s.at[reports].last
	known := newTexts()
	for _, b := range fresh {
		for i := range b.Flows {
			id++
			addReport(rows, &b.Flows[i], id, part(now), known)
		}
	}
	id++
	var steps []step
	if total > 0 {
		steps = append(steps, step{rows: rows})
	}
	steps = append(steps, step{rows: s.progressRows(reachedNow, id, now)})
	if err := s.db.write(ctx, steps...); err != nil {
		s.unsure = true
		return fmt.Errorf("keep flows: %w", err)
	}
	s.snapshot = progressPart(now)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at[reports].last = id
	for a, r := range reachedNow {
		s.progress[a] = r
	}
	s.counts.Batches, s.counts.Flows = s.counts.Batches+uint64(len(fresh)), s.counts.Flows+uint64(total)
	return nil
}

// fresh leaves out what is kept, and says how far the rest brings each host.
func (s *Store) fresh(batches []Batch) (out []*Batch, now map[account]reached) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now = map[account]reached{}
	seen := millis(s.now())
	for i := range batches {
		b := &batches[i]
		a := account{b.HostUID, b.Epoch}
		last, ok := now[a]
		if !ok {
			last = s.progress[a]
		}
		if b.Number <= last.number {
			continue
		}
		now[a] = reached{b.Number, max(b.Lost, last.lost), seen}
		out = append(out, b)
	}
	return out, now
}

// progressRows are how far hosts are: those that are further now, and all where a
// part begins.
func (s *Store) progressRows(now map[account]reached, id, at uint64) *block {
	b := newBlock(progress, len(now))
	add := func(a account, r reached) {
		x := b.row()
		put(&x, progressPart(at))
		put(&x, id)
		put(&x, a.host)
		put(&x, a.epoch)
		put(&x, r.number)
		put(&x, r.lost)
		put(&x, r.seen)
	}
	for a, r := range now {
		add(a, r)
	}
	if s.snapshot != progressPart(at) {
		for a, r := range s.progress {
			if _, further := now[a]; !further {
				add(a, r)
			}
		}
	}
	return b
}

func millis(t time.Time) uint64 { return uint64(max(t.UnixMilli(), 0)) }

func instant(ms uint64) time.Time { return time.UnixMilli(int64(ms)).UTC() }

const dayMillis = 24 * 3_600_000

// part is of flows and sums a day, that on which they were kept.
func part(ms uint64) uint32 { return uint32(ms / dayMillis) }

// progressPart is an hour: hosts are many and say much.
func progressPart(ms uint64) uint32 { return uint32(ms / spans[hours]) }
