package flowstore

import (
	"net/netip"
	"strconv"
	"time"

	"weft/model"
)

// Flow is what one end reports of a connection between two times.
type Flow struct {
	// ID grows with each flow that is kept.
	ID       uint64    `json:"id"`
	Time     time.Time `json:"time" doc:"When it was reported."`
	First    time.Time `json:"first" doc:"When the connection began."`
	Last     time.Time `json:"last" doc:"When its last packet was."`
	Host     string    `json:"host" doc:"That reports."`
	AtServer bool      `json:"atServer" doc:"What reports is the called end."`
	// Observed is of a host that has seen the packets of others, as in a mirror; it
	// is neither end.
	Observed bool  `json:"observed,omitempty" doc:"What reports is neither end, and has seen the packets pass."`
	Counted  bool  `json:"counted" doc:"Of the reports of both ends, the one that sums are made of."`
	Client   End   `json:"client"`
	Server   End   `json:"server"`
	Protocol uint8 `json:"protocol"`
	// CommunityID is made of the addresses and ports above when a flow is read.
	CommunityID string `json:"communityId,omitempty" doc:"By which other tools name the connection; not of ICMP."`
	Process     string `json:"process,omitempty" doc:"Path of the executable at the reporting end."`
	PID         uint32 `json:"pid,omitempty"`
	User        string `json:"user,omitempty"`
	Command     string `json:"command,omitempty"`
	Name        string `json:"name,omitempty" doc:"By which the server was looked up."`
	// Dialled is the address that the client used, where its host sends what is
	// meant for it to the server's; the zero value where nothing is rewritten.
	Dialled netip.AddrPort `json:"dialled,omitzero" doc:"What the client called, where its host sends that on to the server's address."`

	Application Application `json:"application,omitzero" doc:"What the connection's first bytes show of its use."`

	Action      model.Action  `json:"action"`
	Rule        uint64        `json:"rule,string" doc:"That decided; 0 is the default."`
	New         bool          `json:"new" doc:"The connection's first report from this end."`
	Ended       bool          `json:"ended"`
	Sent        model.Count   `json:"sent" doc:"By the client."`
	Received    model.Count   `json:"received"`
	RTT         time.Duration `json:"rttNanos" doc:"Smoothed round-trip time; 0 is not known."`
	Retransmits uint32        `json:"retransmits"`
	TCPState    string        `json:"tcpState,omitempty" doc:"syn-sent, syn-received, established, closing or closed, when it was reported; empty where it is not known."`
	// ClientFlags and ServerFlags are letters, as packet.TCPFlags writes them.
	ClientFlags string `json:"clientFlags,omitempty" doc:"Of TCP: all that the client has sent so far, as letters of FSRPAUEC."`
	ServerFlags string `json:"serverFlags,omitempty" doc:"Of TCP: all that the server has sent so far."`
	Drops       uint32 `json:"drops,omitempty" doc:"Packets that the reporting host has thrown away, sent or received."`
	DropReason  string `json:"dropReason,omitempty" doc:"Of the last of them: the kernel's name for it, or POLICY."`
}

// Application is what the first bytes of a connection show of its use. What is
// empty is not known.
type Application struct {
	Protocol string        `json:"protocol,omitempty" doc:"tls, http, postgresql, and others."`
	Name     string        `json:"name,omitempty" doc:"By which the client calls the server: SNI, Host."`
	ALPN     string        `json:"alpn,omitempty"`
	Method   string        `json:"method,omitempty" doc:"Of HTTP's first request."`
	Path     string        `json:"path,omitempty" doc:"Of that request, as a template: without identifiers, and without what follows a question mark."`
	Status   uint16        `json:"status,omitempty" doc:"Of the answer to it."`
	Latency  time.Duration `json:"latencyNanos,omitempty" doc:"From the request to the answer; 0 is not known."`
	Software string        `json:"software,omitempty" doc:"That the server calls itself."`
}

// End is one end of a connection.
type End struct {
	Workload string            `json:"workload,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Address  netip.Addr        `json:"address"`
	Port     uint16            `json:"port"`
	// What follows is of an end that is no workload, where the controller has files of
	// places.
	Country      string `json:"country,omitempty" doc:"Where the address is: ISO 3166-1, two letters."`
	AS           uint32 `json:"as,omitempty" doc:"Autonomous system that has the address."`
	Organization string `json:"organization,omitempty" doc:"That has the autonomous system."`
}

// System is the autonomous system and who has it, as sums and tables say it.
func (e *End) System() string {
	switch {
	case e.AS == 0:
		return ""
	case e.Organization == "":
		return systemNumber(e.AS)
	}
	return systemNumber(e.AS) + " " + e.Organization
}

func systemNumber(as uint32) string { return "AS" + strconv.FormatUint(uint64(as), 10) }

// Batch is flows that one host reported together.
type Batch struct {
	HostUID       string
	Epoch, Number uint64
	Lost          uint64 // records the host could not keep, of this epoch in total
	Flows         []Flow
}
