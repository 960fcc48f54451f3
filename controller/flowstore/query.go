package flowstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/model"
)

// Query asks for sums over flows.
type Query struct {
	// Since and Until bound when flows were reported; the zero value is no bound.
	Since, Until time.Time
	// Where narrows to flows whose fields fulfil it: those of Fields, and labels of
	// an end as client.KEY, server.KEY, or KEY for either. nil takes all.
	Where *model.Selector
	// Labels narrows to flows of which one end, or with !=, notin and !KEY each end,
	// has labels that fulfil it.
	Labels *model.Selector
	// By are the fields that rows differ in; none sums up everything.
	By []string
	// Order is what the rows are sorted by, the most first: bytes, packets, connections
	// or drops; or time, the first first. Unless given it is time where By has one, else
	// bytes.
	Order string
	// Limit is how many rows are returned, all unless given; Offset how many come
	// before them.
	Limit, Offset int

	groups groups // that the question is about
}

// Sum is what the flows of one row come to. Of a connection that both ends report,
// one is counted.
type Sum struct {
	// Key holds the values of the fields that were asked by.
	Key         map[string]string `json:"key"`
	Connections uint64            `json:"connections"` // that began
	Sent        model.Count       `json:"sent"`        // by clients
	Received    model.Count       `json:"received"`
	RTT         time.Duration     `json:"rttNanos"` // of reports that know it, on average
	Retransmits uint64            `json:"retransmits"`
	Drops       uint64            `json:"drops,omitempty"`        // at either end
	Latency     time.Duration     `json:"latencyNanos,omitempty"` // from the first request to its answer, on average of connections that know it
	First       time.Time         `json:"first"`
	Last        time.Time         `json:"last"`
}

// Sums is an answer.
type Sums struct {
	Items []Sum
	// Since and Until are the time that it is about; no Until is no end.
	Since, Until time.Time
}

// field is what can be asked by: how every database says it, and of which columns
// it is made.
type field struct {
	says string
	of   []string
}

func textual(column string) field { return field{column, []string{column}} }

func numeric(column string) field { return field{"CAST(" + column + " AS String)", []string{column}} }

// fields are what can be asked by. An end that is no workload goes by the name it
// was called or looked up by, or by its address.
var fields = map[string]field{
	"client":      {"CASE WHEN client <> '' THEN client ELSE client_address END", []string{"client", "client_address"}},
	"server":      {"CASE WHEN server <> '' THEN server WHEN server_name <> '' THEN server_name WHEN name <> '' THEN name ELSE server_address END", []string{"server", "server_name", "name", "server_address"}},
	"protocol":    {"CASE protocol WHEN 6 THEN 'tcp' WHEN 17 THEN 'udp' WHEN 1 THEN 'icmp' WHEN 58 THEN 'icmpv6' WHEN 132 THEN 'sctp' ELSE CAST(protocol AS String) END", []string{"protocol"}},
	"reporter":    {"CASE reporter WHEN 0 THEN 'client' WHEN 1 THEN 'server' ELSE 'observer' END", []string{"reporter"}},
	"status":      {"CASE WHEN status > 0 THEN CAST(status AS String) ELSE '' END", []string{"status"}},
	"client-port": numeric("client_port"), "port": numeric("server_port"), "pid": numeric("pid"),
	"client-address": textual("client_address"), "server-address": textual("server_address"), "host": textual("host"),
	"process": textual("process"), "user": textual("username"), "command": textual("command"), "name": textual("name"), "action": textual("action"), "rule": textual("rule"),
	"client-country": countryIn("client_place"), "server-country": countryIn("server_place"), "client-as": systemIn("client_place"), "server-as": systemIn("server_place"),
	"client-host": {of: []string{"client", "client_address"}}, "server-host": {of: []string{"server", "server_address"}}, // see Store.says
	"client-group": {of: []string{"client", "client_labels"}}, "server-group": {of: []string{"server", "server_labels"}}, // see groups.go
	"application": textual("application"), "server-name": textual("server_name"), "method": textual("method"), "path": textual("path"),
	"tcp-state": textual("tcp_state"), "client-flags": textual("client_flags"), "server-flags": textual("server_flags"), "drop-reason": textual("drop_reason"),
}

// Pairs lists the names that are short for fields of both ends.
func Pairs() (out []string) {
	for name := range fields {
		short, ok := strings.CutPrefix(name, "client-")
		if _, is := fields[short]; !ok || is {
			continue
		}
		if client, _ := Pair(short); client == name {
			out = append(out, short)
		}
	}
	slices.Sort(out)
	return out
}

// says is how the database says a field. The host that an end is on begins the name
// of its workload; what is no workload goes by its address.
func (s *Store) says(name string) string {
	if end, ok := strings.CutSuffix(name, "-host"); ok {
		return "CASE WHEN " + end + " <> '' THEN " + s.db.dialect().before(end, ":") + " ELSE " + end + "_address END"
	}
	return fields[name].says
}

