package probe

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"weft/model"
	"weft/wire/wirepb"
)

func listenUDP(t *testing.T) string {
	t.Helper()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.LocalAddr().String()
}

// scheduling runs a Schedule that draws no lots.
func scheduling(t *testing.T, cfg Config) *Schedule {
	t.Helper()
	s := NewSchedule(cfg, Deps{})
	s.draw = func(time.Duration) time.Duration { return 0 }
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { defer close(over); s.Run(ctx, func() {}) }() //nolint:errcheck // it has none
	t.Cleanup(func() { cancel(); <-over })
	return s
}

func planned(name, url string, every time.Duration) *wirepb.ScheduledProbe {
	return &wirepb.ScheduledProbe{Name: name, IntervalMillis: uint64(every.Milliseconds()), Spec: &wirepb.ProbeSpec{Kind: "http", Target: url, Concurrency: 2, Count: 10, TimeoutMillis: 1000}}
}

func (s *Schedule) apply(t *testing.T, probes ...*wirepb.ScheduledProbe) string {
	t.Helper()
	items, err := s.Apply(t.Context(), &wirepb.ProbeSection{Probes: probes})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, i := range items {
		out = append(out, i.Item+": "+i.Message)
	}
	return strings.Join(out, "\n")
}

// turned waits until a probe has had so many questions, and returns its last turn.
func turned(t *testing.T, s *Schedule, name string, asked uint64) *wirepb.ProbeTurn {
	t.Helper()
	for range 400 {
		for _, turn := range s.Report().Turns {
			if turn.Name == name && turn.Asked >= asked {
				return turn
			}
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("%s has no turn: %v", name, s.Report())
	return nil
}

// A probe has turn after turn; applied again it goes on, changed it begins anew, and
// taken away it ends.
func TestSchedule(t *testing.T) {
	url, asked, _ := service(t, nil)
	s := scheduling(t, Config{})
	p := planned("shop", url, time.Second)
	if wrong := s.apply(t, p); wrong != "" {
		t.Error(wrong)
	}
	if turn := turned(t, s, "shop", 20); turn.Result.GetOk() != 10 || turn.Failed != 0 || turn.UnixNanos == 0 {
		t.Errorf("the turn is %v", turn)
	}
	if turns := s.Turns(); len(turns) != 1 || turns[0].Probe != "shop" || turns[0].Result.OK != 10 {
		t.Errorf("for rules it is %v", turns)
	}
	s.apply(t, p)
	if turn := s.Report().Turns; len(turn) != 1 || turn[0].Asked < 20 {
		t.Errorf("applied again, it has %v", turn)
	}
	s.apply(t, planned("shop", url+"/other", time.Hour))
	if turn := turned(t, s, "shop", 10); turn.Asked != 10 {
		t.Errorf("changed, it has %v", turn)
	}
	s.apply(t)
	if r := s.Report(); len(r.Turns) != 0 || r.Asked != uint64(asked.Load()) {
		t.Errorf("taken away, it has %v; asked were %d", r, asked.Load())
	}
}

// A turn that is too short for what is asked in it says so.
func TestTurnsSayWhatTheyLeaveOut(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(400 * time.Millisecond) }))
	defer server.Close()
	s := scheduling(t, Config{})
	p := planned("slow", server.URL, time.Second)
	p.Spec.Concurrency = 1
	s.apply(t, p)
	if turn := turned(t, s, "slow", 1); turn.Result.GetAsked() >= 10 || !strings.Contains(turn.Result.GetNote(), "no time for 10 questions") {
		t.Errorf("the turn is %v", turn)
	}
}

// A service that does not answer fails each turn, and holds up none of what follows.
func TestScheduleOfADeadService(t *testing.T) {
	var hold atomic.Bool
	hold.Store(true)
	url, _, underway := service(t, &hold)
	s := scheduling(t, Config{})
	s.apply(t, planned("dead", url, time.Second), &wirepb.ScheduledProbe{Name: "lost", IntervalMillis: 1000, Spec: &wirepb.ProbeSpec{Kind: "icmp", Target: "no.such.name.invalid", Concurrency: 1, Count: 2, TimeoutMillis: 1000}})
	// Each of the two who ask has one question, for no second could be waited for.
	if turn := turned(t, s, "dead", 4); turn.Asked != turn.Failed || turn.Result.GetAsked() != 2 || turn.Result.Errors[0].Kind != "timeout" {
		t.Errorf("the turn is %v", turn)
	}
	if turn := turned(t, s, "lost", 2); turn.Failed != turn.Asked {
		t.Errorf("of a name that is none: %v", turn)
	}
	s.apply(t)
	idle(t, "taken away", underway)
}

