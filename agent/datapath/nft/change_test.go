package nft_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"weft/agent/connection"
	"weft/agent/datapath"
	"weft/agent/datapath/nft"
	"weft/model"
	"weft/packet"
	"weft/policy"
)

// allowTo is a world in which web may reach these TCP ports of db, and every
// other subject is open.
func allowTo(t *testing.T, ports ...int) *world {
	w := newWorld(parsePolicy(t, "name=web", func(p *model.PolicySpec) {
		p.Egress = []model.PolicyRule{}
		for _, n := range ports {
			p.Egress = append(p.Egress, model.PolicyRule{Name: fmt.Sprint("to-", n), Action: model.ActionAllow, To: peers(t, "name=db"), Ports: append(port("TCP", n), port("UDP", n)...)})
		}
	}))
	for name, id := range w.ids {
		if name != "web" {
			w.Modes[id] = model.ModeObserve
		}
	}
	return w
}

// A change reaches connections that are open, and takes nothing from others.
func TestLiveConnections(t *testing.T) {
	s := newSite(t)
	d := newDriver(t, s)
	apply(t, d, allowTo(t, 80, 443).state(t, s))
	for _, six := range []bool{false, true} {
		a, b := s.db.addr(six, 80), s.db.addr(six, 443)
		for _, addr := range []string{a, b} {
			if got := s.web.do("keep", "tcp", addr, time.Second); got != "ok" {
				t.Fatalf("keep %s: %s", addr, got)
			}
		}
		send := func(addr, want string) {
			t.Helper()
			if got := s.web.do("send", "", addr, wait); got != want {
				t.Errorf("send to %s: %s, want %s", addr, got, want)
			}
		}
		send(a, "ok")
		send(b, "ok")
		apply(t, d, allowTo(t, 443).state(t, s))
		send(a, "dropped")
		send(b, "ok")
		// The other end's identity changes: its address is nobody's.
		st := allowTo(t, 80, 443).state(t, s)
		for i := range st.Addresses {
			if st.Addresses[i].Prefix.Addr() == s.db.addr4 || st.Addresses[i].Prefix.Addr() == s.db.addr6 {
				st.Addresses[i].Identity = 0
			}
		}
		apply(t, d, st)
		send(b, "dropped")
		apply(t, d, allowTo(t, 80, 443).state(t, s))
	}
}

// A new program without memory takes over what it finds, in every namespace, and
// nothing passes meanwhile that should not.
func TestRestart(t *testing.T) {
	s := newSite(t)
	first := nft.New(nft.Config{NetNS: s.machine})
	st := allowTo(t, 80).state(t, s)
	apply(t, first, st)
	addr := s.db.addr(false, 80)
	if got := s.web.do("keep", "tcp", addr, time.Second); got != "ok" {
		t.Fatal(got)
	}
	fail(t, first.Close())
	denied := make(chan string, 1)
	go func() { denied <- s.web.do("flood", "", s.db.addr(false, 53), 2*time.Second) }()
	var d *nft.Driver
	for range 5 {
		d = nft.New(nft.Config{NetNS: s.machine})
		apply(t, d, st)
		want(t, s.web, "tcp", s.db.addr(true, 80), "ok")
		want(t, s.web, "tcp", s.db.addr(true, 443), "dropped")
		if got := s.web.do("send", "", addr, wait); got != "ok" {
			t.Errorf("open connection after a restart: %s", got)
		}
		fail(t, d.Close())
	}
	if got := <-denied; !strings.HasSuffix(got, " got 0") {
		t.Errorf("what is denied: %s", got)
	}
	// What is nobody's any more is let go, though no memory says it was ours.
	d = nft.New(nft.Config{NetNS: s.machine})
	var left []datapath.Subject
	for _, x := range st.Subjects {
		if x.Workload != "web" {
			left = append(left, x)
		}
	}
	apply(t, d, &datapath.State{Subjects: left, Addresses: st.Addresses})
	want(t, s.web, "tcp", s.db.addr(true, 443), "ok")
	if out := nftables(t, s.web.netns, "list", "tables"); out != "" {
		t.Errorf("left in web: %s", out)
	}
	fail(t, d.Close())
	d = nft.New(nft.Config{NetNS: s.machine})
	nftables(t, s.machine, "add", "table", "inet", "theirs")
	fail(t, d.Remove())
	fail(t, d.Remove())
	for _, p := range s.all() {
		expect := ""
		if p.netns == s.machine {
			expect = "table inet theirs\n"
		}
		if out := nftables(t, p.netns, "list", "tables"); out != expect {
			t.Errorf("left in %s: %s", p.name, out)
		}
	}
}

// While states change, no packet that both deny passes, and none that both allow
// is lost.
func TestNoInstantWithout(t *testing.T) {
	s := newSite(t)
	d := newDriver(t, s)
	states := []*datapath.State{allowTo(t, 80).state(t, s), allowTo(t, 80, 443).state(t, s), allowTo(t, 700, 8080, 80).state(t, s)}
	apply(t, d, states[0])
	allowed, denied := make(chan string, 1), make(chan string, 1)
	go func() { allowed <- s.web.do("flood", "", s.db.addr(false, 80), 3*time.Second) }()
	go func() { denied <- s.web.do("flood", "", s.db.addr(false, 53), 3*time.Second) }()
	n := 0
	for end := time.Now().Add(2800 * time.Millisecond); time.Now().Before(end); n++ {
		apply(t, d, states[n%3])
	}
	var sent, got int
	a := <-allowed
	if _, err := fmt.Sscanf(a, "sent %d got %d", &sent, &got); err != nil || sent == 0 {
		t.Errorf("allowed: %s", a)
	}
	if x := <-denied; !strings.HasSuffix(x, " got 0") {
		t.Errorf("denied: %s", x)
	}
	if sent-got > sent/1000 {
		t.Errorf("lost during %d changes: %s", n, a)
	}
	t.Logf("%d changes; allowed %s", n, a)
}

