package nft_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weft/agent/datapath"
	"weft/agent/datapath/nft"
	"weft/model"
	"weft/policy"
	"weft/policy/classify"
)

// world is policies and who is where.
type world struct {
	*policy.World
	ids map[string]policy.Identity // by place
}

func newWorld(policies ...*model.Policy) *world {
	w := &world{World: &policy.World{Policies: policies, Identities: policy.NewIdentities(), Modes: map[policy.Identity]model.Mode{}}, ids: map[string]policy.Identity{}}
	for _, name := range []string{"host", "unit", "inner", "web", "db"} {
		id, _ := w.Identities.Intern(map[string]string{"name": name})
		w.ids[name] = id
		w.Modes[id] = model.ModeEnforce
	}
	w.Failsafe = policy.Failsafe(policy.FailsafeOptions{ControllerPort: 1})
	return w
}

// state compiles the world for the places of a site.
func (w *world) state(t testing.TB, s *site) *datapath.State {
	t.Helper()
	set, err := policy.Compile(w.World)
	fail(t, err)
	made := map[*policy.Ruleset]*datapath.Ruleset{}
	out := &datapath.State{}
	for _, p := range []*place{s.host, s.unit, s.inner, s.web, s.db} {
		r := set.For(w.ids[p.name])
		if made[r] == nil {
			made[r] = &datapath.Ruleset{Key: fmt.Sprintf("%p", r), Mode: r.Mode, Ingress: classify.Build(&r.Ingress, w.Identities.Members), Egress: classify.Build(&r.Egress, w.Identities.Members)}
		}
		x := datapath.Subject{Workload: p.name, Kind: model.WorkloadUnit, Identity: w.ids[p.name], Ruleset: made[r], Cgroup: p.cgroup, Addresses: []netip.Addr{p.addr4, p.addr6}}
		switch p {
		case s.host:
			x.Kind = model.WorkloadHost
		case s.web, s.db:
			x.Kind, x.NetNS = model.WorkloadContainer, p.netns
		}
		out.Subjects = append(out.Subjects, x)
		if p != s.unit && p != s.inner {
			for _, a := range x.Addresses {
				out.Addresses = append(out.Addresses, datapath.Address{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: x.Identity})
			}
		}
	}
	out.Sort()
	return out
}

func apply(t testing.TB, d *nft.Driver, s *datapath.State) {
	t.Helper()
	fail(t, d.Apply(context.Background(), s))
}

func newDriver(t testing.TB, s *site) *nft.Driver {
	d := nft.New(nft.Config{NetNS: s.machine})
	t.Cleanup(func() { fail(t, d.Remove()) })
	return d
}

func parsePolicy(t testing.TB, subject string, f func(*model.PolicySpec)) *model.Policy {
	t.Helper()
	sel, err := model.ParseSelector(subject)
	fail(t, err)
	p := &model.Policy{Metadata: model.Metadata{Name: "p-" + strings.NewReplacer("=", "-", "*", "all", " ", "").Replace(subject)}}
	p.Spec.Subject.Selector = &sel
	p.Spec.Stage = model.StageActive
	f(&p.Spec)
	return p
}

func port(protocol string, n int) []model.PolicyPort {
	return []model.PolicyPort{{Protocol: protocol, Port: &n}}
}

func peers(t testing.TB, selectors ...string) []model.PolicyPeer {
	var out []model.PolicyPeer
	for _, s := range selectors {
		if s == "world" || s == "self" || s == "any" {
			out = append(out, model.PolicyPeer{Entities: []model.Entity{model.Entity(s)}})
			continue
		}
		sel, err := model.ParseSelector(s)
		fail(t, err)
		out = append(out, model.PolicyPeer{Selector: &sel})
	}
	return out
}

const wait = 250 * time.Millisecond

func want(t *testing.T, from *place, protocol, addr, result string) {
	t.Helper()
	got := from.do("probe", protocol, addr, wait)
	if got == "dropped" && result != "dropped" {
		got = from.do("probe", protocol, addr, 4*wait) // the machine is slow
	}
	if got != result {
		t.Errorf("%s to %s %s: %s, want %s", from.name, protocol, addr, got, result)
	}
}

