package flowstore

import (
	"fmt"
	"math"
	"time"
)

// piece is a part of a table that a question is answered from.
type piece struct {
	granularity granularity
	from, to    uint64 // time of its rows: from, and before to; in milliseconds
	above, upto uint64 // id of its rows: above, and up to
}

// forever is the end of time that has no end.
const forever = math.MaxInt64

// margin is how much a question may be about what is just forgotten.
const margin = time.Minute

// pieces finds where a question about a time is answered from: from sums over
// hours where the time has whole hours, over minutes where it has whole minutes
// beside them, and from reports. What is not summed up yet is taken from where it
// is, so that each report counts once. Nothing coarser than coarsest is used.
//
// Ends of the time that lie where reports, or sums over minutes, are forgotten
// move outward to what is kept; the time that the pieces are about is returned.
func (s *Store) pieces(at [len(tables)]place, since, until time.Time, coarsest granularity) (list []piece, from, to uint64, err error) {
	now := s.now()
	from, to = 0, forever
	if !since.IsZero() {
		from = millis(since)
	}
	if !until.IsZero() {
		to = millis(until)
	}
	kept := s.oldest(reports, now)
	if coarsest == reports {
		if !since.IsZero() && from < millis(now.Add(-s.keep[reports]-margin)) {
			return nil, 0, 0, fmt.Errorf("%w: client-port, pid, TCP states and flags are known of each report alone, and reports are kept for %s (--flows-keep of the controller); ask about a shorter time, or without them", ErrQuery, s.keep[reports])
		}
		from = max(from, kept)
		return nonEmpty(piece{reports, from, to, 0, at[reports].last}), from, to, nil
	}
	keptMinutes := up(s.oldest(minutes, now), spans[minutes])
	if coarsest == minutes {
		from = max(from, keptMinutes)
	}
	from = max(from, up(s.oldest(hours, now), spans[hours]))
	// The parts: reports, minutes, hours, minutes, reports; each may be empty.
	minutesFrom, minutesTo := up(from, spans[minutes]), down(to, spans[minutes])
	if from < kept {
		minutesFrom = down(from, spans[minutes])
	}
	if to < kept {
		minutesTo = up(to, spans[minutes])
	}
	hoursFrom, hoursTo := up(minutesFrom, spans[hours]), down(minutesTo, spans[hours])
	if coarsest == minutes {
		hoursFrom, hoursTo = minutesTo, minutesTo
	}
	if from < keptMinutes && coarsest == hours {
		hoursFrom = down(minutesFrom, spans[hours])
		minutesFrom = hoursFrom
	}
	if to < keptMinutes && coarsest == hours {
		hoursTo = up(minutesTo, spans[hours])
		minutesTo = hoursTo
	}
	from, to = min(from, minutesFrom), max(to, minutesTo)
	if minutesFrom >= minutesTo {
		return nonEmpty(piece{reports, from, to, 0, at[reports].last}), from, to, nil
	}
	if hoursFrom >= hoursTo {
		hoursFrom, hoursTo = minutesTo, minutesTo
	}
	whole := func(g granularity, from, to uint64) piece { return piece{g, from, to, 0, at[g].last} }
	rest := func(g granularity, from, to uint64) piece { return piece{g, from, to, at[g+1].upto, at[g].last} }
	return nonEmpty(
		whole(reports, from, minutesFrom), whole(reports, minutesTo, to), rest(reports, minutesFrom, minutesTo),
		whole(minutes, minutesFrom, hoursFrom), whole(minutes, hoursTo, minutesTo), rest(minutes, hoursFrom, hoursTo),
		whole(hours, hoursFrom, hoursTo),
	), from, to, nil
}

// nonEmpty leaves out pieces that can have no rows; of none it keeps one, for a
// question has to be asked of something.
func nonEmpty(list ...piece) (out []piece) {
	for _, p := range list {
		if p.from < p.to && p.above < p.upto {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		out = append(out, piece{granularity: reports})
	}
	return out
}

func down(ms, span uint64) uint64 { return ms - ms%span }

func up(ms, span uint64) uint64 {
	if r := ms % span; r != 0 {
		return ms + span - r
	}
	return ms
}

// narrow adds that rows are of the piece.
func (s *statement) narrow(p piece, behind []fence) *statement {
	s.add("id <= ? AND time >= ? AND time < ?", p.upto, p.from, p.to)
	if p.above > 0 {
		s.add(" AND id > ?", p.above)
	}
	// What was reported at a time is kept later, if no clock was set back by a day:
	// parts before need not be read.
	if day := part(p.from); day > 1 {
		s.add(" AND part >= ?", uint64(day-1))
	}
	var ids []fence
	for _, f := range behind {
		if f.upto > p.above && f.above < p.upto {
			ids = append(ids, f)
		}
	}
	return s.outside(ids)
}
