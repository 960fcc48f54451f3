// Package policytest makes small random worlds, in which most things touch one
// another, for tests of whatever must agree with the reference.
package policytest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"weft/model"
	"weft/policy"
)

// Gen makes random things, the same for the same seed.
type Gen struct{ *rand.Rand }

// New returns a generator.
func New(seed uint64) Gen { return Gen{rand.New(rand.NewPCG(seed, 1))} }

// Pick returns one of the list.
func Pick[T any](g Gen, list ...T) T { return list[g.IntN(len(list))] }

// Some returns least to most things.
func Some[T any](g Gen, least, most int, make func() T) []T {
	var out []T
	for range least + g.IntN(most-least+1) {
		out = append(out, make())
	}
	return out
}

// Labels returns labels of a workload.
func (g Gen) Labels() map[string]string {
	out := map[string]string{}
	for _, k := range []string{"app", "env", "role"} {
		if g.IntN(4) > 0 {
			out[k] = Pick(g, "a", "b", "c")
		}
	}
	if g.IntN(3) == 0 {
		out["workload.kind"] = "host"
	}
	return out
}

// Selector returns one of a few selectors.
func (g Gen) Selector() *model.Selector {
	s, err := model.ParseSelector(Pick(g, "*", "app=a", "app=b", "app in (a,c)", "env=a,role!=b", "!role", "role", "env notin (a,b)", "app=a,env=a", "app=none"))
	if err != nil {
		panic(err)
	}
	return &s
}

func (g Gen) process() model.PolicyProcess {
	p := model.PolicyProcess{Exe: Pick(g, "", "/bin/x", "/bin/y"), User: Pick(g, "", "root", "www"), Cgroup: Pick(g, "", "/a", "/a/b", "/ab")}
	if p == (model.PolicyProcess{}) {
		p.Exe = "/bin/x"
	}
	return p
}

func (g Gen) maybe(p model.PolicyProcess) []model.PolicyProcess {
	if g.IntN(6) > 0 {
		return nil
	}
	return []model.PolicyProcess{p}
}

