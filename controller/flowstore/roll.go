package flowstore

import (
	"context"
	"fmt"
	"strings"
	"time"
)

const (
	// rollTogether is how many reports are summed up at once, more or less: so long
	// does what comes meanwhile wait to be kept.
	rollTogether = 500_000
	// hourAfter is how many sums of minutes are made before they are summed up by
	// hours: one is made every few minutes. hourTogether is how many of them at once.
	hourAfter    = 12
	hourTogether = 48
)

// Roll sums up what has been kept since it did last: reports by minutes, and now
// and then those by hours. Questions take what is not summed up yet from where it
// is, so that answers do not depend on when this is done. whole does not wait for
// an hour's worth.
func (s *Store) Roll(ctx context.Context, whole bool) error {
	for {
		if more, err := s.RollSome(ctx, whole); err != nil || !more {
			return err
		}
	}
}

// RollSome does a part of what Roll does, which takes about as long as a write, and
// says whether there was any to do.
func (s *Store) RollSome(ctx context.Context, whole bool) (done bool, err error) {
	if err := s.Ready(ctx); err != nil {
		return false, err
	}
	if s.at[minutes].upto < s.at[reports].last {
		return true, s.roll(ctx, minutes, s.sum)
	}
	if waiting := s.at[minutes].last - min(s.at[minutes].last, s.at[hours].upto); waiting >= hourAfter || whole && waiting > 0 {
		return true, s.roll(ctx, hours, hourTogether)
	}
	return false, nil
}

// roll sums up at most so many ids of the finer table.
func (s *Store) roll(ctx context.Context, g granularity, many uint64) error {
	finer, to := s.at[g-1], s.at[g]
	from := to.upto
	for _, f := range finer.fences {
		if f.above <= from && from < f.upto {
			from = f.upto
		}
	}
	upto, id, now := min(from+many, finer.last), to.last+1, millis(s.now())
	done := newBlock(rolls, 1)
	r := done.row()
	put(&r, part(now))
	put(&r, uint8(g))
	put(&r, id)
	put(&r, upto)
	var steps []step
	if upto > from {
		steps = append(steps, step{into: tables[g], from: rollUp(g, part(now), id, from, upto, finer.fences)})
	}
	if err := s.db.write(ctx, append(steps, step{rows: done})...); err != nil {
		s.unsure = true
		return fmt.Errorf("sum up flows: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at[g].last, s.at[g].upto = id, upto
	return nil
}

// summed is which reports sums are made of. A connection has one that counts; what
// the other end's host has thrown away was lost there alone, and is added to it.
const summed = "(counted = 1 OR drops > 0)"

// measures are what sums are made of, by what they are called: as a table of
// reports, and one of sums, says it. Those are to be added up; of first and last
// the least and the most are taken.
var measures = []struct{ name, report, sum string }{
	{"connections", "begun * counted", "connections"}, {"sent_packets", "sent_packets * counted", "sent_packets"}, {"sent_bytes", "sent_bytes * counted", "sent_bytes"},
	{"received_packets", "received_packets * counted", "received_packets"}, {"received_bytes", "received_bytes * counted", "received_bytes"},
	{"rtts", "rtt * counted", "rtts"}, {"timed", "CASE WHEN rtt > 0 THEN counted ELSE 0 END", "timed"}, {"retransmits", "retransmits * counted", "retransmits"},
	{"latencies", "latency * counted", "latencies"}, {"answered", "CASE WHEN latency > 0 THEN counted ELSE 0 END", "answered"}, {"first", firstSaid, "first"}, {"last", lastSaid, "last"},
	{"drops", "drops", "drops"},
}

// gather is how a measure is added up.
func gather(name, expression string) string {
	switch name {
	case "first":
		return "MIN(" + expression + ")"
	case "last":
		return "MAX(" + expression + ")"
	}
	return "SUM(" + expression + ")"
}

// measure is how a table says a measure.
func measure(g granularity, i int) string {
	if g == reports {
		return measures[i].report
	}
	return measures[i].sum
}

// rollUp finds the sums over a finer table's rows above an id, up to another.
func rollUp(g granularity, part uint32, id, above, upto uint64, behind []fence) *statement {
	start := fmt.Sprintf("time - time %% %d", spans[g])
	q := ask("SELECT ?, ?, "+start, uint64(part), id)
	var keys []string
	for _, d := range dimensions {
		keys = append(keys, d.name)
	}
	q.add(", " + strings.Join(keys, ", "))
	for i, m := range measures {
		q.add(", " + gather(m.name, measure(g-1, i)))
	}
	q.add(" FROM "+tables[g-1].name+" WHERE id > ? AND id <= ?", above, upto)
	if g-1 == reports {
		q.add(" AND " + summed)
	}
	return q.outside(behind).add(" GROUP BY " + start + ", " + strings.Join(keys, ", "))
}

// Prune sums up all that is not yet, and forgets what is older than is asked for.
func (s *Store) Prune(ctx context.Context) error {
	now := s.now()
	if err := s.Roll(ctx, true); err != nil {
		return err
	}
	for {
		if more, err := s.PruneSome(ctx, now); err != nil || !more {
			return err
		}
	}
}

// PruneSome forgets a part of what at a time was older than is asked for, which takes
// no longer than a write, and says whether there may be more. All that there was at
// that time is summed up.
func (s *Store) PruneSome(ctx context.Context, now time.Time) (more bool, err error) {
	if err := s.Ready(ctx); err != nil {
		return false, err
	}
	for g, t := range tables {
		ids := s.sum
		if granularity(g) != reports { // all sums that were made at once have one id
			ids = 1
		}
		if more, err := s.db.forget(ctx, t, part(s.oldest(granularity(g), now)), ids); err != nil {
			return false, fmt.Errorf("forget old flows: %w", err)
		} else if more {
			return true, nil
		}
	}
	if s.snapshot > 0 { // of which the part begins with all hosts
		if more, err := s.db.forget(ctx, progress, s.snapshot, s.sum); err != nil {
			return false, fmt.Errorf("forget how far hosts were: %w", err)
		} else if more {
			return true, nil
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for a, r := range s.progress {
		if r.seen < s.oldest(reports, now) {
			delete(s.progress, a)
		}
	}
	return false, nil
}

// oldest is the time before which a table's rows are not asked for any more.
func (s *Store) oldest(g granularity, now time.Time) uint64 {
	return millis(now.Add(-s.keep[g]))
}