func TestScheduleHasLimits(t *testing.T) {
	s := scheduling(t, Config{})
	ok := func(change func(*wirepb.ScheduledProbe)) *wirepb.ScheduledProbe {
		p := planned("p", "http://127.0.0.1:1/", time.Hour)
		change(p)
		return p
	}
	for want, p := range map[string]*wirepb.ScheduledProbe{
		"asks each 1s":      ok(func(p *wirepb.ScheduledProbe) { p.IntervalMillis = 10 }),
		"to 24h0m0s":        ok(func(p *wirepb.ScheduledProbe) { p.IntervalMillis = 1 << 63 }),
		"1000 at most":      ok(func(p *wirepb.ScheduledProbe) { p.Spec.Count = 1001 }),
		"100 a second":      ok(func(p *wirepb.ScheduledProbe) { p.IntervalMillis, p.Spec.Count = 1000, 101 }),
		"0 questions":       ok(func(p *wirepb.ScheduledProbe) { p.Spec = nil }),
		"concurrency of 33": ok(func(p *wirepb.ScheduledProbe) { p.Spec.Concurrency = 33 }),
		"waits for 1m0s":    ok(func(p *wirepb.ScheduledProbe) { p.Spec.TimeoutMillis = 61_000 }),
		"http://HOST":       ok(func(p *wirepb.ScheduledProbe) { p.Spec.Target = "" }),
		"statuses from 100": ok(func(p *wirepb.ScheduledProbe) { p.Spec.Expect = "x" }),
	} {
		if wrong := s.apply(t, p); !strings.Contains(wrong, want) {
			t.Errorf("%q, want %q", wrong, want)
		}
	}
	var many []*wirepb.ScheduledProbe
	for i := range model.MaxProbes + 2 {
		many = append(many, planned(strings.Repeat("p", i+1), "http://127.0.0.1:1/", time.Hour))
	}
	if wrong := s.apply(t, many...); strings.Count(wrong, "32 probes at most") != 2 {
		t.Errorf("too many: %q", wrong)
	}
	off := scheduling(t, Config{Off: true})
	if wrong := off.apply(t, planned("p", "http://127.0.0.1:1/", time.Second)); !strings.Contains(wrong, "agent.yaml") || len(off.byName) != 0 {
		t.Errorf("off: %q", wrong)
	}
}

// Machines that are told at one time have their turns at different ones.
func TestTurnsAreSpread(t *testing.T) {
	s := NewSchedule(Config{}, Deps{})
	seen := map[int]int{}
	for range 10_000 {
		seen[int(s.draw(time.Minute)/(6*time.Second))]++
	}
	for tenth, n := range seen {
		if tenth < 0 || tenth > 9 || n > 2000 {
			t.Errorf("of 10000 machines %d begin in the same tenth of the interval, %d", n, tenth)
		}
	}
}

// Whatever a controller says, an agent does no more than it may.
func FuzzSchedule(f *testing.F) {
	raw, err := proto.Marshal(&wirepb.ProbeSection{Probes: []*wirepb.ScheduledProbe{planned("p", "http://127.0.0.1:1/", time.Second)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var section wirepb.ProbeSection
		if proto.Unmarshal(raw, &section) != nil {
			return
		}
		s := NewSchedule(Config{}, Deps{}) // that is not run
		if _, err := s.Apply(t.Context(), &section); err != nil {
			t.Fatal(err)
		}
		for _, p := range s.byName {
			x, every := s.turnOf(p.ScheduledProbe), interval(p.ScheduledProbe)
			if x.Concurrency < 1 || x.Concurrency > model.MaxTurnConcurrency || x.Count < 1 || float64(x.Count) > model.MaxTurnRate*every.Seconds() || x.Timeout > model.MaxProbeTimeout || x.Time > model.MaxProbeTime || every < model.MinProbeInterval {
				t.Errorf("%v becomes %+v", p.ScheduledProbe, x)
			}
		}
	})
}
