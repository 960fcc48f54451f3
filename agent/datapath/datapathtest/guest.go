package datapathtest

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft/agent/connection"
	"weft/model"
	"weft/packet"
	"weft/policy"
)

// AddGuests puts two guests on the bridge of a site, g1 and g2. What plays a guest is
// a namespace at the far end of a veth pair, whose processes are in no cgroup of the
// machine's.
func (s *Site) AddGuests() {
	s.T.Helper()
	outside := s.Endpoint("outside").Cgroup
	for i, app := range []string{"web", "db"} {
		name, number := fmt.Sprintf("g%d", i+1), 21+i
		full := strings.TrimSuffix(filepath.Base(s.Machine), "h") + name
		s.run("ip", "netns", "add", full)
		s.T.Cleanup(func() { exec.Command("ip", "netns", "del", full).Run() })
		e := &Endpoint{Name: name, Kind: model.WorkloadGuest, NetNS: "/run/netns/" + full, Cgroup: outside, Exe: filepath.Join(s.Dir, name),
			IPv4: netip.MustParseAddr(fmt.Sprintf("10.78.0.%d", number)), IPv6: netip.MustParseAddr(fmt.Sprintf("fd78::%d", number)),
			Labels: map[string]string{"app": app, "workload.kind": "guest"}}
		s.in(s.Machine, fmt.Sprintf("ip link add v%s type veth peer name eth0 netns %s; ip link set v%s up master br0", name, full, name))
		s.in(e.NetNS, fmt.Sprintf("ip link set lo up; ip link set eth0 up; ip addr add %s/24 dev eth0; ip -6 addr add %s/64 dev eth0 nodad; ip route add default via 10.78.0.1; ip -6 route add default via fd78::1", e.IPv4, e.IPv6))
		s.Endpoints = append(s.Endpoints, e)
		e.process = startProcess(s.T, e.Exe, e.NetNS, e.Cgroup)
		s.listenAll(e)
	}
}

// RunGuests tries a driver on guests.
func RunGuests(t *testing.T, o Options, open Factory) {
	s := NewSite(t)
	s.AddGuests()
	suite := &suite{Site: s, options: o, open: open, driver: open(t, s)}
	for _, c := range []struct {
		name string
		can  bool
		run  func(*testing.T)
	}{
		{"matrix", true, suite.guestMatrix}, {"live cut", true, suite.guestLiveCut}, {"restart", true, suite.guestRestart}, {"connections", true, suite.guestConnections},
		{"unknown addresses", true, suite.guestWithoutAddress}, {"tamper", o.Tamper != nil, suite.guestTamper}, {"remove", true, suite.guestRemove},
	} {
		if c.can && !t.Run(c.name, c.run) {
			return
		}
	}
}

func (s *suite) guestMatrix(t *testing.T) {
	for _, c := range worlds {
		t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) {
			w := s.World(c.mode, c.policies...)
			s.apply(t, w)
			var list []Attempt
			for _, a := range s.attempts() {
				// Within a guest nobody judges.
				if (a.From.Kind == model.WorkloadGuest || a.To.Kind == model.WorkloadGuest) && a.From != a.To {
					list = append(list, a)
				}
			}
			s.try(t, w, list)
		})
	}
}

