// Package collector takes what routers, switches and probes report of flows:
// NetFlow 5 and 9, IPFIX and sFlow 5, told apart by what arrives.
package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"weft/wire/flowwire"
)

// Config of a Collector.
type Config struct {
	Listeners []Listener
}

// Listener is a UDP port, and who may report there.
type Listener struct {
	Address string // [ADDRESS]:PORT
	// From are the exporters' addresses. UDP tells nobody's word from another's:
	// whoever can send from one of these is believed.
	From []netip.Prefix
}

// Deps of a Collector.
type Deps struct {
	// Records takes what was reported; the slice is the Collector's. Every listener
	// calls it from a goroutine of its own.
	Records func([]flowwire.Record)
	Log     *slog.Logger
}

// Collector listens to exporters.
type Collector struct {
	cfg  Config
	deps Deps
}

// New makes an inert Collector.
func New(cfg Config, deps Deps) (*Collector, error) {
	if deps.Records == nil {
		return nil, errors.New("a collector needs somebody to take records")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	return &Collector{cfg, deps}, nil
}

const (
	maxDatagram = 64 << 10
	// buffer is what the kernel may hold back while we read.
	buffer = 8 << 20
	// again is how long a port that cannot be had is left alone.
	again = 5 * time.Second
	// tick is how often records are handed on.
	tick = time.Second
	// complain is how often, at most, it is said what could not be read.
	complain = time.Minute
)

// Run listens until ctx ends. A port that cannot be had is tried again.
func (c *Collector) Run(ctx context.Context, ready func()) error {
	var all sync.WaitGroup
	for _, l := range c.cfg.Listeners {
		conn, err := listen(ctx, l)
		if err != nil {
			c.deps.Log.Warn("reports of flows cannot be listened to", "error", err, "again", again)
		}
		all.Go(func() { c.keep(ctx, conn, l) })
	}
	ready()
	all.Wait()
	<-ctx.Done()
	return nil
}

func listen(ctx context.Context, l Listener) (*net.UDPConn, error) {
	conn, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", l.Address)
	if err != nil {
		return nil, fmt.Errorf("listen to exporters of flows: %w", err)
	}
	udp := conn.(*net.UDPConn)    // of "udp"
	_ = udp.SetReadBuffer(buffer) // the kernel's own is enough for most
	return udp, nil
}

// keep collects at a port, once it is to be had.
func (c *Collector) keep(ctx context.Context, conn *net.UDPConn, l Listener) {
	for conn == nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(again):
			conn, _ = listen(ctx, l) // why not was said
		}
	}
	defer conn.Close()
	c.collect(ctx, conn, l)
}

// collect reads datagrams until ctx ends.
func (c *Collector) collect(ctx context.Context, conn *net.UDPConn, l Listener) {
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) }) //nolint:errcheck // it is open
	defer stop()
	log := c.deps.Log.With("listen", conn.LocalAddr().String())
	d, buf := newDecoder(), make([]byte, maxDatagram)
	var strangers, faults uint64
	var stranger netip.Addr
	var fault error
	var said time.Time
	for handed := time.Now(); ctx.Err() == nil; {
		conn.SetReadDeadline(handed.Add(tick)) //nolint:errcheck // it is open
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		now := time.Now()
		switch from := netip.AddrPortFrom(from.Addr().Unmap(), from.Port()); {
		case err != nil:
		case !allowed(l.From, from.Addr()):
			strangers, stranger = strangers+1, from.Addr()
		default:
			if err := d.decode(now, from, buf[:n]); err != nil {
				faults, fault = faults+1, fmt.Errorf("from %s: %w", from.Addr(), err)
			}
		}
		if now.Sub(handed) < tick && len(d.records) < flowwire.MaxRecords {
			continue
		}
		handed = now
		if len(d.records) > 0 {
			c.deps.Records(d.records)
			d.records = d.records[:0]
		}
		if strangers+faults > 0 && now.Sub(said) >= complain {
			log.Warn("reports of flows are left out", "unreadable", faults, "last", fault, "fromStrangers", strangers, "stranger", stranger)
			strangers, faults, said = 0, 0, now
		}
	}
	if len(d.records) > 0 {
		c.deps.Records(d.records)
	}
}

func allowed(from []netip.Prefix, a netip.Addr) bool {
	for _, p := range from {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
