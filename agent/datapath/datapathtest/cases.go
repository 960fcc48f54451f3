package datapathtest

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/agent/connection"
	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
)

const allowAll = `
  subject: {selector: "*"}
  ingress: [{action: Allow}]
  egress: [{action: Allow}]`

// liveCut: a change reaches connections that are open, and only those it denies;
// allowed again, they go on.
func (s *suite) liveCut(t *testing.T) {
	open := s.World(model.ModeEnforce, allowAll)
	s.apply(t, open)
	toDB := s.Hold(t, "c1", "c2", "tcp", 5432)
	toWeb := s.Hold(t, "c1", "c2", "tcp", 80)
	in := s.Hold(t, "outside", "c2", "tcp", 443)
	datagrams := s.Hold(t, "outside", "machine", "udp", 53)
	s.apply(t, s.World(model.ModeEnforce, allowAll, `
  tier: Security
  subject: {selector: "app=db"}
  ingress: [{action: Deny, ports: [{protocol: TCP, port: 5432}]}, {action: Deny, from: [{entities: [world]}]}]`, `
  tier: Security
  subject: {selector: "app=machine"}
  egress: [{action: Deny, to: [{entities: [world]}]}]`))
	for _, c := range []struct {
		name string
		talk func() Outcome
		want Outcome
	}{{"cut by the receiver's port", toDB, Denied}, {"another port", toWeb, Allowed}, {"cut by the receiver's peer", in, Denied}, {"answers of what came in", datagrams, Allowed}} {
		if got := c.talk(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	s.apply(t, open)
	// TCP tries again after a pause that has doubled while it was cut.
	for end := time.Now().Add(10 * time.Second); toDB() != Allowed; {
		if time.Now().After(end) {
			t.Fatal("allowed again, and still cut")
		}
	}
}

// restart: a driver that is opened again works on, and finds what it made.
func (s *suite) restart(t *testing.T) {
	w := s.World(model.ModeEnforce, allowAll, `
  tier: Security
  subject: {selector: "app=db"}
  ingress: [{action: Deny, ports: [{protocol: TCP, port: 443}]}]`)
	s.apply(t, w)
	talk := s.Hold(t, "c1", "c2", "tcp", 80)
	denied := Attempt{From: s.Endpoint("c1"), To: s.Endpoint("c2"), Network: "tcp", Port: 443}
	check := func(when string) {
		t.Helper()
		if got := talk(); got != Allowed {
			t.Errorf("%s: the open connection: %s", when, got)
		}
		if got, _ := s.dial(denied); got != Denied {
			t.Errorf("%s: what is denied: %s", when, got)
		}
	}
	if err := s.driver.Close(); err != nil {
		t.Fatal(err)
	}
	check("without a driver")
	s.driver = s.open(t, s.Site)
	check("opened again")
	s.apply(t, w)
	check("applied again")
}

// processes: the program at a socket counts, at both ends.
func (s *suite) processes(t *testing.T) {
	web, unit := s.Endpoint("c1"), s.Endpoint("unit")
	w := s.World(model.ModeEnforce, fmt.Sprintf(`
  subject: {selector: "*", processes: [{exe: %s}]}
  egress: [{action: Allow}]`, web.Exe), fmt.Sprintf(`
  subject: {selector: "app=unit"}
  egress: [{action: Allow, to: [{selector: "app=machine", processes: [{exe: %s}]}]}]`, s.Endpoint("machine").Exe), fmt.Sprintf(`
  subject: {selector: "app=unit", processes: [{exe: %s}]}
  ingress: [{action: Allow}]`, unit.Exe), fmt.Sprintf(`
  subject: {selector: "app=machine"}
  ingress: [{action: Allow, from: [{selector: "app=unit", processes: [{exe: %s, user: root}]}]}]`, unit.Exe), `
  subject: {selector: "app=db"}
  ingress: [{action: Allow}]`)
	s.apply(t, w)
	// Another program in the allowed container.
	evil := *web
	evil.Exe = filepath.Join(s.Dir, "evil")
	s.caller.Another(&evil)
	for _, c := range []struct {
		from *Endpoint
		to   string
		port uint16
		want Outcome
	}{
		{web, "c2", 80, Allowed}, {&evil, "c2", 80, Denied}, {web, "unit", 1080, Allowed}, {s.Endpoint("c2"), "unit", 1080, Denied},
		{unit, "machine", 80, Allowed}, {s.Endpoint("machine"), "machine", 80, Denied}, {unit, "c2", 80, Denied},
	} {
		a := Attempt{From: c.from, To: s.Endpoint(c.to), Network: "tcp", Port: c.port}
		if got, err := s.dial(a); got != c.want {
			t.Errorf("%s by %s: %s, want %s (%v)", a, filepath.Base(c.from.Exe), got, c.want, err)
			s.driver.Connections(func(x *connection.Line) bool {
				if x.Action != model.ActionAllow && x.Port == c.port {
					t.Logf("%s %s %s -> %s peer %d by %s, process %+v", x.Workload, x.Direction, x.Local, x.Remote, x.PeerIdentity, x.PeerBy, x.Process)
				}
				return true
			})
		}
	}
}

// stateless: answers need rules of their own.
func (s *suite) stateless(t *testing.T) {
	oneWay := `
  stateful: false
  subject: {selector: "app=db"}
  ingress: [{action: Allow, ports: [{protocol: UDP, port: 53}]}]`
	base := []string{`
  subject: {selector: "app=web"}
  ingress: [{action: Allow}]
  egress: [{action: Allow}]`, oneWay}
	a := Attempt{From: s.Endpoint("c1"), To: s.Endpoint("c2"), Network: "udp", Port: 53}
	s.apply(t, s.World(model.ModeEnforce, base...))
	if got, _ := s.dial(a); got != Denied {
		t.Errorf("without a rule for answers: %s", got)
	}
	s.apply(t, s.World(model.ModeEnforce, append(base, `
  stateful: false
  subject: {selector: "app=db"}
  egress: [{action: Allow, to: [{selector: "app=web"}], ports: [{protocol: UDP}]}]`)...))
	if got, _ := s.dial(a); got != Allowed {
		t.Errorf("with a rule for answers: %s", got)
	}
}

// newCgroup: what is made below a subject's cgroup belongs to it at once.
func (s *suite) newCgroup(t *testing.T) {
	s.apply(t, s.World(model.ModeEnforce, `
  subject: {selector: "app in (web,machine)"}
  egress: [{action: Allow, ports: [{protocol: TCP, port: 80}]}]`, `
  subject: {selector: "app=db"}
  ingress: [{action: Allow}]`))
	for _, parent := range []string{"c1", "machine"} {
		e := *s.Endpoint(parent)
		e.Cgroup = filepath.Join(e.Cgroup, "below", "deep")
		if parent == "machine" {
			e.Cgroup = filepath.Join(s.Root, "another", "deep")
		}
		s.caller.Another(&e)
		for port, want := range map[uint16]Outcome{80: Allowed, 443: Denied} {
			if got, err := s.dial(Attempt{From: &e, To: s.Endpoint("c2"), Network: "tcp", Port: port}); got != want {
				t.Errorf("from a new cgroup below %s to port %d: %s, want %s (%v)", parent, port, got, want, err)
			}
		}
	}
}

// connections: the table tells who talked to whom, and what was turned down.
func (s *suite) connections(t *testing.T) {
	w := s.World(model.ModeEnforce, `
  subject: {selector: "app=web"}
  egress: [{name: out, action: Allow, to: [{selector: "app=db"}], ports: [{protocol: TCP, port: 80}]}]`, `
  subject: {selector: "app=db"}
  ingress: [{name: in, action: Allow}]`)
	s.apply(t, w)
	time.Sleep(20 * time.Millisecond) // two clocks are compared, to 10 ms
	before, began := s.counts(t), time.Now()
	talk := s.Hold(t, "c1", "c2", "tcp", 80)
	for range 9 {
		talk()
	}
	s.dial(Attempt{From: s.Endpoint("c1"), To: s.Endpoint("c2"), Network: "tcp", Port: 443})
	web := netip.AddrPortFrom(s.Endpoint("c2").IPv4, 80)
	var out, in, denied *connection.Line
	err := s.driver.Connections(func(c *connection.Line) bool {
		x := *c
		switch {
		case c.First.Before(began.Add(-10 * time.Millisecond)):
		case c.Remote == web && c.Workload == "c1" && c.Action == model.ActionAllow:
			out = &x
		case c.Local == web && c.Remote.Addr() == s.Endpoint("c1").IPv4 && c.Workload == "c2" && c.Action == model.ActionAllow:
			in = &x
		case c.Remote == netip.AddrPortFrom(web.Addr(), 443) && c.Workload == "c1" && c.Action == model.ActionDeny:
			denied = &x
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if out == nil || in == nil || denied == nil {
		t.Fatalf("out %v in %v denied %v", out, in, denied)
	}
	rule := func(policyIndex int, d policy.Direction) policy.RuleID {
		return policy.MakeRuleID(w.Policies[policyIndex], d, 0)
	}
	db := w.identity(s.Endpoint("c2"))
	if out.Direction != policy.Egress || out.Rule != rule(0, policy.Egress) || out.PeerIdentity != db || out.Action != model.ActionAllow {
		t.Errorf("sender's line: %+v", *out)
	}
	if in.Direction != policy.Ingress || in.Rule != rule(1, policy.Ingress) || in.PeerIdentity != w.identity(s.Endpoint("c1")) {
		t.Errorf("receiver's line: %+v", *in)
	}
	// Both ends see the same packets.
	if s.options.Accounts && (out.Sent != in.Received || out.Received != in.Sent || out.Sent.Bytes < 10*4) {
		t.Errorf("sender %+v %+v, receiver %+v %+v", out.Sent, out.Received, in.Sent, in.Received)
	}
	if denied.Rule != 0 || denied.PeerIdentity != db {
		t.Errorf("what was turned down: %+v", *denied)
	}
	if s.options.Processes && (out.Process.Exe != s.Endpoint("c1").Exe || in.Process.Exe != s.Endpoint("c2").Exe) {
		t.Errorf("processes %q and %q", out.Process.Exe, in.Process.Exe)
	}
	after := s.counts(t)
	for _, id := range []policy.RuleID{rule(0, policy.Egress), rule(1, policy.Ingress)} {
		if n := after[id].Connections - before[id].Connections; n != 1 {
			t.Errorf("rule %s: %d connections", id, n)
		}
		if n := after[id].Bytes - before[id].Bytes; s.options.Accounts && n != out.Sent.Bytes+out.Received.Bytes {
			t.Errorf("rule %s: %d bytes, the line has %d", id, n, out.Sent.Bytes+out.Received.Bytes)
		}
	}
	if after[0].Packets == before[0].Packets {
		t.Error("the default has turned down nothing")
	}
}

func (s *suite) counts(t *testing.T) map[policy.RuleID]datapath.RuleCount {
	t.Helper()
	list, err := s.driver.Counts()
	if err != nil {
		t.Fatal(err)
	}
	out := map[policy.RuleID]datapath.RuleCount{}
	for _, c := range list {
		out[c.Rule] = c
	}
	return out
}

// names: what a subject has looked up, at the machine's resolver, it may call; a
// restart does not forget it.
func (s *suite) names(t *testing.T) {
	w := s.World(model.ModeEnforce, fmt.Sprintf(`
  subject: {selector: "app in (web,db)"}
  egress:
  - {action: Allow, to: [{entities: [dns]}], ports: [{protocol: UDP, port: 53}]}
  - {action: Allow, to: [{domainNames: ["*.%s"]}], ports: [{protocol: TCP, port: 80}]}`, strings.TrimPrefix(OutsideName, "www.")), `
  subject: {selector: "workload.kind=host"}
  ingress: [{action: Allow}]`)
	bridge := netip.MustParsePrefix("10.78.0.1/32")
	for i := range w.State.Addresses {
		if w.State.Addresses[i].Prefix == bridge {
			w.State.Addresses[i].Entities |= policy.EntityBit(model.EntityDNS)
		}
	}
	s.apply(t, w)
	call := func(from string, port uint16) Outcome {
		got, _ := s.dial(Attempt{From: s.Endpoint(from), To: s.Endpoint("outside"), Network: "tcp", Port: port})
		return got
	}
	if got := call("c1", 80); got != Denied {
		t.Errorf("before it was looked up: %s", got)
	}
	if got, err := s.caller.Lookup(s.Endpoint("c1"), s.Endpoint("machine")); got != Allowed {
		t.Fatalf("look it up: %s (%v)", got, err)
	}
	for end := time.Now().Add(5 * time.Second); call("c1", 80) != Allowed; {
		if time.Now().After(end) {
			t.Fatal("looked up, and denied all the same")
		}
	}
	for _, c := range []struct {
		when string
		from string
		port uint16
		want Outcome
	}{{"another port", "c1", 443, Denied}, {"a subject that has not asked", "c2", 80, Denied}} {
		if got := call(c.from, c.port); got != c.want {
			t.Errorf("%s: %s", c.when, got)
		}
	}
	if err := s.driver.Close(); err != nil {
		t.Fatal(err)
	}
	s.driver = s.open(t, s.Site)
	s.apply(t, w)
	if got := call("c1", 80); got != Allowed {
		t.Errorf("after a restart: %s", got)
	}
}

// tamper: what somebody has changed is found, named and repaired, and what is as
// it should be is left alone.
func (s *suite) tamper(t *testing.T) {
	w := s.World(model.ModeEnforce, `
  subject: {selector: "app=web"}
  egress: [{action: Allow, ports: [{protocol: TCP, port: 80}]}]`, `
  subject: {selector: "app=db"}
  ingress: [{action: Allow}]`)
	s.apply(t, w)
	s.tampered(t, func(when string) {
		for port, want := range map[uint16]Outcome{80: Allowed, 443: Denied} {
			if got, err := s.dial(Attempt{From: s.Endpoint("c1"), To: s.Endpoint("c2"), Network: "tcp", Port: port}); got != want {
				t.Errorf("%s, port %d: %s (%v)", when, port, got, err)
			}
		}
	})
}

// tampered makes each change that somebody could, and checks after its repair.
func (s *suite) tampered(t *testing.T, check func(when string)) {
	verify := func() []string {
		t.Helper()
		found, err := s.driver.Verify(true)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if found := verify(); len(found) != 0 {
		t.Errorf("nobody has touched it, and it finds %q", found)
	}
	for n := 0; s.options.Tamper(t, n); n++ {
		found := verify()
		t.Logf("%d: %q", n, found)
		if len(found) == 0 {
			t.Errorf("change %d was not found", n)
		}
		check(fmt.Sprintf("after change %d was repaired", n))
		if again := verify(); len(again) != 0 {
			t.Errorf("after the repair of change %d it finds %q", n, again)
		}
	}
}

// remove: everything passes again.
func (s *suite) remove(t *testing.T) {
	s.apply(t, s.World(model.ModeEnforce))
	a := Attempt{From: s.Endpoint("c1"), To: s.Endpoint("c2"), Network: "tcp", Port: 80}
	if got, _ := s.dial(a); got != Denied {
		t.Errorf("before: %s", got)
	}
	if err := s.driver.Remove(); err != nil {
		t.Fatal(err)
	}
	if got, err := s.dial(a); got != Allowed {
		t.Errorf("after: %s (%v)", got, err)
	}
}
