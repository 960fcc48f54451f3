package main

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"weft/agent/connection"
	"weft/agent/monitor"
	"weft/agent/recording"
	"weft/cmd/top"
	"weft/model"
)

// Who looks by the socket is sent samples with rates; who says nothing sensible is
// sent none, and the server ends with viewers still there.
func TestSamplesAreServed(t *testing.T) {
	dir := t.TempDir()
	s := &sampleServer{filepath.Join(dir, top.SampleSocket), monitor.NewWatch(monitor.New(monitor.Config{Host: "served"}, monitor.Deps{})), slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	<-ready
	if st, err := os.Stat(s.path); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("the socket: %v, %v", st, err)
	}
	odd, err := net.Dial("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	odd.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	if n, err := odd.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Error("nonsense was answered")
	}
	odd.Close()
	look, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	seen := 0
	err = top.Local(dir, top.MinInterval)(look, "", func(x *model.Sample, _ time.Duration) {
		if x.Host != "served" || len(x.Processes) == 0 {
			t.Errorf("served is %s with %d processes", x.Host, len(x.Processes))
		}
		if x.Seconds > 0 {
			if seen++; seen == 2 {
				cancel()
			}
		}
	})
	if err == nil || seen < 2 {
		t.Errorf("the server ended: %v, %d samples", err, seen)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// silent is a meter that is shown everything.
type silent struct{ lines int }

func (*silent) Begin()                 {}
func (m *silent) See(*connection.Line) { m.lines++ }
func (*silent) End(bool) error         { return errors.New("told") }
func (*silent) Gone() error            { return nil }

// What a process sends is added up over its connections while somebody asks; a
// connection that takes another's ports is another, and one that was there before
// anybody asked counts from then.
func TestTrafficByProcess(t *testing.T) {
	under := &silent{}
	m := &traffic{Meter: under, captures: recording.New(recording.Config{}, recording.Deps{})}
	line := func(port uint16, began, sent uint64) *connection.Line {
		at := netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port)
		return &connection.Line{Key: connection.Key{Local: at, Remote: at, Protocol: 6}, Process: connection.Process{PID: 7}, Began: began, Sent: connection.Count{Bytes: sent}}
	}
	read := func(lines ...*connection.Line) {
		t.Helper()
		m.Begin()
		for _, l := range lines {
			m.See(l)
		}
		if err := m.End(true); err == nil || err.Error() != "told" {
			t.Fatalf("what the meter of flows says is lost: %v", err)
		}
	}
	read(line(1, 1, 500))
	if _, ok := m.rates(); ok {
		t.Error("rates of the time before anybody asked")
	}
	read(line(1, 1, 1000))
	if r, ok := m.rates(); !ok || r[7].Sent != 0 {
		t.Errorf("the first reading says %+v, %v", r, ok)
	}
	time.Sleep(20 * time.Millisecond)
	read(line(1, 1, 3000), line(2, 5, 10_000))
	time.Sleep(20 * time.Millisecond)
	read(line(1, 9, 100), line(2, 5, 10_000)) // the ports of the first for another
	before := m.since
	r, ok := m.rates()
	if bytes := r[7].Sent * m.since.Sub(before).Seconds(); !ok || math.Abs(bytes-12_100) > 1 { // 2000 + 10,000 + 100
		t.Fatalf("rates are %+v, which is %f bytes", r, bytes)
	}
	if again, _ := m.rates(); again[7] != r[7] {
		t.Errorf("asked again before another reading: %+v", again)
	}
	if under.lines != 6 {
		t.Errorf("the meter of flows was shown %d lines", under.lines)
	}
}
