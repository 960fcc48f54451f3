package flowstore

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"weft/model"
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
	st := &statement{labels: &s.labels}
	order := "DESC"
	switch {
	case at.After > 0:
		order = "ASC"
		st.where, st.args = append(st.where, "id > ?"), append(st.args, at.After)
	case at.Before > 0:
		st.where, st.args = append(st.where, "id < ?"), append(st.args, at.Before)
	default:
		st.where = append(st.where, "TRUE")
	}
	if err := st.narrow(q); err != nil {
		return nil, at, err
	}
	limit := ""
	if q.Limit > 0 {
		limit = fmt.Sprintf(" LIMIT %d", q.Limit)
	}
	rows, err := s.db.QueryContext(ctx, `SELECT id, time, first, last, host, at_server, counted, client, client_labels, client_address, client_port, server, server_labels, server_address, server_port,
		protocol, process, pid, username, command, name, action, rule, begun, ended, sent_packets, sent_bytes, received_packets, received_bytes, rtt, retransmits
		FROM flows f`+st.text()+" ORDER BY id "+order+limit, st.args...)
	if err != nil {
		return nil, at, fmt.Errorf("ask the database of flows: %w", err)
	}
	defer rows.Close()
	out := []Flow{}
	for rows.Next() {
		var f Flow
		var clientLabels, serverLabels, rtt uint32
		var client, server, action string
		if err := rows.Scan(&f.ID, &f.Time, &f.First, &f.Last, &f.Host, &f.AtServer, &f.Counted, &f.Client.Workload, &clientLabels, &client, &f.Client.Port, &f.Server.Workload, &serverLabels, &server, &f.Server.Port,
			&f.Protocol, &f.Process, &f.PID, &f.User, &f.Command, &f.Name, &action, &f.Rule, &f.New, &f.Ended, &f.Sent.Packets, &f.Sent.Bytes, &f.Received.Packets, &f.Received.Bytes, &rtt, &f.Retransmits); err != nil {
			return nil, at, fmt.Errorf("read the database of flows: %w", err)
		}
		f.Client.Labels, f.Server.Labels = s.labels.set(clientLabels), s.labels.set(serverLabels)
		f.Client.Address, _ = netip.ParseAddr(client)
		f.Server.Address, _ = netip.ParseAddr(server)
		f.Action, f.RTT = model.Action(action), time.Duration(rtt)*time.Microsecond
		out = append(out, f)
	}
	if n := len(out); n > 0 {
		if at.After > 0 {
			at.After = out[n-1].ID
		} else {
			at = Cursor{Before: out[n-1].ID}
		}
	}
	return out, at, rows.Err()
}
