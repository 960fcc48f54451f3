package flowstore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"weft/model"
)

// Connection is one connection as both its ends tell of it: an entry in two
// books.
type Connection struct {
	Client   End     `json:"client"`
	Server   End     `json:"server"`
	Protocol uint8   `json:"protocol"`
	AtClient *Report `json:"atClient,omitempty" doc:"What the calling end reports; nothing where it does not."`
	AtServer *Report `json:"atServer,omitempty" doc:"What the called end reports."`
	// Translations are where addresses are rewritten between the ends.
	Translations []string `json:"translations,omitempty"`
	// Lost is what one end sent and the other did not receive, where both have told
	// all; negative numbers are bytes that came and were never sent.
	Lost  *Difference `json:"lost,omitempty"`
	Notes []string    `json:"notes,omitempty"`
}

// Report is all that one end has reported of a connection.
type Report struct {
	Host        string        `json:"host"`
	Client      End           `json:"client" doc:"The ends as they are seen here."`
	Server      End           `json:"server"`
	Process     string        `json:"process,omitempty"`
	PID         uint32        `json:"pid,omitempty"`
	User        string        `json:"user,omitempty"`
	Command     string        `json:"command,omitempty"`
	Name        string        `json:"name,omitempty"`
	Action      model.Action  `json:"action"`
	Rule        uint64        `json:"rule,string"`
	Reports     int           `json:"reports" doc:"How many they are."`
	Whole       bool          `json:"whole" doc:"The first and the last are among them."`
	First       time.Time     `json:"first"`
	Last        time.Time     `json:"last"`
	Sent        model.Count   `json:"sent" doc:"By the client."`
	Received    model.Count   `json:"received"`
	RTT         time.Duration `json:"rttNanos"`
	Retransmits uint32        `json:"retransmits"`
	TCPState    string        `json:"tcpState,omitempty" doc:"When it was last reported."`
	ClientFlags string        `json:"clientFlags,omitempty" doc:"Of TCP: all that the client has sent, as seen here."`
	ServerFlags string        `json:"serverFlags,omitempty"`
	Drops       uint64        `json:"drops,omitempty" doc:"Packets that this host has thrown away, sent or received."`
	DropReasons []string      `json:"dropReasons,omitempty"`
}

// Difference is between two ends' accounts, in each direction.
type Difference struct {
	Sent     int64 `json:"sent" doc:"Bytes that the client sent and the server did not get."`
	Received int64 `json:"received" doc:"Bytes that the server sent and the client did not get."`
}

// What a packet's headers have at least and at most: IPv4 with UDP, and IPv6 with
// TCP and all its options. An end may hand on as one super-frame what the other
// gets as several packets, each with headers of its own: so much may the bytes of
// both differ for each packet that they differ by.
const (
	leastHeaders = 28
	mostHeaders  = 100
)

// missing is the bytes that did not arrive, 0 where the difference is one of
// headers.
func missing(sent, arrived model.Count) int64 {
	packets, bytes := int64(sent.Packets-arrived.Packets), int64(sent.Bytes-arrived.Bytes)
	low, high := min(leastHeaders*packets, mostHeaders*packets), max(leastHeaders*packets, mostHeaders*packets)
	if bytes >= low && bytes <= high {
		return 0
	}
	return bytes
}

// ErrNoFlow is of a flow that is not kept.
var ErrNoFlow = fmt.Errorf("%w: this flow is not kept, or not any more", ErrQuery)

const (
	// sameBeginning is by how much reports of one end may differ in when the
	// connection began: its clock may be set meanwhile.
	sameBeginning = 500 * time.Millisecond
	// clocksDiffer is by how much the clocks of two ends may.
	clocksDiffer = 10 * time.Minute
	// most reports are read of addresses and ports.
	mostReports = 10_000
)

// Explain finds both ends' reports of the connection that a flow is of.
func (s *Store) Explain(ctx context.Context, id uint64) (*Connection, error) {
	found, err := s.matching(ctx, "id = ?", id)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, ErrNoFlow
	}
	f := &found[0]
	if f.Observed {
		return nil, fmt.Errorf("%w: flow %d is of a mirror or a collector at %s, which is neither end; ask about one whose reporter is client or server", ErrQuery, id, f.Host)
	}
	const ends = "server_address = ? AND server_port = ? AND protocol = ? AND client_port = ? AND reporter <> 2"
	all, err := s.matching(ctx, ends, f.Server.Address.String(), uint64(f.Server.Port), uint64(f.Protocol), uint64(f.Client.Port))
	if err != nil {
		return nil, err
	}
	out := &Connection{Client: f.Client, Server: f.Server, Protocol: f.Protocol}
	own := add(all, f.First, sameBeginning, func(x *Flow) bool {
		return x.AtServer == f.AtServer && x.Host == f.Host && x.Client.Address == f.Client.Address
	})
	local := f.Client.Address == f.Server.Address || f.Server.Address.IsLoopback() // an address of each machine
	other := add(all, f.First, clocksDiffer, func(x *Flow) bool {
		return x.AtServer != f.AtServer && x.Client.Address == f.Client.Address && (!local || x.Host == f.Host)
	})
	if other == nil {
		// What leaves a machine may get that machine's address, and mostly keeps its port.
		other = add(all, f.First, clocksDiffer, func(x *Flow) bool {
			client, server := f, x
			if f.AtServer {
				client, server = x, f
			}
			return x.AtServer != f.AtServer && client.Client.Address != server.Client.Address && server.Client.Workload == client.Host
		})
	}
	if out.AtClient, out.AtServer = own, other; f.AtServer {
		out.AtClient, out.AtServer = other, own
	}
	out.judge(f)
	return out, nil
}

