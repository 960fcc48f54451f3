// Package mirror meters what others say to one another, as an interface hears
// it: the port that a switch mirrors to, or the one at which a cloud's mirror arrives in
// VXLAN, GENEVE, GRE or ERSPAN.
package mirror

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"weft/internal/application"
	"weft/model"
	"weft/packet"
	"weft/packet/meter"
	"weft/wire/flowwire"
)

// Config of a Mirror. Zero values take the defaults.
type Config struct {
	Interfaces []Interface
	// Flows is how many of each interface are metered at a time; 131,072 unless
	// given. Where there are more, those that were quiet for longest end early.
	Flows int
	// Active is how often a flow that goes on is reported, 10 s unless given; Idle
	// ends one that is quiet, after 60 s unless given.
	Active, Idle time.Duration
}

// Interface is one to listen to.
type Interface struct {
	Name string
	// Unwrap meters what arrives in a tunnel, and not the tunnel.
	Unwrap bool
}

// Deps of a Mirror.
type Deps struct {
	// Records takes what was seen, each second, or flowwire.MaxRecords of it; the
	// slice is the Mirror's. Every interface calls it from a goroutine of its own.
	Records func([]flowwire.Record)
	Log     *slog.Logger
}

// Mirror listens to interfaces.
type Mirror struct {
	cfg  Config
	deps Deps
}

// New makes an inert Mirror.
func New(cfg Config, deps Deps) (*Mirror, error) {
	if deps.Records == nil {
		return nil, errors.New("a mirror needs somebody to take records")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Flows = cmp.Or(cfg.Flows, 131_072)
	cfg.Active, cfg.Idle = cmp.Or(cfg.Active, 10*time.Second), cmp.Or(cfg.Idle, time.Minute)
	return &Mirror{cfg, deps}, nil
}

const (
	// again is how long an interface that cannot be listened to is left alone.
	again = 5 * time.Second
	// tick is how often flows are looked through and reported.
	tick = time.Second
	// linger is how long a connection of TCP that is over waits for what comes late.
	linger   = 2 * time.Second
	maxNames = 50_000
	// complain is how often, at most, it is said that frames were dropped.
	complain = time.Minute
)

// Run listens until ctx ends. An interface that is not there, or goes away, is
// tried again.
func (m *Mirror) Run(ctx context.Context, ready func()) error {
	ready()
	var all sync.WaitGroup
	for _, i := range m.cfg.Interfaces {
		all.Go(func() { m.keep(ctx, i) })
	}
	all.Wait()
	<-ctx.Done()
	return nil
}

// keep listens to an interface, whenever it is there.
func (m *Mirror) keep(ctx context.Context, i Interface) {
	log, last := m.deps.Log.With("interface", i.Name), ""
	for ctx.Err() == nil {
		r, err := openRing(i.Name)
		if err == nil {
			log.Info("listening to a mirror", "unwrap", i.Unwrap)
			last = ""
			err = errors.Join(m.listen(ctx, r, i, log), r.close())
		}
		if err != nil && err.Error() != last {
			log.Warn("a mirror cannot be listened to", "error", err, "again", again)
			last = err.Error()
		}
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
}

// listener is what is known of an interface's flows.
type listener struct {
	meter   *meter.Meter
	names   *application.Names
	records []flowwire.Record
	report  func([]flowwire.Record)
	link    packet.Link
}

func (m *Mirror) listen(ctx context.Context, r *ring, i Interface, log *slog.Logger) error {
	l := &listener{names: application.NewNames(maxNames), report: m.deps.Records, link: r.link}
	var err error
	if l.meter, err = meter.New(meter.Config{Flows: m.cfg.Flows, Idle: m.cfg.Idle, Active: m.cfg.Active, Closed: linger, Unwrap: i.Unwrap, Record: l.record}); err != nil {
		return err
	}
	defer func() {
		l.meter.Flush()
		l.flush()
	}()
	var dropped uint64
	var said time.Time
	for ticked := time.Now(); ctx.Err() == nil; {
		if err := r.wait(retire * time.Millisecond); err != nil {
			return err
		}
		r.read(l.frame)
		now := time.Now()
		if now.Sub(ticked) < tick {
			continue
		}
		ticked = now
		l.meter.Expire(now)
		l.flush()
		if dropped += r.dropped(); dropped > 0 && now.Sub(said) >= complain {
			log.Warn("frames of a mirror came faster than they were read; figures are too small", "frames", dropped)
			dropped, said = 0, now
		}
	}
	return nil
}

// flush hands over what there is.
func (l *listener) flush() {
	if len(l.records) > 0 {
		l.report(l.records)
		l.records = l.records[:0]
	}
}

// use is what is found out about a flow's application.
type use struct {
	host       string
	recogniser *application.Recogniser // nil: nothing more can be
}

func (l *listener) frame(when time.Time, b []byte, wire int) {
	seen := l.meter.Add(when, b, wire, l.link)
	f := seen.Flow
	if f == nil || len(seen.Payload) == 0 || f.Protocol != packet.ProtoTCP && f.Protocol != packet.ProtoUDP {
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
	l.names.Learn(f.Client.Addr(), app.Answers)
	if app.Protocol != application.DNS { // there it is what was asked about
		u.host = app.Host
	}
	if done {
		u.recogniser = nil
	}
}

func (l *listener) record(f *meter.Flow) {
	r := flowwire.Record{
		Local: f.Client, Remote: f.Server, Protocol: f.Protocol, Observed: true, Egress: true, New: f.New, Ended: f.End.Ended(), Action: model.ActionAllow, First: f.First, Last: f.Last,
		Sent: flowwire.Count{Packets: f.Sent.Packets, Bytes: f.Sent.Bytes}, Received: flowwire.Count{Packets: f.Received.Packets, Bytes: f.Received.Bytes},
		RTT: f.Handshake, Retransmits: f.Sent.Retransmits + f.Received.Retransmits, Name: l.names.Of(f.Client.Addr(), f.Server.Addr()),
		SentFlags: packet.TCPFlags(f.Sent.Flags), ReceivedFlags: packet.TCPFlags(f.Received.Flags),
	}
	r.TCPState = packet.TCPStateSeen(r.SentFlags, r.ReceivedFlags)
	if u, ok := f.State.(*use); ok {
		r.Name = cmp.Or(u.host, r.Name)
	}
	if r.Sent.Packets+r.Received.Packets == 0 {
		return // nothing since the record before
	}
	if l.records = append(l.records, r); len(l.records) == flowwire.MaxRecords {
		l.flush()
	}
}