// Pair is the fields of both ends that a name is short for: client-NAME and
// server-NAME, or where there is no such field the label.
func Pair(name string) (client, server string) {
	if _, ok := fields["client-"+name]; ok {
		if _, ok := fields["server-"+name]; ok {
			return "client-" + name, "server-" + name
		}
	}
	return "client." + name, "server." + name
}

var protocolNumbers = map[string]string{"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6", "132": "sctp"}

// spelled makes of values what the database has: protocols go by their numbers too,
// and countries in small letters.
func spelled(r model.Requirement) model.Requirement {
	values := r.Values
	r.Values = make([]string, len(values))
	for i, v := range values {
		switch r.Key {
		case "protocol":
			v = cmp.Or(protocolNumbers[v], v)
		case "client-country", "server-country":
			v = strings.ToUpper(v)
		}
		r.Values[i] = v
	}
	return r
}

// Fields lists what flows can be asked by besides labels.
func Fields() []string { return slices.Sorted(maps.Keys(fields)) }

// Times lists what flows can be summed up by that are stretches of time.
func Times() []string { return slices.Sorted(maps.Keys(times)) }

// times are the fields that are stretches of time, by how many milliseconds they
// have; they are those of UTC.
var times = map[string]uint64{"minute": spans[minutes], "hour": spans[hours], "day": dayMillis}

// fine are the fields that sums over minutes and hours do not differ in.
var fine = []string{"client-port", "pid", "tcp-state", "client-flags", "server-flags"}

var orders = map[string]string{"bytes": "sum_sent_bytes + sum_received_bytes", "packets": "sum_sent_packets + sum_received_packets", "connections": "sum_connections", "drops": "sum_drops"}

// Orders lists what rows can be sorted by.
func Orders() []string { return append(slices.Sorted(maps.Keys(orders)), "time") }

// ErrQuery marks an error as one of what is asked, not of the database.
var ErrQuery = errors.New("flows cannot be asked so")

// errTooMuch is of a database that would take more than it may for an answer.
var errTooMuch = fmt.Errorf("%w: the answer takes more memory or time than it may; ask about a shorter time, narrow it with --where or -l, or sum up by fewer fields", ErrQuery)

// Sums answers a query. The time that the answer is about is returned with it:
// see Store.pieces.
func (s *Store) Sums(ctx context.Context, q Query) (Sums, error) {
	order, err := q.order()
	if err != nil {
		return Sums{}, err
	}
	if err := s.grouped(ctx, &q); err != nil {
		return Sums{}, err
	}
	at, err := s.places()
	if err != nil {
		return Sums{}, err
	}
	parts, from, to, err := s.pieces(at, q.Since, q.Until, q.coarsest())
	if err != nil {
		return Sums{}, err
	}
	// Rows are summed up by columns as they are first, of which few differ, and then by
	// what is asked for: what is made of columns, or looked for in a set of labels, for
	// each row would take most of the time.
	st := ask("SELECT ")
	var columns []string
	for i, name := range q.By {
		f, err := s.field(st, q, name)
		if err != nil {
			return Sums{}, err
		}
		st.add(fmt.Sprintf("CAST(%s AS String) AS k%d, ", f.says, i))
		columns = append(columns, f.of...)
	}
	slices.Sort(columns)
	columns = slices.Compact(columns)
	for i, m := range measures {
		st.add(comma(i) + s.db.dialect().number(gather(m.name, "n_"+m.name)) + " AS sum_" + m.name)
	}
	st.add(" FROM (SELECT ")
	for _, c := range columns {
		st.add(c + ", ")
	}
	for i, m := range measures {
		st.add(comma(i) + gather(m.name, "m_"+m.name) + " AS n_" + m.name)
	}
	st.add(" FROM (")
	for i, p := range parts {
		if i > 0 {
			st.add(" UNION ALL ")
		}
		if err := s.part(st, q, columns, p, at[p.granularity].fences); err != nil {
			return Sums{}, err
		}
	}
	keys := make([]string, len(q.By))
	for i := range keys {
		keys[i] = fmt.Sprintf("k%d", i)
	}
	st.add(") AS pieces").group(columns).add(") AS sets").group(keys)
	folded := slices.ContainsFunc(q.By, func(f string) bool { _, is := groupEnd(f); return is })
	if folded {
		st.add(fmt.Sprintf(" LIMIT %d", maxFolded+1))
	} else {
		st.add(" ORDER BY " + order)
		for i := range q.By {
			st.add(fmt.Sprintf(", k%d", i))
		}
		if q.Limit > 0 {
			st.add(fmt.Sprintf(" LIMIT %d", q.Limit))
			if q.Offset > 0 {
				st.add(fmt.Sprintf(" OFFSET %d", q.Offset))
			}
		}
	}
	a, err := s.db.query(ctx, st, slices.Concat(slices.Repeat([]kind{text}, len(q.By)), slices.Repeat([]kind{u64}, len(measures)))...)
	if err != nil {
		return Sums{}, fmt.Errorf("ask the database of flows: %w", err)
	}
	if folded {
		if a, err = q.fold(ctx, a); err != nil {
			return Sums{}, err
		}
	}
	out := Sums{Items: make([]Sum, a.rows), Since: instant(from)}
	if to != forever {
		out.Until = instant(to)
	}
	for i := range out.Items {
		x := &out.Items[i]
		x.Key = make(map[string]string, len(q.By))
		for n, k := range q.By {
			x.Key[k] = a.texts[n][i]
			if times[k] > 0 {
				ms, _ := strconv.ParseUint(a.texts[n][i], 10, 64)
				x.Key[k] = instant(ms).Format(time.RFC3339)
			}
		}
		m := make([]uint64, len(measures))
		for n := range m {
			m[n] = a.numbers[len(q.By)+n][i]
		}
		x.Connections, x.Sent, x.Received, x.Retransmits, x.Drops = m[0], model.Count{Packets: m[1], Bytes: m[2]}, model.Count{Packets: m[3], Bytes: m[4]}, m[7], m[12]
		x.First, x.Last = instant(m[10]), instant(m[11])
		if m[6] > 0 {
			x.RTT = time.Duration(m[5]/m[6]) * time.Microsecond
		}
		if m[9] > 0 {
			x.Latency = time.Duration(m[8]/m[9]) * time.Microsecond
		}
	}
	return out, nil
}

