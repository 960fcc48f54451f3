package flowstore

import (
	"context"
	"fmt"
)

// Last is the id up to which flows are kept.
func (s *Store) Last() uint64 { return s.places()[reports].last }

// Follow returns, in order, flows that were kept after an id and fulfil a query,
// and the id to go on from. It looks at no more than many ids: there may be none
// among them and more behind, until what it returns is Last.
func (s *Store) Follow(ctx context.Context, q Query, after uint64, many int) ([]Flow, uint64, error) {
	q.Since = s.now().Add(-s.keep[reports]) // older ones are on their way out
	places := s.places()
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

// Oldest is the first id of which the flow is kept still; where none is, the one
// that comes next.
func (s *Store) Oldest(ctx context.Context) (uint64, error) {
	places := s.places()
	at := places[reports]
	st := ask("SELECT "+s.numbers("MIN(id)")+" FROM "+tables[reports].name+" WHERE ").narrow(piece{reports, s.oldest(reports, s.now()), forever, 0, at.last}, at.fences).add(" HAVING COUNT(*) > 0")
	a, err := s.db.query(ctx, st, u64)
	if err != nil {
		return 0, fmt.Errorf("ask for the oldest flow: %w", err)
	}
	if a.rows == 0 {
		return at.last + 1, nil
	}
	return a.numbers[0][0], nil
}