var testBlocks = []model.IPBlock{
	{CIDR: "10.0.0.0/8"}, {CIDR: "10.0.0.0/8", Except: []string{"10.1.0.0/16", "10.2.3.0/24"}}, {CIDR: "10.1.0.0/16", IncludeManaged: true},
	{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0/8"}}, {CIDR: "2001:db8::/32", Except: []string{"2001:db8:1::/48"}}, {CIDR: "::/0"},
	{CIDR: "10.2.3.4/32"}, {CIDR: "10.1.2.0/24", Except: []string{"10.1.2.128/25"}, IncludeManaged: true},
}

func (g Gen) peer(egress bool, action model.Action) model.PolicyPeer {
	switch n := g.IntN(7); {
	case n < 3:
		return model.PolicyPeer{Selector: g.Selector(), Processes: g.maybe(g.process())}
	case n < 5:
		return model.PolicyPeer{IPBlocks: Some(g, 1, 2, func() model.IPBlock { return Pick(g, testBlocks...) })}
	case n == 5 && egress && action == model.ActionAllow:
		return model.PolicyPeer{DomainNames: []string{Pick(g, "a.example", "*.example", "*.b.example")}}
	}
	return model.PolicyPeer{Entities: Some(g, 1, 2, func() model.Entity { return Pick(g, model.Entities...) }), Processes: g.maybe(g.process())}
}

func (g Gen) port() model.PolicyPort {
	first := Pick(g, 1, 53, 80, 443, 65535)
	last := min(65535, first+g.IntN(500))
	kind := g.IntN(256)
	switch g.IntN(8) {
	case 0:
		return model.PolicyPort{Protocol: Pick(g, "TCP", "UDP", "SCTP", "47", "ICMP")}
	case 1:
		typ := Pick(g, 0, 3, 8)
		return model.PolicyPort{Protocol: Pick(g, "ICMP", "ICMPv6"), ICMP: &model.PolicyICMP{Type: &typ}}
	case 2:
		typ := 3
		return model.PolicyPort{Protocol: "ICMP", ICMP: &model.PolicyICMP{Type: &typ, Code: &kind}}
	case 3, 4:
		return model.PolicyPort{Protocol: Pick(g, "TCP", "UDP"), Port: &first, EndPort: &last}
	}
	return model.PolicyPort{Protocol: Pick(g, "TCP", "UDP"), Port: &first}
}

func (g Gen) rule(i int, egress bool) model.PolicyRule {
	r := model.PolicyRule{Action: Pick(g, model.ActionAllow, model.ActionAllow, model.ActionDeny, model.ActionReject, model.ActionPass, model.ActionLog)}
	if g.IntN(2) == 0 {
		r.Name = fmt.Sprintf("r%d", i)
	}
	if g.IntN(8) > 0 {
		peers := Some(g, 1, 2, func() model.PolicyPeer { return g.peer(egress, r.Action) })
		if egress {
			r.To = peers
		} else {
			r.From = peers
		}
	}
	if g.IntN(4) > 0 {
		r.Ports = Some(g, 1, 3, g.port)
	}
	return r
}

// Policy returns the i-th policy.
func (g Gen) Policy(i int) *model.Policy {
	p := &model.Policy{Metadata: model.Metadata{Name: fmt.Sprintf("p%02d", i)}}
	s := &p.Spec
	s.Subject = model.PolicySubject{Selector: g.Selector(), Processes: g.maybe(g.process())}
	s.Tier = Pick(g, append([]model.Tier{""}, model.Tiers...)...)
	if g.IntN(2) == 0 {
		priority := g.IntN(3)
		s.Priority = &priority
	}
	s.Stage = Pick(g, model.StageActive, model.StageActive, model.StageActive, model.StageStaged, model.StageDraft)
	if g.IntN(4) == 0 {
		no := false
		s.Stateful = &no
	}
	k := 0
	if g.IntN(5) > 0 {
		s.Ingress = Some(g, 0, 4, func() model.PolicyRule { k++; return g.rule(k, false) })
		if s.Ingress == nil {
			s.Ingress = []model.PolicyRule{}
		}
	}
	if s.Ingress == nil || g.IntN(5) > 0 {
		s.Egress = append([]model.PolicyRule{}, Some(g, 0, 4, func() model.PolicyRule { k++; return g.rule(k, true) })...)
	}
	return p
}

// World returns a world.
func (g Gen) World() *policy.World {
	w := &policy.World{Policies: Some(g, 0, 12, numbered(g)), Identities: policy.NewIdentities(Some(g, 1, 8, g.Labels)...), Modes: map[policy.Identity]model.Mode{}}
	for _, id := range w.Identities.All() {
		w.Modes[id] = Pick(g, "", model.ModeObserve, model.ModeSelective, model.ModeSelective, model.ModeEnforce)
	}
	w.Through = Pick(g, "", model.StageActive, model.StageStaged, model.StageDraft)
	if g.IntN(2) == 0 {
		w.Failsafe = policy.Failsafe(policy.FailsafeOptions{SSHFrom: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, ControllerPort: 443, RelayPort: 80})
	}
	return w
}

func numbered(g Gen) func() *model.Policy {
	i := 0
	return func() *model.Policy { i++; return g.Policy(i) }
}

var testAddrs = []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("10.1.2.200"), netip.MustParseAddr("10.2.3.4"), netip.MustParseAddr("10.2.3.5"), netip.MustParseAddr("10.9.9.9"),
	netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::ffff:10.1.2.3"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("fe80::1")}

// End returns one end of a packet.
func (g Gen) End(ids []policy.Identity) policy.End {
	e := policy.End{Addr: Pick(g, testAddrs...)}
	if n := g.IntN(len(ids) + 2); n < len(ids) {
		e.Identity = ids[n]
	}
	if g.IntN(2) == 0 {
		e.Process = g.process()
	}
	if g.IntN(3) == 0 {
		e.Entities = policy.EntitySet(g.IntN(1 << len(model.Entities)))
	}
	if g.IntN(3) == 0 {
		e.Names = []string{Pick(g, "a.example", "b.example", "x.b.example", "example", "other")}
	}
	return e
}

// Packet returns a packet between any two.
func (g Gen) Packet(ids []policy.Identity) policy.Packet {
	return policy.Packet{Source: g.End(ids), Destination: g.End(ids), Protocol: Pick[uint8](g, 6, 6, 6, 17, 17, 1, 58, 47, 132),
		SourcePort: uint16(g.IntN(65536)), DestinationPort: Pick(g, 0, 1, 53, 79, 80, 443, 700, 65535, uint16(g.IntN(65536))),
		ICMPType: Pick[uint8](g, 0, 3, 8, 135), ICMPCode: uint8(g.IntN(256))}
}