// judge says what the two reports come to.
func (c *Connection) judge(f *Flow) {
	if f.Dialled.IsValid() {
		c.Translations = append(c.Translations, fmt.Sprintf("the client called %s, and its host %s sent that to %s port %d", f.Dialled, f.Host, f.Server.Address, f.Server.Port))
	}
	if c.AtClient == nil || c.AtServer == nil {
		missing, end := "called", &f.Server
		if f.AtServer {
			missing, end = "calling", &f.Client
		}
		switch {
		case end.Workload == "":
			c.Notes = append(c.Notes, fmt.Sprintf("the %s end, %s, is no machine with an agent: there is one report", missing, end.Address))
		default:
			c.Notes = append(c.Notes, fmt.Sprintf("the %s end, %s, has no report with these addresses and ports: an address is rewritten on the way between the hosts, which hides that the two are one; or nothing is metered there, or the report is under way", missing, end.Workload))
		}
		return
	}
	if a, b := c.AtClient.Client.Address, c.AtServer.Client.Address; a != b {
		c.Translations = append(c.Translations, fmt.Sprintf("the client's address is %s on its host, and %s where it arrives; the two reports were told to be one by port and time", a, b))
	}
	if !c.AtClient.Whole || !c.AtServer.Whole {
		c.Notes = append(c.Notes, "not both ends have told all: the connection is open, or a report is under way or forgotten; what they say is compared when they have")
		return
	}
	d := Difference{missing(c.AtClient.Sent, c.AtServer.Sent), missing(c.AtServer.Received, c.AtClient.Received)}
	c.Lost = &d
	if c.AtClient.Action != c.AtServer.Action {
		c.Notes = append(c.Notes, fmt.Sprintf("the calling end says %s, the called end %s", c.AtClient.Action, c.AtServer.Action))
	}
}

// add adds up the reports of one connection: of those that a function takes, the
// ones that began together, nearest to a time.
func add(list []Flow, first time.Time, within time.Duration, take func(*Flow) bool) *Report {
	var best *Flow
	for i := range list {
		x := &list[i]
		if take(x) && x.First.Sub(first).Abs() <= within && (best == nil || x.First.Sub(first).Abs() < best.First.Sub(first).Abs()) {
			best = x
		}
	}
	if best == nil {
		return nil
	}
	out := &Report{Host: best.Host, Client: best.Client, Server: best.Server, Process: best.Process, PID: best.PID, User: best.User, Command: best.Command, Name: best.Name, Action: best.Action, Rule: best.Rule, First: best.First, Last: best.Last}
	var begun, ended bool
	var rtt time.Duration
	timed := 0
	for i := range list {
		x := &list[i]
		if !take(x) || x.Host != best.Host || x.First.Sub(best.First).Abs() > sameBeginning {
			continue
		}
		out.Reports++
		begun, ended = begun || x.New, ended || x.Ended
		out.Sent = model.Count{Packets: out.Sent.Packets + x.Sent.Packets, Bytes: out.Sent.Bytes + x.Sent.Bytes}
		out.Received = model.Count{Packets: out.Received.Packets + x.Received.Packets, Bytes: out.Received.Bytes + x.Received.Bytes}
		out.Retransmits += x.Retransmits
		out.Drops += uint64(x.Drops)
		if x.DropReason != "" && !slices.Contains(out.DropReasons, x.DropReason) {
			out.DropReasons = append(out.DropReasons, x.DropReason)
		}
		if x.TCPState != "" { // reports are in the order of their time
			out.TCPState, out.ClientFlags, out.ServerFlags = x.TCPState, x.ClientFlags, x.ServerFlags
		}
		out.Last = later(out.Last, x.Last)
		if x.RTT > 0 {
			rtt, timed = rtt+x.RTT, timed+1
		}
	}
	if timed > 0 {
		out.RTT = rtt / time.Duration(timed)
	}
	out.Whole = begun && ended
	return out
}

// matching returns reports that fulfil a condition, in the order in which they
// were kept.
func (s *Store) matching(ctx context.Context, condition string, args ...any) ([]Flow, error) {
	at, err := s.places()
	if err != nil {
		return nil, err
	}
	st := s.reports().narrow(piece{reports, s.oldest(reports, s.now()), forever, 0, at[reports].last}, at[reports].fences)
	st.add(" AND "+condition, args...).add(fmt.Sprintf(" ORDER BY id DESC LIMIT %d", mostReports))
	out, err := s.readReports(ctx, st)
	slices.Reverse(out)
	return out, err
}
