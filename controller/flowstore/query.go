package flowstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	// Order is what the rows are sorted by, the most first: bytes, packets or
	// connections; bytes unless given.
	Order string
	// Limit is how many rows are returned; all unless given.
	Limit int
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
	First       time.Time         `json:"first"`
	Last        time.Time         `json:"last"`
}

// fields are what can be asked by, and how the database says it. An end that is no
// workload goes by the name it was looked up by, or by its address.
var fields = map[string]string{
	"client": "CASE WHEN client <> '' THEN client ELSE client_address END", "server": "CASE WHEN server <> '' THEN server WHEN name <> '' THEN name ELSE server_address END", "host": "host",
	"client-address": "client_address", "client-port": "CAST(client_port AS VARCHAR)", "server-address": "server_address", "port": "CAST(server_port AS VARCHAR)",
	"protocol": "CASE protocol WHEN 6 THEN 'tcp' WHEN 17 THEN 'udp' WHEN 1 THEN 'icmp' WHEN 58 THEN 'icmpv6' WHEN 132 THEN 'sctp' ELSE CAST(protocol AS VARCHAR) END",
	"process":  "process", "user": "username", "command": "command", "pid": "CAST(pid AS VARCHAR)", "name": "name",
	"action": "action", "rule": "CAST(rule AS VARCHAR)", "reporter": "CASE WHEN at_server THEN 'server' ELSE 'client' END",
}

// Fields lists what flows can be asked by besides labels.
func Fields() []string { return slices.Sorted(maps.Keys(fields)) }

var orders = map[string]string{"bytes": "SUM(f.sent_bytes) + SUM(f.received_bytes)", "packets": "SUM(f.sent_packets) + SUM(f.received_packets)", "connections": "connections"}

// Orders lists what rows can be sorted by.
func Orders() []string { return slices.Sorted(maps.Keys(orders)) }

// ErrQuery marks an error as one of what is asked, not of the database.
var ErrQuery = errors.New("flows cannot be asked so")

// statement is SQL under way.
type statement struct {
	labels *labelsets
	joins  []string
	where  []string
	args   []any // of joins, then of where
}

// Sums answers a query.
func (s *Store) Sums(ctx context.Context, q Query) ([]Sum, error) {
	st := &statement{labels: &s.labels, where: []string{"counted"}}
	columns := make([]string, len(q.By))
	for i, f := range q.By {
		var err error
		if columns[i], err = st.field(f); err != nil {
			return nil, err
		}
	}
	if err := st.narrow(q); err != nil {
		return nil, err
	}
	order, ok := orders[q.Order]
	if q.Order == "" {
		order, ok = orders["bytes"], true
	}
	if !ok {
		return nil, fmt.Errorf("%w: not sorted by %q; take one of %s", ErrQuery, q.Order, strings.Join(Orders(), ", "))
	}
	var b strings.Builder
	b.WriteString("SELECT ")
	for i, c := range columns {
		fmt.Fprintf(&b, "%s AS k%d, ", c, i)
	}
	b.WriteString(`CAST(SUM(CASE WHEN begun THEN 1 ELSE 0 END) AS UBIGINT) AS connections,
		CAST(SUM(f.sent_packets) AS UBIGINT) AS sent_packets, CAST(SUM(f.sent_bytes) AS UBIGINT) AS sent_bytes, CAST(SUM(f.received_packets) AS UBIGINT) AS received_packets, CAST(SUM(f.received_bytes) AS UBIGINT) AS received_bytes,
		CAST(SUM(CAST(f.rtt AS UBIGINT)) AS UBIGINT) AS rtts, CAST(SUM(CASE WHEN f.rtt > 0 THEN 1 ELSE 0 END) AS UBIGINT) AS timed, CAST(SUM(CAST(f.retransmits AS UBIGINT)) AS UBIGINT) AS retransmits, MIN(f.first) AS earliest, MAX(f.last) AS latest
		FROM flows f` + st.text())
	if n := len(columns); n > 0 {
		b.WriteString(" GROUP BY ")
		for i := range n {
			fmt.Fprintf(&b, "%sk%d", comma(i), i)
		}
	} else {
		b.WriteString(" HAVING COUNT(*) > 0")
	}
	fmt.Fprintf(&b, " ORDER BY %s DESC", order)
	for i := range columns {
		fmt.Fprintf(&b, ", k%d", i)
	}
	if q.Limit > 0 {
		fmt.Fprintf(&b, " LIMIT %d", q.Limit)
	}
	rows, err := s.db.QueryContext(ctx, b.String(), st.args...)
	if err != nil {
		return nil, fmt.Errorf("ask the database of flows: %w", err)
	}
	defer rows.Close()
	out := []Sum{}
	for rows.Next() {
		x := Sum{Key: make(map[string]string, len(q.By))}
		keys := make([]string, len(q.By))
		var rtts, timed uint64
		into := make([]any, 0, len(keys)+10)
		for i := range keys {
			into = append(into, &keys[i])
		}
		if err := rows.Scan(append(into, &x.Connections, &x.Sent.Packets, &x.Sent.Bytes, &x.Received.Packets, &x.Received.Bytes, &rtts, &timed, &x.Retransmits, &x.First, &x.Last)...); err != nil {
			return nil, fmt.Errorf("read the database of flows: %w", err)
		}
		for i, k := range q.By {
			x.Key[k] = keys[i]
		}
		if timed > 0 {
			x.RTT = time.Duration(rtts/timed) * time.Microsecond
		}
		out = append(out, x)
	}
	return out, rows.Err()
}