// part adds what a piece has to an answer, in columns and measures.
func (s *Store) part(st *statement, q Query, columns []string, p piece, behind []fence) error {
	st.add("SELECT ")
	for _, c := range columns {
		if span := times[c]; span > 0 {
			st.add(fmt.Sprintf("time - time %% %d AS ", span))
		}
		st.add(c + ", ")
	}
	for i, m := range measures {
		st.add(comma(i) + s.db.dialect().number(measure(p.granularity, i)) + " AS m_" + m.name)
	}
	st.add(" FROM "+tables[p.granularity].name+" WHERE ").narrow(p, behind)
	if p.granularity == reports {
		st.add(" AND " + summed)
	}
	return s.fulfil(st, q)
}

// order is how the rows are sorted.
func (q *Query) order() (string, error) {
	timed := slices.IndexFunc(q.By, func(f string) bool { return times[f] > 0 })
	order := q.Order
	if order == "" {
		if order = "bytes"; timed >= 0 {
			order = "time"
		}
	}
	if order == "time" {
		if timed < 0 {
			return "", fmt.Errorf("%w: to be sorted by time, it has to be summed up by one of %s", ErrQuery, strings.Join(Times(), ", "))
		}
		// All have as many digits from 2001 to 2286.
		return fmt.Sprintf("k%d, %s DESC", timed, orders["bytes"]), nil
	}
	by, ok := orders[order]
	if !ok {
		return "", fmt.Errorf("%w: not sorted by %q; take one of %s", ErrQuery, q.Order, strings.Join(Orders(), ", "))
	}
	return by + " DESC", nil
}

// coarsest says which tables know what a question is about.
func (q *Query) coarsest() granularity {
	for _, f := range fine {
		if slices.Contains(q.By, f) || slices.ContainsFunc(requirements(q.Where), func(r model.Requirement) bool { return r.Key == f }) {
			return reports
		}
	}
	if slices.Contains(q.By, "minute") {
		return minutes
	}
	return hours
}

func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ", "
}

// group adds that rows are summed up by columns; by none, that there is a row only
// where there is something.
func (s *statement) group(columns []string) *statement {
	if len(columns) == 0 {
		return s.add(" HAVING COUNT(*) > 0")
	}
	return s.add(" GROUP BY " + strings.Join(columns, ", "))
}

// field finds what rows can differ in: a field, a stretch of time, or a label, which
// is looked for in an end's set of them. Its arguments are added.
func (s *Store) field(st *statement, q Query, name string) (field, error) {
	if end, ok := groupEnd(name); ok {
		return field{s.told(st, q.groups, end), fields[name].of}, nil
	}
	if f, ok := fields[name]; ok {
		return field{s.says(name), f.of}, nil
	}
	if times[name] > 0 {
		return textual(name), nil
	}
	end, key, ok := endLabel(name)
	if !ok {
		return field{}, fmt.Errorf("%w: there is no field %q; there are %s, and labels as client.KEY and server.KEY", ErrQuery, name, strings.Join(Fields(), ", "))
	}
	set := end + "_labels"
	return field{s.db.dialect().labelled(set, st.value(labelEnds+key+labelPairs)), []string{set}}, nil
}