func TestRefusesWhatItCannot(t *testing.T) {
	s := newSite(t)
	d := newDriver(t, s)
	apply(t, d, allowTo(t, 80).state(t, s))
	w := allowTo(t, 443)
	w.Policies[0].Spec.Egress[0].To[0].Processes = []model.PolicyProcess{{Exe: "/bin/x"}}
	err := d.Apply(context.Background(), w.state(t, s))
	var u *nft.UnsupportedError
	if !errors.As(err, &u) || len(u.Subjects) != 1 || u.Subjects[0].Workload != "web" || !strings.Contains(err.Error(), "policy p-name-web, egress rule to-443") {
		t.Fatalf("got %v", err)
	}
	want(t, s.web, "tcp", s.db.addr(false, 80), "ok") // what was there holds
	want(t, s.web, "tcp", s.db.addr(false, 443), "dropped")
	fail(t, d.Close())
	d = nft.New(nft.Config{NetNS: s.machine})
	if err := d.Apply(context.Background(), w.state(t, s)); !errors.As(err, &u) {
		t.Fatalf("got %v", err)
	}
	want(t, s.web, "tcp", s.db.addr(false, 80), "ok")
	want(t, s.web, "tcp", s.db.addr(false, 443), "dropped")
}

// Somebody who takes the table away does so until the next Apply.
func TestHeals(t *testing.T) {
	s := newSite(t)
	d := newDriver(t, s)
	st := allowTo(t, 80).state(t, s)
	apply(t, d, st)
	nftables(t, s.web.netns, "flush", "ruleset")
	want(t, s.web, "tcp", s.db.addr(false, 443), "ok")
	apply(t, d, st)
	want(t, s.web, "tcp", s.db.addr(false, 443), "dropped")
	want(t, s.web, "tcp", s.db.addr(false, 80), "ok")
}

func TestTells(t *testing.T) {
	s := newSite(t)
	d := newDriver(t, s)
	w := allowTo(t, 80)
	w.Policies[0].Spec.Egress = append(w.Policies[0].Spec.Egress, model.PolicyRule{Name: "look", Action: model.ActionLog, Ports: port("TCP", 443)})
	w.Modes[w.ids["unit"]] = model.ModeEnforce
	apply(t, d, w.state(t, s))
	s.web.do("keep", "tcp", s.db.addr(false, 80), time.Second)
	s.outside.do("probe", "tcp", s.unit.addr(false, 10080), wait)
	want(t, s.web, "tcp", s.db.addr(true, 443), "dropped")
	seen := map[string]*connection.Line{}
	fail(t, d.Connections(func(c *connection.Line) bool {
		x := *c
		seen[fmt.Sprintf("%s %s %s %d", c.Workload, c.Direction, c.Remote.Addr(), c.Port)] = &x
		return true
	}))
	id := policy.MakeRuleID(w.Policies[0], policy.Egress, 0)
	c := seen["web egress "+s.db.addr4.String()+" 80"]
	if c == nil || c.Action != model.ActionAllow || c.Rule != id || c.PeerIdentity != w.ids["db"] || c.TCPState != packet.TCPEstablished || c.NetNS == 0 {
		t.Errorf("web to db: %+v", c)
	}
	if c := seen["db ingress "+s.web.addr4.String()+" 80"]; c == nil || c.PeerIdentity != w.ids["web"] {
		t.Errorf("db from web: %+v", c)
	}
	if c := seen["web egress "+s.db.addr6.String()+" 443"]; c == nil || c.Action != model.ActionDeny || c.Rule != 0 || time.Since(c.Last) > 5*time.Second {
		t.Errorf("web to db, denied: %+v", c)
	}
	if c := seen["unit ingress "+s.outside.addr4.String()+" 10080"]; c == nil || c.Action != model.ActionDeny {
		t.Errorf("outside to unit, denied: %+v", c)
	}
	before := counts(t, d)
	if c := before[id]; c.Connections != 1 || c.Packets < 3 || c.Bytes < 120 {
		t.Errorf("counts of the rule: %+v", c)
	}
	if c := before[policy.MakeRuleID(w.Policies[0], policy.Egress, 1)]; c.Packets == 0 {
		t.Errorf("counts of the Log rule: %+v", c)
	}
	apply(t, d, allowTo(t, 700).state(t, s))
	if c := counts(t, d)[id]; c.Packets < before[id].Packets {
		t.Errorf("counts after the rule has gone: %+v, before %+v", c, before[id])
	}
	if t.Failed() {
		for k := range seen {
			t.Log(k)
		}
	}
}

func counts(t *testing.T, d *nft.Driver) map[policy.RuleID]datapath.RuleCount {
	t.Helper()
	list, err := d.Counts()
	fail(t, err)
	out := map[policy.RuleID]datapath.RuleCount{}
	for _, c := range list {
		out[c.Rule] = c
	}
	return out
}