func TestEnforce(t *testing.T) {
	s := newSite(t)
	d := newDriver(t, s)
	for _, p := range s.all() { // all is open before
		want(t, s.outside, "tcp", p.addr(false, 80), "ok")
		want(t, p, "icmp", s.web.addr(true, 0), "ok")
	}
	w := newWorld(
		parsePolicy(t, "name=web", func(p *model.PolicySpec) {
			p.Ingress = []model.PolicyRule{{Name: "http", Action: model.ActionAllow, Ports: port("TCP", 80)}, {Name: "no", Action: model.ActionReject, Ports: append(port("TCP", 443), port("UDP", 443)...)}}
			p.Egress = []model.PolicyRule{{Name: "db", Action: model.ActionAllow, To: peers(t, "name=db"), Ports: port("TCP", 53)},
				{Name: "no", Action: model.ActionReject, To: peers(t, "name=db"), Ports: append(port("TCP", 80), port("UDP", 80)...)}, {Name: "ping", Action: model.ActionAllow, Ports: []model.PolicyPort{{Protocol: "ICMP"}}}}
		}),
		parsePolicy(t, "name=db", func(p *model.PolicySpec) {
			p.Ingress = []model.PolicyRule{{Action: model.ActionAllow, From: peers(t, "name=web")}}
			p.Egress = []model.PolicyRule{{Action: model.ActionAllow, To: peers(t, "any")}}
		}),
		parsePolicy(t, "name=unit", func(p *model.PolicySpec) {
			p.Ingress = []model.PolicyRule{{Action: model.ActionAllow, From: peers(t, "world")}}
			p.Egress = []model.PolicyRule{{Action: model.ActionAllow, To: peers(t, "world"), Ports: port("UDP", 53)}, {Action: model.ActionReject, To: peers(t, "world"), Ports: port("TCP", 80)}}
		}),
		parsePolicy(t, "name=inner", func(p *model.PolicySpec) {
			p.Egress = []model.PolicyRule{{Action: model.ActionAllow, To: peers(t, "any"), Ports: port("TCP", 80)}}
			p.Ingress = []model.PolicyRule{}
		}),
		parsePolicy(t, "name=host", func(p *model.PolicySpec) {
			p.Ingress = []model.PolicyRule{{Action: model.ActionAllow, From: peers(t, "self"), Ports: port("TCP", 443)}}
			p.Egress = []model.PolicyRule{{Action: model.ActionAllow, To: peers(t, "self")}}
		}),
	)
	apply(t, d, w.state(t, s))
	for _, six := range []bool{false, true} {
		want(t, s.outside, "tcp", s.web.addr(six, 80), "ok")
		want(t, s.outside, "tcp", s.web.addr(six, 53), "dropped")
		want(t, s.outside, "tcp", s.web.addr(six, 443), "rejected")
		want(t, s.outside, "udp", s.web.addr(six, 443), "rejected")
		want(t, s.outside, "udp", s.web.addr(six, 53), "dropped")
		want(t, s.web, "tcp", s.db.addr(six, 53), "ok")
		want(t, s.web, "tcp", s.db.addr(six, 80), "rejected")
		want(t, s.db, "tcp", s.web.addr(six, 80), "ok")
		want(t, s.outside, "tcp", s.db.addr(six, 80), "dropped")
		want(t, s.outside, "tcp", s.unit.addr(six, 10080), "ok")
		want(t, s.outside, "udp", s.unit.addr(six, 10080), "ok")
		want(t, s.outside, "tcp", s.inner.addr(six, 20080), "dropped")
		want(t, s.outside, "tcp", s.host.addr(six, 80), "dropped")
		want(t, s.unit, "udp", s.outside.addr(six, 53), "ok")
		want(t, s.unit, "udp", s.outside.addr(six, 80), "dropped")
		want(t, s.unit, "tcp", s.outside.addr(six, 80), "rejected")
		want(t, s.inner, "tcp", s.outside.addr(six, 80), "ok")
		want(t, s.inner, "tcp", s.outside.addr(six, 443), "dropped")
		want(t, s.host, "tcp", s.host.addr(six, 443), "ok")
		want(t, s.host, "tcp", s.host.addr(six, 80), "dropped")
		want(t, s.host, "tcp", s.outside.addr(six, 80), "dropped")
	}
	want(t, s.web, "icmp", s.outside.addr(false, 0), "ok")
	want(t, s.web, "icmp", s.outside.addr(true, 0), "dropped")
	want(t, s.outside, "icmp", s.web.addr(false, 0), "dropped")
	fail(t, d.Remove())
	for _, p := range s.all() {
		if out := nftables(t, p.netns, "list", "ruleset"); out != "" {
			t.Errorf("left in %s:\n%s", p.name, out)
		}
		want(t, s.outside, "tcp", p.addr(false, 80), "ok")
	}
}