// endLabel reads the name of an end's label.
func endLabel(name string) (end, key string, ok bool) {
	end, key, _ = strings.Cut(name, ".")
	return end, key, key != "" && (end == "client" || end == "server")
}

// fulfil adds what rows must fulfil.
func (s *Store) fulfil(st *statement, q Query) error {
	for _, r := range requirements(q.Where) {
		st.add(" AND ")
		if _, ok := fields[r.Key]; ok {
			if err := s.is(st, q, r); err != nil {
				return err
			}
			continue
		}
		if client, server := Pair(r.Key); client == "client-"+r.Key {
			if err := s.eitherIs(st, q, r, client, server); err != nil {
				return err
			}
			continue
		}
		if end, key, ok := endLabel(r.Key); ok {
			r.Key = key
			s.label(st, end, r)
			continue
		}
		s.either(st, r)
	}
	for _, r := range requirements(q.Labels) {
		st.add(" AND ")
		s.either(st, r)
	}
	return nil
}

// is adds that a field fulfils something.
func (s *Store) is(st *statement, q Query, r model.Requirement) error {
	if end, ok := groupEnd(r.Key); ok {
		return s.inGroups(st, q.groups, end, r)
	}
	if r.Key == "client-as" || r.Key == "server-as" {
		return st.compareSystem(s.says(r.Key), r)
	}
	st.compare(s.says(r.Key), spelled(r))
	return nil
}

// eitherIs adds that the field of either end fulfils something, or, where it is that
// something is not, those of both.
func (s *Store) eitherIs(st *statement, q Query, r model.Requirement, client, server string) error {
	word := " OR "
	if negative(r.Operator) {
		word = " AND "
	}
	st.add("(")
	r.Key = client
	if err := s.is(st, q, r); err != nil {
		return err
	}
	st.add(word)
	r.Key = server
	if err := s.is(st, q, r); err != nil {
		return err
	}
	st.add(")")
	return nil
}

// compareSystem compares autonomous systems, which go by their numbers.
func (s *statement) compareSystem(column string, r model.Requirement) error {
	if r.Operator != model.OpIn && r.Operator != model.OpNotIn {
		s.compare(column, r)
		return nil
	}
	if r.Operator == model.OpNotIn {
		s.add("NOT ")
	}
	s.add("(1 = 0")
	for _, v := range r.Values {
		number, err := strconv.ParseUint(strings.TrimPrefix(strings.ToUpper(v), "AS"), 10, 32)
		if err != nil {
			return fmt.Errorf("%w: %q is no autonomous system; they go by their numbers, as as=64500", ErrQuery, v)
		}
		as := systemNumber(uint32(number))
		s.add(" OR "+column+" = ? OR "+column+" LIKE ?", as, as+" %")
	}
	s.add(")")
	return nil
}

func requirements(s *model.Selector) []model.Requirement {
	if s == nil {
		return nil
	}
	return s.Requirements
}

func negative(o model.Operator) bool { return o == model.OpNotIn || o == model.OpDoesNotExist }

// either asks for an end's label, or that neither end has it.
func (s *Store) either(st *statement, r model.Requirement) {
	st.add("(")
	s.label(st, "client", r)
	if negative(r.Operator) {
		st.add(" AND ")
	} else {
		st.add(" OR ")
	}
	s.label(st, "server", r)
	st.add(")")
}

// label asks for a label of an end.
func (s *Store) label(st *statement, end string, r model.Requirement) {
	pieces := []string{labelEnds + r.Key + labelPairs}
	if r.Operator == model.OpIn || r.Operator == model.OpNotIn {
		pieces = nil
		for _, v := range r.Values {
			pieces = append(pieces, labelEnds+r.Key+labelPairs+v+labelEnds)
		}
	}
	if negative(r.Operator) {
		st.add("NOT ")
	}
	st.add("(")
	for i, p := range pieces {
		if i > 0 {
			st.add(" OR ")
		}
		st.add(s.db.dialect().contains(end+"_labels", st.value(p)))
	}
	if len(pieces) == 0 {
		st.add("1 = 0")
	}
	st.add(")")
}

func (s *statement) compare(column string, r model.Requirement) {
	switch r.Operator {
	case model.OpExists:
		s.add(column + " <> ''")
	case model.OpDoesNotExist:
		s.add(column + " = ''")
	default:
		if r.Operator == model.OpNotIn {
			s.add("NOT ")
		}
		s.add("(")
		for i, v := range r.Values {
			if i > 0 {
				s.add(" OR ")
			}
			s.add(column+" = ?", v)
		}
		if len(r.Values) == 0 {
			s.add("1 = 0")
		}
		s.add(")")
	}
}
