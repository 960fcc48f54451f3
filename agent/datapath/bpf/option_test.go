package bpf

import (
	"context"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"weft/agent/connection"
	"weft/agent/datapath"
	"weft/agent/datapath/datapathtest"
	"weft/model"
	"weft/policy"
)

// pair is two machines with a driver each.
type pair struct {
	*datapathtest.Pair
	drivers [2]*Driver
}

func newPair(t *testing.T) *pair {
	t.Helper()
	pins := mountBPF(t)
	p := &pair{Pair: datapathtest.NewPair(t)}
	for i := range p.Sides {
		d, err := Open(Config{CgroupRoot: p.Sides[i].Root, PinDir: filepath.Join(filepath.Dir(pins), p.Sides[i].Name)}, Deps{})
		if err != nil {
			t.Fatal(err)
		}
		p.drivers[i] = d
		t.Cleanup(func() {
			if err := d.Remove(); err != nil {
				t.Error(err)
			}
		})
	}
	return p
}

func (p *pair) apply(t *testing.T, states [2]*datapath.State) {
	t.Helper()
	for i, s := range states {
		if err := inNamespace(p.Sides[i].Machine, func() error { return p.drivers[i].Apply(context.Background(), s) }); err != nil {
			t.Fatal(err)
		}
	}
}