func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ", "
}

func (st *statement) text() string {
	return strings.Join(st.joins, "") + " WHERE " + strings.Join(st.where, " AND ")
}

// field is the column of what rows differ in.
func (st *statement) field(name string) (string, error) {
	if c, ok := fields[name]; ok {
		return c, nil
	}
	end, key, ok := strings.Cut(name, ".")
	if !ok || end != "client" && end != "server" || key == "" {
		return "", fmt.Errorf("%w: there is no field %q; there are %s, and labels as client.KEY and server.KEY", ErrQuery, name, strings.Join(Fields(), ", "))
	}
	alias := fmt.Sprintf("l%d", len(st.joins))
	st.joins = append(st.joins, fmt.Sprintf(" LEFT JOIN (SELECT id, value FROM labels WHERE key = ?) %s ON %s.id = f.%s_labels", alias, alias, end))
	st.args = append(st.args, key)
	return "COALESCE(" + alias + ".value, '')", nil
}

// narrow adds what rows must fulfil.
func (st *statement) narrow(q Query) error {
	if !q.Since.IsZero() {
		st.where, st.args = append(st.where, "f.time >= ?"), append(st.args, q.Since.UTC())
	}
	if !q.Until.IsZero() {
		st.where, st.args = append(st.where, "f.time < ?"), append(st.args, q.Until.UTC())
	}
	for _, r := range requirements(q.Where) {
		if c, ok := fields[r.Key]; ok {
			st.compare(c, r)
			continue
		}
		end, key, _ := strings.Cut(r.Key, ".")
		if key != "" && (end == "client" || end == "server") {
			r.Key = key
			st.where = append(st.where, st.in(end+"_labels", st.labels.matching(r)))
			continue
		}
		st.either(r)
	}
	for _, r := range requirements(q.Labels) {
		st.either(r)
	}
	return nil
}

func requirements(s *model.Selector) []model.Requirement {
	if s == nil {
		return nil
	}
	return s.Requirements
}

// either asks for an end's label, or that neither end has it.
func (st *statement) either(r model.Requirement) {
	ids, word := st.labels.matching(r), " OR "
	if r.Operator == model.OpNotIn || r.Operator == model.OpDoesNotExist {
		word = " AND "
	}
	st.where = append(st.where, "("+st.in("client_labels", ids)+word+st.in("server_labels", ids)+")")
}

func (st *statement) compare(column string, r model.Requirement) {
	switch r.Operator {
	case model.OpExists:
		st.where = append(st.where, column+" <> ''")
	case model.OpDoesNotExist:
		st.where = append(st.where, column+" = ''")
	default:
		values := make([]any, len(r.Values))
		for i, v := range r.Values {
			values[i] = v
		}
		in := st.in(column, values)
		if r.Operator == model.OpNotIn {
			in = "NOT (" + in + ")"
		}
		st.where = append(st.where, in)
	}
}

func (st *statement) in(column string, values []any) string {
	if len(values) == 0 {
		return "FALSE"
	}
	st.args = append(st.args, values...)
	return column + " IN (?" + strings.Repeat(", ?", len(values)-1) + ")"
}
