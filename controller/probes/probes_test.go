package probes

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"weft/wire"
	"weft/wire/wirepb"
)

var spec = &wirepb.ProbeSpec{Kind: "http", Target: "http://x/", Concurrency: 1, Count: 10, TimeMillis: 1000, TimeoutMillis: 1000}

func targets(names ...string) (out []Target) {
	for _, n := range names {
		out = append(out, Target{UID: "uid-" + n, Host: n, Online: true})
	}
	return out
}

func id(name string) wire.Identity { return wire.Identity{Name: name, UID: "uid-" + name} }

func (p *Probes) orders(name string) int {
	o, _, _ := p.Wanted("uid-"+name, ^uint64(0))
	return len(o.GetOrders())
}

// texts are what has come, a word a host.
func texts(parts []Part) string {
	var out []string
	for _, p := range parts {
		text := p.Host
		if p.Result != nil {
			text += strings.Repeat("+", int(p.Result.OK))
		}
		if p.Ended {
			text += "."
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

// Hosts are told, what they say is told on, and each is told no more once it has ended:
// by itself, or because its session did.
func TestProbes(t *testing.T) {
	p := New()
	x, err := p.Start(append(targets("a", "b"), Target{UID: "uid-c", Host: "c"}), spec)
	if err != nil {
		t.Fatal(err)
	}
	o, version, changed := p.Wanted("uid-a", 0)
	if len(o.GetOrders()) != 1 || o.Orders[0].Spec.GetTarget() != "http://x/" || p.orders("b") != 1 || p.orders("c") != 0 {
		t.Fatalf("hosts are told %v", o)
	}
	if again, _, _ := p.Wanted("uid-a", version); again != nil {
		t.Errorf("told twice: %v", again)
	}
	var said []string
	over := make(chan error, 1)
	heard := make(chan string, 100)
	go func() {
		over <- x.Run(t.Context(), func(parts []Part, over bool) error {
			text := texts(parts)
			if over {
				text += " over"
			}
			heard <- text
			return nil
		})
	}()
	until := func(want string) {
		t.Helper()
		for {
			select {
			case got := <-heard:
				if said = append(said, got); got == want {
					return
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%q is not said; said were %q", want, said)
			}
		}
	}
	until("a b c.")
	p.Take(id("a"), &wirepb.ProbeProgress{Id: x.ID, Result: &wirepb.ProbeResult{Asked: 1, Ok: 1}})
	p.Take(id("a"), &wirepb.ProbeProgress{Id: x.ID + 1, Result: &wirepb.ProbeResult{Asked: 9, Ok: 9}, Ended: true})
	p.Take(id("stranger"), &wirepb.ProbeProgress{Id: x.ID, Result: &wirepb.ProbeResult{Asked: 9, Ok: 9}, Ended: true})
	until("a+ b c.")
	p.Take(id("a"), &wirepb.ProbeProgress{Id: x.ID, Result: &wirepb.ProbeResult{Asked: 2, Ok: 2}, Ended: true})
	until("a++. b c.")
	select {
	case <-changed:
	default:
		t.Error("the session of a is not woken")
	}
	if p.orders("a") != 0 || p.orders("b") != 1 {
		t.Error("who has ended is told to go on")
	}
	p.Take(id("a"), &wirepb.ProbeProgress{Id: x.ID, Result: &wirepb.ProbeResult{Asked: 3, Ok: 3}})
	p.Gone(id("b"))
	until("a++. b. c. over")
	if err := <-over; err != nil {
		t.Error(err)
	}
	if m := x.Parts()[1].Message; !strings.Contains(m, "session") {
		t.Errorf("of the host that is gone it is said %q", m)
	}
	if p.orders("b") != 0 || len(p.byID) != 0 {
		t.Errorf("it is not forgotten: %v", p.byID)
	}
}

// Hosts stop when nobody listens.
func TestNobodyListens(t *testing.T) {
	gone := errors.New("gone")
	for what, run := range map[string]func(*Probe) error{
		"cancelled": func(x *Probe) error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return x.Run(ctx, func([]Part, bool) error { return nil })
		},
		"gone": func(x *Probe) error { return x.Run(t.Context(), func([]Part, bool) error { return gone }) },
	} {
		p := New()
		x, err := p.Start(targets("a"), spec)
		if err != nil {
			t.Fatal(err)
		}
		if err := run(x); err == nil {
			t.Errorf("%s: no error", what)
		}
		if p.orders("a") != 0 || len(p.byID) != 0 {
			t.Errorf("%s: the host goes on", what)
		}
	}
}

// A host that never begins, or falls silent, is not waited for.
func TestSilentHosts(t *testing.T) {
	p := New()
	now := time.Now()
	p.now = func() time.Time { return now }
	x, err := p.Start(targets("a", "b"), spec)
	if err != nil {
		t.Fatal(err)
	}
	p.Take(id("b"), &wirepb.ProbeProgress{Id: x.ID, Result: &wirepb.ProbeResult{}})
	now = now.Add(beginWithin + time.Second)
	x.endSilent(false)
	if got := texts(x.Parts()); got != "a. b" {
		t.Errorf("after %s: %s", beginWithin, got)
	}
	now = now.Add(silentFor)
	if err := x.Run(t.Context(), func([]Part, bool) error { return nil }); err != nil {
		t.Error(err)
	}
	x, err = p.Start(targets("a"), spec)
	if err != nil {
		t.Fatal(err)
	}
	x.endSilent(true)
	if got := texts(x.Parts()); got != "a." {
		t.Errorf("late: %s", got)
	}
}

func TestSoManyAtATime(t *testing.T) {
	p := New()
	for range maxRunning {
		if _, err := p.Start(targets("a"), spec); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Start(targets("a"), spec); !errors.Is(err, ErrBusy) {
		t.Errorf("one more: %v", err)
	}
}