// last is the latest line of a workload at its own port.
func (p *pair) last(t *testing.T, side int, workload string, local uint16) (out connection.Line) {
	t.Helper()
	err := p.drivers[side].Connections(func(c *connection.Line) bool {
		if c.Workload == workload && c.Direction == policy.Ingress && c.Local.Port() == local && c.First.After(out.First) {
			out = *c
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (p *pair) counts(t *testing.T, side int) OptionCounts {
	t.Helper()
	c, err := p.drivers[side].OptionCounts()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// webOnly lets web in, wherever it hides, and nobody else.
const webOnly = `
  subject: {selector: "app in (beta,store,db)"}
  ingress: [{action: Allow, from: [{selector: "app=web"}], ports: [{protocol: TCP}]}]`

const anyOut = `
  subject: {selector: "app in (alpha,job,web,tool)"}
  egress: [{action: Allow}]`

type call struct {
	from string
	to   string
	want datapathtest.Outcome
}

func (p *pair) try(t *testing.T, calls ...call) {
	t.Helper()
	for _, c := range calls {
		if got, err := p.Dial(c.from, "tcp", netip.MustParseAddrPort(c.to)); got != c.want {
			t.Errorf("%s -> %s: %s, want %s (%v)", c.from, c.to, got, c.want, err)
		}
	}
}

// Containers behind one address are told apart: from another machine, at its own
// ports and published ones, and from the same machine through a published port.
func TestOptionTellsApartWhoHides(t *testing.T) {
	p := newPair(t)
	w := p.World(model.ModeEnforce, webOnly, anyOut)
	p.apply(t, w.States)
	const yes, no = datapathtest.Allowed, datapathtest.Denied
	p.try(t,
		call{"web", "10.87.0.2:80", yes}, call{"tool", "10.87.0.2:80", no}, call{"alpha", "10.87.0.2:80", no}, call{"job", "10.87.0.2:80", no},
		call{"web", "10.87.0.2:8080", yes}, call{"tool", "10.87.0.2:8080", no}, call{"alpha", "10.87.0.2:8080", no},
		call{"web", "10.87.0.1:8080", yes}, call{"tool", "10.87.0.1:8080", no},
		call{"web", "[fd87::2]:80", yes}, call{"tool", "[fd87::2]:80", no}, call{"web", "[fd87::2]:8080", yes}, call{"web", "[fd87::1]:8080", yes}, call{"tool", "[fd87::1]:8080", no},
	)
	for _, at := range []struct {
		side     int
		workload string
	}{{1, "beta"}, {1, "store"}, {0, "db"}} {
		p.try(t, call{"web", map[string]string{"beta": "10.87.0.2:80", "store": "10.87.0.2:8080", "db": "10.87.0.1:8080"}[at.workload], yes})
		c := p.last(t, at.side, at.workload, 80)
		if c.PeerBy != connection.ByOption || c.PeerIdentity != w.Identity(p.Endpoint("web")) || c.PeerEntities != 0 || c.Action != model.ActionAllow {
			t.Errorf("the line of %s: %+v", at.workload, c)
		}
	}
	sent, got := p.counts(t, 0), p.counts(t, 1)
	if sent.Written < 14 || sent.NoRoom != 0 || got.Accepted == 0 || got.UnknownHost+got.WrongTag+got.NotResident+got.Replayed != 0 {
		t.Errorf("alpha %+v, beta %+v", sent, got)
	}
}

// A new state keeps what an option has said, unless nobody of that identity is
// on that machine any more.
func TestOptionOutlivesANewState(t *testing.T) {
	p := newPair(t)
	w := p.World(model.ModeEnforce, webOnly, anyOut)
	p.apply(t, w.States)
	talk := p.Hold("web", netip.MustParseAddrPort("10.87.0.2:8080"))
	next := p.World(model.ModeEnforce, webOnly, anyOut) // and new secrets
	p.apply(t, next.States)
	if got := talk(); got != datapathtest.Allowed {
		t.Errorf("after a new state: %s", got)
	}
	if c := p.last(t, 1, "store", 80); c.PeerBy != connection.ByOption || c.Revision != p.drivers[1].revision {
		t.Errorf("after a new state: %+v", c)
	}
	gone := *next.States[1]
	gone.Hosts = append([]datapath.PeerHost(nil), gone.Hosts...)
	for i := range gone.Hosts {
		if gone.Hosts[i].Number == p.Sides[0].Number {
			gone.Hosts[i].Identities = nil
		}
	}
	p.apply(t, [2]*datapath.State{next.States[0], &gone})
	if got := talk(); got != datapathtest.Denied {
		t.Errorf("after the identity is gone: %s", got)
	}
	// Nobody there may be spoken for, so the address decides.
	p.try(t, call{"web", "10.87.0.2:8080", datapathtest.Denied})
	if c := p.counts(t, 1); c.NotResident == 0 {
		t.Errorf("%+v", c)
	}
	if c := p.last(t, 1, "store", 80); c.PeerBy != connection.ByAddress || c.PeerIdentity != w.Identity(p.Endpoint("alpha")) {
		t.Errorf("by the address: %+v", c)
	}
}

// A receiver whose keys are others, or that has none, goes by the address.
func TestOptionOfAnotherKey(t *testing.T) {
	p := newPair(t)
	const policies = `
  subject: {selector: "app in (beta,store)"}
  ingress: [{action: Allow, from: [{selector: "app=alpha"}]}]`
	w, other := p.World(model.ModeEnforce, policies, anyOut), p.World(model.ModeEnforce, policies, anyOut)
	p.apply(t, w.States)
	p.try(t, call{"alpha", "10.87.0.2:80", datapathtest.Allowed}, call{"web", "10.87.0.2:80", datapathtest.Denied})
	p.apply(t, [2]*datapath.State{w.States[0], other.States[1]})
	p.try(t, call{"web", "10.87.0.2:80", datapathtest.Allowed}) // as its machine
	if c := p.counts(t, 1); c.WrongTag == 0 {
		t.Errorf("%+v", c)
	}
	bare := *other.States[1]
	bare.Hosts = nil
	p.apply(t, [2]*datapath.State{w.States[0], &bare})
	p.try(t, call{"web", "10.87.0.2:80", datapathtest.Allowed})
	if c := p.counts(t, 1); c.UnknownHost == 0 {
		t.Errorf("%+v", c)
	}
}

// Who was turned down does not pass as its machine when its SYN is sent again
// without the option.
func TestOptionLeftOutLater(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a SYN to be sent three times")
	}
	p := newPair(t)
	p.apply(t, p.World(model.ModeEnforce, `
  subject: {selector: "app=beta"}
  ingress: [{action: Allow, from: [{selector: "app=alpha"}]}]`, anyOut).States)
	if got, err := p.DialFor("web", "tcp", netip.MustParseAddrPort("10.87.0.2:80"), 4500*time.Millisecond); got != datapathtest.Denied {
		t.Errorf("%s %v", got, err)
	}
	c := p.last(t, 1, "beta", 80)
	if c.Received.Packets < 3 || c.PeerBy != connection.ByOption {
		t.Errorf("%+v", c)
	}
	if n := p.counts(t, 0).Written; n != 2 {
		t.Errorf("the option was written %d times", n)
	}
}

// The SYN of Multipath TCP has no room: the address decides.
func TestOptionWithoutRoom(t *testing.T) {
	p := newPair(t)
	w := p.World(model.ModeEnforce, webOnly, anyOut)
	p.apply(t, w.States)
	p.Dial("web", "mptcp", netip.MustParseAddrPort("10.87.0.2:80")) // and TCP after that, by Go itself
	if p.counts(t, 0).NoRoom == 0 {
		t.Skip("this kernel has no Multipath TCP")
	}
	byAddress := 0
	err := p.drivers[1].Connections(func(c *connection.Line) bool {
		if c.PeerBy == connection.ByAddress && c.Action == model.ActionDeny && c.PeerIdentity == w.Identity(p.Endpoint("alpha")) {
			byAddress++
		}
		return true
	})
	if err != nil || byAddress != 1 {
		t.Errorf("%d turned down by their address (%v)", byAddress, err)
	}
}

// A machine without subjects says who calls, and judges nobody.
func TestBearersOnly(t *testing.T) {
	p := newPair(t)
	w := p.World(model.ModeEnforce, webOnly, anyOut)
	bearing := &datapath.State{Host: p.Sides[0].Number, Hosts: w.States[0].Hosts}
	for _, s := range w.States[0].Subjects {
		bearing.Bearers = append(bearing.Bearers, datapath.Bearer{Workload: s.Workload, Identity: s.Identity, Cgroup: s.Cgroup})
	}
	p.apply(t, [2]*datapath.State{bearing, w.States[1]})
	p.try(t, call{"web", "10.87.0.2:80", datapathtest.Allowed}, call{"tool", "10.87.0.2:80", datapathtest.Denied}, call{"web", "10.87.0.2:8080", datapathtest.Allowed})
	if p.drivers[0].attached {
		t.Error("every program is at work")
	}
	// With subjects every program is at work, and without them no more.
	p.apply(t, w.States)
	p.try(t, call{"web", "10.87.0.2:80", datapathtest.Allowed}, call{"tool", "10.87.0.2:80", datapathtest.Denied}, call{"tool", "10.87.0.1:8080", datapathtest.Denied})
	p.apply(t, [2]*datapath.State{bearing, w.States[1]})
	p.try(t, call{"web", "10.87.0.2:80", datapathtest.Allowed}, call{"tool", "10.87.0.2:80", datapathtest.Denied}, call{"tool", "10.87.0.1:8080", datapathtest.Allowed})
	p.apply(t, w.States)
	p.try(t, call{"web", "10.87.0.2:80", datapathtest.Allowed}, call{"tool", "10.87.0.1:8080", datapathtest.Denied})
}
