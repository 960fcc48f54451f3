package flowstore

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"weft/model"
	"weft/packet"
)

// Cursor is a place among flows, which are in the order in which they were kept.
// The zero value is the end: the newest come first. Otherwise one of the two is
// set, and flows come in the order away from it.
type Cursor struct {
	After, Before uint64
}

// List returns flows of both ends, and the cursor to go on from. By and Order of
// the query mean nothing here.
func (s *Store) List(ctx context.Context, q Query, at Cursor) ([]Flow, Cursor, error) {
	q.Since = later(q.Since, s.now().Add(-s.keep[reports])) // older ones are on their way out
	places, err := s.places()
	if err != nil {
		return nil, at, err
	}
	parts, _, _, err := s.pieces(places, q.Since, q.Until, reports)
	if err != nil {
		return nil, at, err
	}
	p, order := parts[0], " DESC"
	switch {
	case at.After > 0:
		p.above, order = at.After, " ASC"
	case at.Before > 0:
		p.upto = min(p.upto, at.Before-1)
	}
	if err := s.grouped(ctx, &q); err != nil {
		return nil, at, err
	}
	st := s.reports().narrow(p, places[reports].fences)
	if err := s.fulfil(st, q); err != nil {
		return nil, at, err
	}
	st.add(" ORDER BY id" + order)
	if q.Limit > 0 {
		st.add(fmt.Sprintf(" LIMIT %d", q.Limit))
	}
	out, err := s.readReports(ctx, st)
	if err != nil {
		return nil, at, err
	}
	if n := len(out); n > 0 {
		if at.After > 0 {
			at.After = out[n-1].ID
		} else {
			at = Cursor{Before: out[n-1].ID}
		}
	}
	return out, at, nil
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// reports begins a question for whole reports, which readReports reads.
func (s *Store) reports() *statement {
	st := ask("SELECT ")
	for i, c := range tables[reports].columns {
		x := "CAST(" + c.name + " AS String)"
		if c.kind != text && c.kind != word {
			x = s.db.dialect().number(c.name)
		}
		st.add(comma(i) + x)
	}
	return st.add(" FROM " + tables[reports].name + " WHERE ")
}

func (s *Store) readReports(ctx context.Context, st *statement) ([]Flow, error) {
	columns := tables[reports].columns
	kinds := make([]kind, len(columns))
	for i, c := range columns {
		if kinds[i] = u64; c.kind == text || c.kind == word {
			kinds[i] = text
		}
	}
	a, err := s.db.query(ctx, st, kinds...)
	if err != nil {
		return nil, fmt.Errorf("ask the database of flows: %w", err)
	}
	out := make([]Flow, a.rows)
	for i := range out {
		out[i] = readReport(a, i)
	}
	return out, nil
}

// readReport reads a row as addReport wrote it.
func readReport(rows *answer, i int) Flow {
	column := -1
	number := func() uint64 { column++; return rows.numbers[column][i] }
	words := func() string { column++; return rows.texts[column][i] }
	address := func() netip.Addr { x, _ := netip.ParseAddr(words()); return x }
	number() // part
	var f Flow
	f.ID = number()
	at := number()
	idle := 1000 * number()
	last := at + aheadMost - min(idle+number(), at+aheadMost)
	f.Time = instant(at)
	f.Last, f.First, f.Counted = instant(last), instant(last-min(last, number())), number() == 1
	f.Host = words()
	switch uint8(number()) {
	case atServer:
		f.AtServer = true
	case observer:
		f.Observed = true
	}
	f.Client.Workload, f.Client.Labels, f.Client.Address = words(), readLabels(words()), address()
	f.Server.Workload, f.Server.Labels, f.Server.Address, f.Server.Port = words(), readLabels(words()), address(), uint16(number())
	f.Protocol, f.Process, f.User, f.Command, f.Name, f.Action = uint8(number()), words(), words(), words(), words(), model.Action(words())
	f.Rule, _ = strconv.ParseUint(words(), 10, 64)
	a := &f.Application
	a.Protocol, a.Name, a.Method, a.Path, a.Status = words(), words(), words(), words(), uint16(number())
	f.Client.readPlace(words())
	f.Server.readPlace(words())
	f.DropReason = words()
	f.Client.Port, f.PID = uint16(number()), uint32(number())
	f.Dialled, _ = netip.ParseAddrPort(words())
	f.TCPState, f.ClientFlags, f.ServerFlags = words(), words(), words()
	f.New, f.Ended = number() == 1, number() == 1
	f.Sent = model.Count{Packets: number(), Bytes: number()}
	f.Received = model.Count{Packets: number(), Bytes: number()}
	f.RTT, f.Retransmits, f.Drops = time.Duration(number())*time.Microsecond, uint32(number()), uint32(number())
	if model.HasPorts(f.Protocol) {
		f.CommunityID = packet.CommunityID(0, f.Protocol, netip.AddrPortFrom(f.Client.Address, f.Client.Port), netip.AddrPortFrom(f.Server.Address, f.Server.Port))
	}
	a.Latency, a.ALPN, a.Software = time.Duration(number())*time.Microsecond, words(), words()
	return f
}