func (s *suite) guestLiveCut(t *testing.T) {
	open := s.World(model.ModeEnforce, allowAll)
	s.apply(t, open)
	toDB, toWeb := s.Hold(t, "g1", "g2", "tcp", 5432), s.Hold(t, "g1", "g2", "tcp", 80)
	out, in := s.Hold(t, "g1", "outside", "tcp", 443), s.Hold(t, "outside", "g2", "udp", 53)
	own := s.Hold(t, "g2", "machine", "tcp", 80)
	s.apply(t, s.World(model.ModeEnforce, allowAll, `
  tier: Security
  subject: {selector: "app=db"}
  ingress: [{action: Deny, ports: [{protocol: TCP, port: 5432}]}]`, `
  tier: Security
  subject: {selector: "app=web"}
  egress: [{action: Deny, to: [{entities: [world]}]}]`))
	for _, c := range []struct {
		name string
		talk func() Outcome
		want Outcome
	}{{"cut by the receiver's port", toDB, Denied}, {"another port", toWeb, Allowed}, {"cut by the sender's peer", out, Denied}, {"answers of what came in", in, Allowed}, {"to the machine", own, Allowed}} {
		if got := c.talk(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	s.apply(t, open)
	for end := time.Now().Add(10 * time.Second); toDB() != Allowed; {
		if time.Now().After(end) {
			t.Fatal("allowed again, and still cut")
		}
	}
}

// guestRules let g1 call port 80 of g2, and nobody anything else.
func (s *suite) guestRules() *World {
	return s.World(model.ModeEnforce, `
  subject: {selector: "app=web,workload.kind=guest"}
  egress: [{action: Allow, ports: [{protocol: TCP, port: 80}]}]`, `
  subject: {selector: "app=db,workload.kind=guest"}
  ingress: [{name: in, action: Allow, from: [{selector: "app=web,workload.kind=guest"}], ports: [{protocol: TCP, port: 80}]}]`)
}

func (s *suite) checkGuests(t *testing.T, when string) {
	t.Helper()
	for port, want := range map[uint16]Outcome{80: Allowed, 443: Denied} {
		if got, err := s.dial(Attempt{From: s.Endpoint("g1"), To: s.Endpoint("g2"), Network: "tcp", Port: port}); got != want {
			t.Errorf("%s, port %d: %s (%v)", when, port, got, err)
		}
	}
}

func (s *suite) guestRestart(t *testing.T) {
	w := s.guestRules()
	s.apply(t, w)
	talk := s.Hold(t, "g1", "g2", "tcp", 80)
	// While the driver comes and goes, nothing passes that may not.
	stop, wrong := make(chan struct{}), make(chan string, 1)
	go func() { wrong <- s.Probe(stop, "g1", "g2", "tcp", 443) }()
	if err := s.driver.Close(); err != nil {
		t.Fatal(err)
	}
	s.checkGuests(t, "without a driver")
	s.driver = s.open(t, s.Site)
	s.apply(t, w)
	s.checkGuests(t, "applied again")
	close(stop)
	if got := <-wrong; got != "" {
		t.Error(got)
	}
	if got := talk(); got != Allowed {
		t.Errorf("the open connection: %s", got)
	}
}

func (s *suite) guestConnections(t *testing.T) {
	w := s.guestRules()
	s.apply(t, w)
	time.Sleep(20 * time.Millisecond)
	began := time.Now()
	talk := s.Hold(t, "g1", "g2", "tcp", 80)
	for range 9 {
		talk()
	}
	s.dial(Attempt{From: s.Endpoint("g1"), To: s.Endpoint("g2"), Network: "tcp", Port: 443})
	var out, in, denied *connection.Line
	err := s.driver.Connections(func(c *connection.Line) bool {
		x := *c
		switch {
		case c.First.Before(began.Add(-10 * time.Millisecond)):
		case c.Workload == "g1" && c.Action == model.ActionAllow:
			out = &x
		case c.Workload == "g2" && c.Action == model.ActionAllow:
			in = &x
		case c.Workload == "g1" && c.Port == 443:
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
	g1, g2 := w.identity(s.Endpoint("g1")), w.identity(s.Endpoint("g2"))
	if out.Direction != policy.Egress || out.PeerIdentity != g2 || out.Identity != g1 || denied.Action != model.ActionDeny {
		t.Errorf("sender's line: %+v, denied %+v", *out, *denied)
	}
	if in.Direction != policy.Ingress || in.PeerIdentity != g1 || in.PeerBy != connection.ByPort || in.Rule != policy.MakeRuleID(w.Policies[1], policy.Ingress, 0) {
		t.Errorf("receiver's line: %+v", *in)
	}
	if out.Sent != in.Received || out.Received != in.Sent || out.Sent.Bytes < 10*4 || in.TCPState != packet.TCPEstablished {
		t.Errorf("sender %+v %+v, receiver %+v %+v %s", out.Sent, out.Received, in.Sent, in.Received, in.TCPState)
	}
}

// guestWithoutAddress: of guests whose addresses nobody has stated, what each may
// do holds all the same, and on one bridge the receiver knows the sender by its port.
func (s *suite) guestWithoutAddress(t *testing.T) {
	w := s.guestRules()
	kept := w.State.Addresses[:0]
	for _, a := range w.State.Addresses {
		if guest := a.Identity == w.identity(s.Endpoint("g1")) || a.Identity == w.identity(s.Endpoint("g2")); !guest {
			kept = append(kept, a)
		}
	}
	w.State.Addresses = kept
	for i := range w.State.Subjects {
		if x := &w.State.Subjects[i]; x.Kind == model.WorkloadGuest {
			x.Addresses = nil
		}
	}
	s.apply(t, w)
	s.checkGuests(t, "without addresses")
	if got, _ := s.dial(Attempt{From: s.Endpoint("outside"), To: s.Endpoint("g2"), Network: "tcp", Port: 80}); got != Denied {
		t.Errorf("from outside: %s", got)
	}
}

func (s *suite) guestTamper(t *testing.T) {
	s.apply(t, s.guestRules())
	s.tampered(t, func(when string) { s.checkGuests(t, when) })
}

// guestRemove: a guest that is no subject any more is let be, and so are all after
// Remove.
func (s *suite) guestRemove(t *testing.T) {
	a := Attempt{From: s.Endpoint("g1"), To: s.Endpoint("g2"), Network: "tcp", Port: 443}
	w := s.guestRules()
	s.apply(t, w)
	if got, _ := s.dial(a); got != Denied {
		t.Errorf("before: %s", got)
	}
	rest := w.State.Subjects[:0:0]
	for _, x := range w.State.Subjects {
		if x.Kind != model.WorkloadGuest {
			rest = append(rest, x)
		}
	}
	w.State.Subjects = rest
	s.apply(t, w)
	if got, err := s.dial(a); got != Allowed {
		t.Errorf("without guests among the subjects: %s (%v)", got, err)
	}
	s.apply(t, s.guestRules())
	if got, _ := s.dial(a); got != Denied {
		t.Errorf("subjects again: %s", got)
	}
	if err := s.driver.Remove(); err != nil {
		t.Fatal(err)
	}
	if got, err := s.dial(a); got != Allowed {
		t.Errorf("after: %s (%v)", got, err)
	}
}
