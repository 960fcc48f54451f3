package flowstore

import (
	"context"
	"fmt"
)

// Last is the id up to which flows are kept. It is not known while the database has
// been away since the start: ErrAway.
func (s *Store) Last() (uint64, error) {
	places, err := s.places()
	return places[reports].last, err
}

// Began is the id up to which flows were kept when this program first reached the
// database; ErrAway until then.
func (s *Store) Began() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.opened {
		return 0, ErrAway
	}
	return s.began, nil
}

// Follow returns, in order, flows that were kept after an id and fulfil a query,
// and the id to go on from. It looks at no more than many ids: there may be none
// among them and more behind, until what it returns is Last.
func (s *Store) Follow(ctx context.Context, q Query, after uint64, many int) ([]Flow, uint64, error) {
	q.Since = s.now().Add(-s.keep[reports]) // older ones are on their way out
	places, err := s.places()
	if err != nil {
		return nil, after, err
	}
	at := places[reports]
	for _, f := range at.fences {
		if f.above <= after && after < f.upto {
			after = f.upto
		}
	}
	upto := min(after+uint64(many), at.last)
	if upto <= after {
		return nil, after, nil
	}
	if err := s.grouped(ctx, &q); err != nil {
		return nil, after, err
	}
	st := s.reports().narrow(piece{reports, millis(q.Since), forever, after, upto}, at.fences)
	if err := s.fulfil(st, q); err != nil {
		return nil, after, err
	}
	out, err := s.readReports(ctx, st.add(" ORDER BY id"))
	if err != nil {
		return nil, after, err
	}
	return out, upto, nil
}

// Forgotten says how many flows after an id are not kept any more, at most, and the
// id to go on from.
func (s *Store) Forgotten(ctx context.Context, after uint64) (gone, next uint64, err error) {
	places, err := s.places()
	if err != nil {
		return 0, after, err
	}
	at := places[reports]
	st := ask("SELECT "+s.numbers("MIN(id)")+" FROM "+tables[reports].name+" WHERE ").narrow(piece{reports, s.oldest(reports, s.now()), forever, 0, at.last}, at.fences).add(" HAVING COUNT(*) > 0")
	a, err := s.db.query(ctx, st, u64)
	if err != nil {
		return 0, after, fmt.Errorf("ask for the oldest flow: %w", err)
	}
	next = at.last
	if a.rows > 0 {
		next = a.numbers[0][0] - 1
	}
	if next <= after {
		return 0, after, nil
	}
	// Not every id is a flow's: some are behind fences, and each write has one.
	gone = next - after
	for _, f := range at.fences {
		if from, to := max(f.above, after), min(f.upto, next); from < to {
			gone -= to - from
		}
	}
	a, err = s.db.query(ctx, ask("SELECT "+s.numbers("COUNT(DISTINCT id)")+" FROM progress WHERE id > ? AND id <= ?", after, next).outside(at.fences), u64)
	if err != nil {
		return 0, after, fmt.Errorf("ask how many writes there were: %w", err)
	}
	return gone - min(gone, a.numbers[0][0]), next, nil
}
