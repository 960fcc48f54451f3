package samples

import (
	"context"
	"testing"
	"time"

	"weft/wire"
	"weft/wire/wirepb"
)

func TestLooksAddUpAndEnd(t *testing.T) {
	at := time.Unix(1000, 0)
	s := New()
	s.now = func() time.Time { return at }
	want := func(millis, processes uint32) {
		t.Helper()
		if r, _, _ := s.Wanted("a"); r.IntervalMillis != millis || r.Processes != processes {
			t.Errorf("wanted is %v, want every %d ms %d processes", r, millis, processes)
		}
	}
	_, host, all := s.Wanted("a")
	want(0, 0)
	s.Take(wire.Identity{Name: "a", UID: "a"}, &wirepb.Sample{})
	if s.Last("a").Sample != nil {
		t.Error("what nobody asked for is kept")
	}
	s.Look("a", Look{5 * time.Second, 100})
	<-host
	want(5000, 100)
	s.LookAtAll(Look{2 * time.Second, 0})
	<-all
	want(2000, 100)
	_, host, all = s.Wanted("a")
	s.Look("a", Look{5 * time.Second, 100}) // again
	s.Look("a", Look{time.Nanosecond, 1 << 30})
	<-host
	want(500, 2000)
	select {
	case <-all:
		t.Error("looks at all changed")
	default:
	}
	at = at.Add(22 * time.Second)
	want(2000, 100)
	at = at.Add(time.Minute)
	want(0, 0)
}

func TestNextWaits(t *testing.T) {
	s := New()
	s.Look("a", Look{time.Second, 1})
	id := wire.Identity{Name: "web1", UID: "a"}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if x := s.Next(ended, "a", 0); x.Sample != nil {
		t.Errorf("there is %+v", x)
	}
	s.Take(id, &wirepb.Sample{Seconds: 1})
	x := s.Next(t.Context(), "a", 0)
	if x.Sample == nil || x.Host != "web1" {
		t.Fatalf("the first is %+v", x)
	}
	go s.Take(id, &wirepb.Sample{Seconds: 2})
	if y := s.Next(t.Context(), "a", x.Number); y.Seconds != 2 || y.Number <= x.Number {
		t.Errorf("the second is %+v", y)
	}
	s.now = func() time.Time { return time.Now().Add(2 * keepFor) }
	s.LookAtAll(Look{time.Second, 1})
	s.Take(wire.Identity{Name: "b", UID: "b"}, &wirepb.Sample{})
	if x := s.Last("a"); x.Sample != nil {
		t.Errorf("what nobody has looked at for long said %+v", x)
	}
}
