package flowstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// Ready reads what is there, at first, and after a write that failed. Whoever
// writes asks it first.
func (s *Store) Ready(ctx context.Context) error {
	if !s.unsure {
		return nil
	}
	if !s.prepared {
		if err := s.prepare(ctx); err != nil {
			return err
		}
		s.prepared = true
	}
	if err := s.recover(ctx); err != nil {
		return err
	}
	s.unsure = false
	return nil
}

// fenceWidth is how many ids are left out where a write may still come. None
// has as many rows.
const fenceWidth = 1 << 24

// recover reads how far tables and hosts are. Where a database has no
// transactions, what was written before and did not count then must never count:
// the ids that it may have are fenced off before anything else is read.
func (s *Store) recover(ctx context.Context) error {
	at, err := s.fenced(ctx)
	if err != nil {
		return fmt.Errorf("read the fences of the database of flows: %w", err)
	}
	for g := range at {
		if err := s.reach(ctx, granularity(g), &at[g]); err != nil {
			return fmt.Errorf("read how far the database of flows is: %w", err)
		}
	}
	hosts, err := s.readProgress(ctx, at[reports])
	if err != nil {
		return fmt.Errorf("read how far hosts are: %w", err)
	}
	if !s.db.dialect().transactions {
		if err := s.fence(ctx, &at); err != nil {
			return fmt.Errorf("fence the database of flows: %w", err)
		}
	}
	s.snapshot = 0
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.opened {
		s.began = at[reports].last
	}
	s.at, s.progress, s.opened = at, hosts, true
	return nil
}

// fenced reads the fences.
func (s *Store) fenced(ctx context.Context) (at [len(tables)]place, err error) {
	a, err := s.db.query(ctx, ask("SELECT "+s.numbers("granularity", "above", "upto")+" FROM fences"), u64, u64, u64)
	if err != nil {
		return at, err
	}
	for i := range a.rows {
		if g := a.numbers[0][i]; g < uint64(len(at)) {
			at[g].fences = append(at[g].fences, fence{a.numbers[1][i], a.numbers[2][i]})
		}
	}
	for g := range at {
		at[g].fences = settle(at[g].fences)
	}
	return at, nil
}

// settle makes of fences what holds. One that was written by a recovery that
// failed may come late, when a later one has found more rows below and counted
// them: what the later one counts is not behind the earlier one's fence.
func settle(list []fence) []fence {
	slices.SortFunc(list, func(a, b fence) int { return cmp.Or(cmp.Compare(a.upto, b.upto), cmp.Compare(a.above, b.above)) })
	for i := range list {
		for _, later := range list[i+1:] {
			if later.above > list[i].above && later.above < list[i].upto {
				list[i].above = later.above
			}
		}
	}
	slices.SortFunc(list, func(a, b fence) int { return cmp.Or(cmp.Compare(a.above, b.above), cmp.Compare(a.upto, b.upto)) })
	var out []fence
	for _, f := range list {
		if n := len(out); n > 0 && f.above <= out[n-1].upto {
			out[n-1].upto = max(out[n-1].upto, f.upto)
			continue
		}
		out = append(out, f)
	}
	return out
}

// outside adds that ids of a table are behind no fence.
func (s *statement) outside(fences []fence) *statement {
	for _, f := range fences {
		s.add(" AND NOT (id > ? AND id <= ?)", f.above, f.upto)
	}
	return s
}

// reach reads up to which id rows of a table count.
func (s *Store) reach(ctx context.Context, g granularity, at *place) error {
	q := ask("SELECT " + s.numbers("MAX(id)") + ", CAST(0 AS " + s.db.dialect().unsigned + ") FROM progress WHERE id > 0").outside(at.fences).add(" HAVING COUNT(*) > 0")
	if g != reports {
		q = ask("SELECT "+s.numbers("MAX(id)", "MAX(upto)")+" FROM rolls WHERE granularity = ?", uint64(g)).outside(at.fences).add(" HAVING COUNT(*) > 0")
	}
	a, err := s.db.query(ctx, q, u64, u64)
	if err != nil || a.rows == 0 {
		return err
	}
	at.last, at.upto = a.numbers[0][0], a.numbers[1][0]
	return nil
}

func (s *Store) readProgress(ctx context.Context, at place) (map[account]reached, error) {
	q := ask("SELECT host, "+s.numbers("epoch", "MAX(number)", "MAX(lost)", "MAX(seen)")+" FROM progress WHERE id <= ?", at.last).outside(at.fences).add(" GROUP BY host, epoch")
	a, err := s.db.query(ctx, q, text, u64, u64, u64, u64)
	if err != nil {
		return nil, err
	}
	out := make(map[account]reached, a.rows)
	for i := range a.rows {
		out[account{a.texts[0][i], a.numbers[1][i]}] = reached{a.numbers[2][i], a.numbers[3][i], a.numbers[4][i]}
	}
	return out, nil
}

// fence keeps out what was written before, did not count, and may come yet.
func (s *Store) fence(ctx context.Context, at *[len(tables)]place) error {
	b, now := newBlock(fences, len(at)), millis(s.now())
	for g := range at {
		p := &at[g]
		f := fence{p.last, p.last}
		for _, x := range p.fences {
			f.upto = max(f.upto, x.upto)
		}
		f.upto += fenceWidth
		r := b.row()
		put(&r, part(now))
		put(&r, uint8(g))
		put(&r, f.above)
		put(&r, f.upto)
		p.fences, p.last = settle(append(p.fences, f)), f.upto
	}
	return s.db.write(ctx, step{rows: b})
}

// numbers casts expressions to what is read as numbers.
func (s *Store) numbers(expressions ...string) string {
	out := make([]string, len(expressions))
	for i, x := range expressions {
		out[i] = s.db.dialect().number(x)
	}
	return strings.Join(out, ", ")
}
