package flowstore

import (
	"context"
	"fmt"
	"time"

	"weft/model"
)

// Disagreement is a connection of whose traffic its two ends say different things.
type Disagreement struct {
	ID       uint64      `json:"id" doc:"Of a flow of it, for weft flows explain."`
	Client   string      `json:"client"`
	Server   string      `json:"server"`
	Port     uint16      `json:"port"`
	Protocol uint8       `json:"protocol"`
	Last     time.Time   `json:"last"`
	Sent     model.Count `json:"sent" doc:"By the client, as it says itself."`
	Received model.Count `json:"received" doc:"By the client."`
	Lost     Difference  `json:"lost"`
}

// ends' sums, by which end reports; the four last are whether all was told.
var bothBooks = []struct{ name, of string }{
	{"sent_packets", "sent_packets"}, {"sent_bytes", "sent_bytes"}, {"received_packets", "received_packets"}, {"received_bytes", "received_bytes"}, {"begun", "begun"}, {"ended", "ended"},
}

// Disagreements finds connections of which both ends have told all, and not the
// same. Those that are open, or that began before the time that is asked about,
// are left out. By and Order of the query mean nothing; what differs most comes
// first.
func (s *Store) Disagreements(ctx context.Context, q Query) ([]Disagreement, error) {
	at, err := s.places()
	if err != nil {
		return nil, err
	}
	q.Since = later(q.Since, s.now().Add(-s.keep[reports]))
	parts, _, _, err := s.pieces(at, q.Since, q.Until, reports)
	if err != nil {
		return nil, err
	}
	if err := s.grouped(ctx, &q); err != nil {
		return nil, err
	}
	signed := func(x string) string { return "CAST(" + x + " AS BIGINT)" }
	st := ask("SELECT " + s.numbers("flow", "server_port", "protocol", "latest") + ", k_client, k_server")
	for _, m := range bothBooks[:4] {
		for _, end := range []string{"c", "s"} {
			st.add(", " + s.db.dialect().number(end+"_"+m.name))
		}
	}
	st.add(" FROM (SELECT MIN(id) AS flow, server_port, protocol, MAX(" + lastSaid + ") AS latest, MAX(CAST(" + fields["client"].says + " AS String)) AS k_client, MAX(CAST(" + fields["server"].says + " AS String)) AS k_server")
	for _, m := range bothBooks {
		for server, end := range []string{"c", "s"} {
			st.add(fmt.Sprintf(", %s AS %s_%s", signed(fmt.Sprintf("SUM(CASE WHEN reporter = %d THEN %s ELSE 0 END)", server, m.of)), end, m.name))
		}
	}
	st.add(" FROM "+tables[reports].name+" WHERE ").narrow(parts[0], at[reports].fences)
	if err := s.fulfil(st, q); err != nil {
		return nil, err
	}
	st.add(" AND reporter <> 2") // which is neither end
	// Within a machine addresses are those of others, too.
	st.add(" GROUP BY client_address, client_port, server_address, server_port, protocol, CASE WHEN client_address = server_address THEN host ELSE '' END")
	st.add(") AS books WHERE c_begun > 0 AND c_begun = c_ended AND c_begun = s_begun AND c_begun = s_ended AND (" + differ("c_sent", "s_sent") + " OR " + differ("s_received", "c_received") + ")")
	st.add(" ORDER BY abs(c_sent_bytes - s_sent_bytes) + abs(s_received_bytes - c_received_bytes) DESC, flow")
	if q.Limit > 0 {
		st.add(fmt.Sprintf(" LIMIT %d", q.Limit))
	}
	a, err := s.db.query(ctx, st, u64, u64, u64, u64, text, text, u64, u64, u64, u64, u64, u64, u64, u64)
	if err != nil {
		return nil, fmt.Errorf("ask the database of flows: %w", err)
	}
	out := make([]Disagreement, a.rows)
	for i := range out {
		n := func(column int) uint64 { return a.numbers[column][i] }
		sent, got := model.Count{Packets: n(6), Bytes: n(8)}, model.Count{Packets: n(7), Bytes: n(9)}
		received, given := model.Count{Packets: n(10), Bytes: n(12)}, model.Count{Packets: n(11), Bytes: n(13)}
		out[i] = Disagreement{ID: n(0), Port: uint16(n(1)), Protocol: uint8(n(2)), Last: instant(n(3)), Client: a.texts[4][i], Server: a.texts[5][i], Sent: sent, Received: received,
			Lost: Difference{missing(sent, got), missing(given, received)}}
	}
	return out, nil
}

// differ is missing, as the database says it.
func differ(sent, arrived string) string {
	bytes, packets := fmt.Sprintf("(%s_bytes - %s_bytes)", sent, arrived), fmt.Sprintf("(%s_packets - %s_packets)", sent, arrived)
	return fmt.Sprintf("(%[1]s > greatest(%[2]d * %[3]s, %[4]d * %[3]s) OR %[1]s < least(%[2]d * %[3]s, %[4]d * %[3]s))", bytes, leastHeaders, packets, mostHeaders)
}
