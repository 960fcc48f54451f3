// Package conversations reads a capture file and tells who talked to whom in it.
package conversations

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"weft/cmd/weft/capturefile"
	"weft/internal/application"
	"weft/packet"
	"weft/packet/meter"
)

// Most is how many conversations a file may have.
const Most = 1_000_000

// maxNames is how many names of a file are remembered.
const maxNames = 400_000

// Conversation is what a file has of two ends that talked.
type Conversation struct {
	Client   netip.AddrPort `json:"client"`
	Server   netip.AddrPort `json:"server"`
	Protocol uint8          `json:"protocol"`
	// Name is that by which the client looked the server up, where the file has it.
	Name        string                  `json:"name,omitempty"`
	Application application.Application `json:"application,omitzero"`
	CommunityID string                  `json:"communityId"`
	First       time.Time               `json:"first"`
	Last        time.Time               `json:"last"`
	Sent        Count                   `json:"sent"`
	Received    Count                   `json:"received"`
	RTT         time.Duration           `json:"rttNanos"`
	Retransmits uint32                  `json:"retransmits"`
	Flags       string                  `json:"flags,omitempty"`
	// SentFlags and ReceivedFlags are those of each end.
	SentFlags, ReceivedFlags packet.TCPFlags `json:"-"`
	Ended                    bool            `json:"ended"`
	ClientPlace              Place           `json:"clientPlace,omitzero"`
	ServerPlace              Place           `json:"serverPlace,omitzero"`
}

// Count is packets, their bytes, and those of the frames that they came in.
type Count struct {
	Packets   uint64 `json:"packets"`
	Bytes     uint64 `json:"bytes"`
	WireBytes uint64 `json:"wireBytes"`
	// Fragments are those of Packets that were fragments but a first.
	Fragments     uint64 `json:"fragments,omitempty"`
	FragmentBytes uint64 `json:"-"` // of WireBytes
}

func countOf(s *meter.Side) Count { return Count{s.Packets, s.Bytes, s.Wire, s.Later, s.LaterWire} }

// Summary is what a file is.
type Summary struct {
	Packets       int
	First, Last   time.Time
	Cut           int // packets that the capture cut
	FirstCut      int // the first of them
	Counters      meter.Counters
	Unread        map[string]int // packets by the name of their link type
	Backwards     int            // packets older than the one before
	Conversations []Conversation // by wire bytes, the most first

	before time.Time // of the packet before
}

// Options of Read.
type Options struct {
	Unwrap bool
	// Progress is called now and then with how far the file is read.
	Progress func(packets int, bytes int64)
}

// Read reads a file to its end. An error is a *capturefile.Error, or that there are too many
// conversations; what was read until then is in the summary.
func Read(r *capturefile.Reader, o Options) (*Summary, error) {
	s := &Summary{Unread: map[string]int{}}
	names := application.NewNames(maxNames)
	m, err := meter.New(meter.Config{Flows: Most, Unwrap: o.Unwrap, Record: func(f *meter.Flow) { s.Conversations = append(s.Conversations, conversation(f, names)) }})
	if err != nil {
		return nil, err
	}
	fault := read(r, m, names, s, o)
	s.Counters = m.Counters()
	m.Flush()
	slices.SortStableFunc(s.Conversations, func(a, b Conversation) int {
		return cmp.Or(cmp.Compare(b.Sent.WireBytes+b.Received.WireBytes, a.Sent.WireBytes+a.Received.WireBytes), a.First.Compare(b.First))
	})
	return s, fault
}

// progressEach is after how many packets progress is told of.
const progressEach = 1 << 14

func read(r *capturefile.Reader, m *meter.Meter, names *application.Names, s *Summary, o Options) error {
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		s.note(f)
		if o.Progress != nil && s.Packets%progressEach == 0 {
			o.Progress(s.Packets, r.Offset())
		}
		if f.Unread != "" {
			s.Unread[f.Unread]++
			continue
		}
		seen := m.Add(f.When, f.Data, f.Wire, f.Link)
		if m.Counters().Full > 0 || len(s.Conversations)+m.Len() > Most {
			return &capturefile.Error{Packet: f.Number, Offset: f.Offset, Err: fmt.Errorf("more than %d conversations; cut the file: editcap -c 10000000 FILE OUT.pcapng", Most)}
		}
		if seen.Flow != nil && len(seen.Payload) > 0 {
			recognise(seen, f.When, names)
		}
	}
}

func (s *Summary) note(f *capturefile.Frame) {
	s.Packets = f.Number
	if s.First.IsZero() || f.When.Before(s.First) {
		s.First = f.When
	}
	if f.When.Before(s.before) {
		s.Backwards++
	}
	if s.before = f.When; f.When.After(s.Last) {
		s.Last = f.When
	}
	if f.Wire > len(f.Data) {
		if s.Cut++; s.Cut == 1 {
			s.FirstCut = f.Number
		}
	}
}

// use is what is found out about a conversation: its Recogniser, until that is done.
type use struct {
	app        application.Application
	recogniser *application.Recogniser
}

func recognise(seen meter.Seen, when time.Time, names *application.Names) {
	f := seen.Flow
	if f.Protocol != packet.ProtoTCP && f.Protocol != packet.ProtoUDP {
		return
	}
	u, _ := f.State.(*use)
	if u == nil {
		u = &use{recogniser: application.New(f.Protocol == packet.ProtoUDP)}
		f.State = u
	}
	if u.recogniser == nil {
		return
	}
	from := application.Client
	if !seen.FromClient {
		from = application.Server
	}
	app, done := u.recogniser.Feed(from, when, seen.Payload)
	names.Learn(f.Client.Addr(), app.Answers)
	if u.app = app; done {
		u.recogniser = nil
	}
}

func conversation(f *meter.Flow, names *application.Names) Conversation {
	c := Conversation{
		Client: f.Client, Server: f.Server, Protocol: f.Protocol, First: f.First, Last: f.Last, Sent: countOf(&f.Sent), Received: countOf(&f.Received),
		RTT: f.Handshake, Retransmits: f.Sent.Retransmits + f.Received.Retransmits, Ended: f.End == meter.Over, Name: names.Of(f.Client.Addr(), f.Server.Addr()),
	}
	if u, ok := f.State.(*use); ok {
		c.Application = u.app
		c.Application.Answers = nil
	}
	from, to := f.Client, f.Server
	if f.Protocol == packet.ProtoICMP || f.Protocol == packet.ProtoICMPv6 {
		from, to = netip.AddrPortFrom(from.Addr(), f.ICMP>>8), netip.AddrPortFrom(to.Addr(), f.ICMP&0xff)
	}
	c.CommunityID = packet.CommunityID(0, f.Protocol, from, to)
	if f.Protocol == packet.ProtoTCP {
		c.SentFlags, c.ReceivedFlags = packet.TCPFlags(f.Sent.Flags), packet.TCPFlags(f.Received.Flags)
		c.Flags = (c.SentFlags | c.ReceivedFlags).String()
	}
	return c
}
