package nft_test

import (
	"fmt"
	"testing"
	"time"

	"weft/model"
)

// closedTo is a world of which web takes one port in and lets one out, and all
// others are open.
func closedTo(t *testing.T, stateful bool, in, out int) *world {
	w := newWorld(parsePolicy(t, "name=web", func(p *model.PolicySpec) {
		p.Stateful = &stateful
		p.Ingress = []model.PolicyRule{{Action: model.ActionAllow, Ports: append(port("TCP", in), port("UDP", in)...)}}
		p.Egress = []model.PolicyRule{{Action: model.ActionAllow, Ports: append(port("TCP", out), port("UDP", out)...)}}
	}))
	for name, id := range w.ids {
		if name != "web" {
			w.Modes[id] = model.ModeObserve
		}
	}
	return w
}

// Answers pass, and errors about what was allowed; fragments are one packet.
func TestAnswersErrorsFragments(t *testing.T) {
	s := newSite(t)
	d := newDriver(t, s)
	apply(t, d, closedTo(t, true, 80, 9).state(t, s))
	for _, six := range []bool{false, true} {
		want(t, s.web, "udp", s.outside.addr(six, 9), "rejected") // nobody listens there
		want(t, s.web, "tcp", s.outside.addr(six, 9), "rejected")
		want(t, s.web, "udp", s.outside.addr(six, 53), "dropped")
		if got := s.outside.do("big", "", s.web.addr(six, 80), wait); got != "ok" {
			t.Errorf("fragments: %s", got)
		}
		if got := s.outside.do("big", "", s.web.addr(six, 53), wait); got != "dropped" {
			t.Errorf("fragments to a port that is closed: %s", got)
		}
	}
	// Without tracking, answers need rules of their own.
	apply(t, d, closedTo(t, false, 80, 9).state(t, s))
	want(t, s.outside, "tcp", s.web.addr(false, 80), "dropped")
	w := closedTo(t, false, 80, 9)
	all, last := 1024, 65535
	w.Policies[0].Spec.Egress = append(w.Policies[0].Spec.Egress, model.PolicyRule{Action: model.ActionAllow, Ports: []model.PolicyPort{{Protocol: "TCP", Port: &all, EndPort: &last}}})
	apply(t, d, w.state(t, s))
	want(t, s.outside, "tcp", s.web.addr(false, 80), "ok")
	want(t, s.outside, "udp", s.web.addr(false, 80), "dropped")
}

// A port that the machine publishes is judged where it leads to.
func TestTranslation(t *testing.T) {
	s := newSite(t)
	d := newDriver(t, s)
	nftables(t, s.machine, "add table ip theirs { chain pre { type nat hook prerouting priority -100; tcp dport 9000 dnat to "+s.web.addr(false, 80)+"; tcp dport 9001 dnat to "+s.host.addr(false, 8080)+"; tcp dport 9002 dnat to "+s.web.addr(false, 443)+
		"; }; chain out { type nat hook output priority -100; tcp dport 9000 dnat to "+s.web.addr(false, 80)+"; tcp dport 9002 dnat to "+s.web.addr(false, 443)+"; }; chain post { type nat hook postrouting priority 100; oifname vdb masquerade; }; }")
	w := closedTo(t, true, 80, 700)
	w.Policies = append(w.Policies, parsePolicy(t, "name=host", func(p *model.PolicySpec) {
		p.Ingress = []model.PolicyRule{{Action: model.ActionAllow, Ports: port("TCP", 8080)}}
		p.Egress = []model.PolicyRule{{Action: model.ActionAllow, To: peers(t, "name=web"), Ports: port("TCP", 80)}}
	}))
	w.Modes[w.ids["host"]] = model.ModeEnforce
	apply(t, d, w.state(t, s))
	at := func(port int) string { return fmt.Sprint("10.88.0.1:", port) }
	want(t, s.outside, "tcp", at(9000), "ok")
	want(t, s.outside, "tcp", at(9001), "ok")
	want(t, s.outside, "tcp", at(9002), "dropped")
	want(t, s.outside, "tcp", s.host.addr(false, 8080), "ok")
	want(t, s.outside, "tcp", at(80), "dropped")
	want(t, s.host, "tcp", s.web.addr(false, 9000), "ok")
	want(t, s.host, "tcp", s.web.addr(false, 9002), "dropped")
	if got := s.outside.do("keep", "tcp", at(9000), time.Second); got != "ok" {
		t.Fatal(got)
	}
	apply(t, d, closedTo(t, true, 81, 700).state(t, s))
	if got := s.outside.do("send", "", at(9000), wait); got != "dropped" {
		t.Errorf("published port after the change: %s", got)
	}
}
