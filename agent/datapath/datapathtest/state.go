package datapathtest

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/goccy/go-yaml"

	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
	"weft/policy/classify"
)

// World is what is in force on a site, for the driver and for the reference.
type World struct {
	*policy.World
	State *datapath.State
}

// ParsePolicies reads policies as people write them.
func (s *Site) ParsePolicies(texts ...string) []*model.Policy {
	s.T.Helper()
	var out []*model.Policy
	for i, text := range texts {
		var doc any
		if err := yaml.Unmarshal([]byte(fmt.Sprintf("apiVersion: weft/v1\nkind: Policy\nmetadata: {name: p%d}\nspec:\n  stage: Active\n%s", i, text)), &doc); err != nil {
			s.T.Fatalf("policy %d: %v", i, err)
		}
		p, err := model.DecodePolicy(doc)
		if err != nil {
			s.T.Fatalf("policy %d: %v", i, err)
		}
		out = append(out, p)
	}
	return out
}

// World compiles policies for the site's workloads, all in one mode.
func (s *Site) World(mode model.Mode, texts ...string) *World {
	s.T.Helper()
	sets := slices.Clone(s.more)
	for _, e := range s.Endpoints {
		if e.Kind != "" {
			sets = append(sets, e.Labels)
		}
	}
	w := &policy.World{Policies: s.ParsePolicies(texts...), Identities: policy.NewIdentities(sets...), Modes: map[policy.Identity]model.Mode{},
		Failsafe: policy.Failsafe(policy.FailsafeOptions{ControllerPort: 7443})}
	for _, id := range w.Identities.All() {
		w.Modes[id] = mode
	}
	set, err := policy.Compile(w)
	if err != nil {
		s.T.Fatal(err)
	}
	out := &World{World: w, State: &datapath.State{}}
	built := map[*policy.Ruleset]*datapath.Ruleset{}
	host := policy.EntityBit(model.EntityHost)
	for _, e := range s.Endpoints {
		if e.Kind == "" {
			continue
		}
		id, _ := w.Identities.Intern(e.Labels)
		r := set.For(id)
		if built[r] == nil {
			built[r] = &datapath.Ruleset{Key: r.String(), Mode: r.Mode, Ingress: classify.Build(&r.Ingress, w.Identities.Members), Egress: classify.Build(&r.Egress, w.Identities.Members)}
		}
		subject := datapath.Subject{Workload: e.Name, Kind: e.Kind, Identity: id, Ruleset: built[r], Cgroup: e.Cgroup, Addresses: []netip.Addr{e.IPv4, e.IPv6}}
		if e.Kind == model.WorkloadHost {
			subject.Cgroup = s.Root
		}
		if e.Kind == model.WorkloadContainer {
			subject.NetNS, subject.Interfaces = e.NetNS, []string{"v" + e.Name}
		}
		if e.Kind == model.WorkloadGuest {
			subject.Cgroup, subject.Interfaces = "", []string{"v" + e.Name}
		}
		out.State.Subjects = append(out.State.Subjects, subject)
		if e.Kind == model.WorkloadUnit {
			continue // its machine's address
		}
		for _, a := range []netip.Addr{e.IPv4, e.IPv6} {
			x := datapath.Address{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: id}
			if e.Kind == model.WorkloadHost {
				x.Entities = host
			}
			out.State.Addresses = append(out.State.Addresses, x)
		}
	}
	machine, _ := w.Identities.Intern(s.Endpoint("machine").Labels)
	for _, a := range []string{"10.78.0.1/32", "fd78::1/128"} { // the bridge's
		out.State.Addresses = append(out.State.Addresses, datapath.Address{Prefix: netip.MustParsePrefix(a), Identity: machine, Entities: host})
	}
	out.State.Sort()
	s.world = out
	return out
}

// Attempt is one endpoint calling another.
type Attempt struct {
	From, To *Endpoint
	Network  string // tcp or udp
	Port     uint16
	IPv6     bool
	Loopback bool
	// Patience is how long silence lasts before it is a denial; patience unless given.
	Patience time.Duration
}

func (a Attempt) String() string {
	v := 4
	if a.IPv6 {
		v = 6
	}
	s := fmt.Sprintf("%s -> %s %s/%d over IPv%d", a.From.Name, a.To.Name, a.Network, a.Port, v)
	if a.Loopback {
		s += " loopback"
	}
	return s
}

// seenBy is the address of one endpoint on the way to or from another: between
// a machine and its containers and guests it is that of the bridge.
func seenBy(e, other *Endpoint, ipv6 bool) netip.Addr {
	onBridge := func(e *Endpoint) bool { return e.Kind == model.WorkloadContainer || e.Kind == model.WorkloadGuest }
	bridged := e.Kind != "" && !onBridge(e) && onBridge(other)
	switch {
	case bridged && ipv6:
		return netip.MustParseAddr("fd78::1")
	case bridged:
		return netip.MustParseAddr("10.78.0.1")
	case ipv6:
		return e.IPv6
	}
	return e.IPv4
}

func (a Attempt) timeout() time.Duration { return cmp.Or(a.Patience, patience) }

func (a Attempt) target() netip.AddrPort {
	to := seenBy(a.To, a.From, a.IPv6)
	switch {
	case a.Loopback && a.IPv6:
		to = netip.IPv6Loopback()
	case a.Loopback:
		to = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.AddrPortFrom(to, a.Port)
}

// Expect is what the reference says. seesSockets is whether the driver tells
// workloads of one namespace apart by their sockets.
func (w *World) Expect(a Attempt, seesSockets bool) Outcome {
	protocol := uint8(6)
	switch {
	case a.Network == "udp":
		protocol = 17
	case a.Network == "icmp" && a.IPv6:
		protocol = 58
	case a.Network == "icmp":
		protocol = 1
	}
	local := a.From.NetNS == a.To.NetNS
	from, to := w.end(a.From, seenBy(a.From, a.To, a.IPv6), local && seesSockets), w.end(a.To, seenBy(a.To, a.From, a.IPv6), local && seesSockets)
	if local {
		if a.From == a.To {
			self := policy.EntityBit(model.EntitySelf)
			from.Entities, to.Entities = from.Entities|self, to.Entities|self
		}
		if a.Loopback && a.From.Kind != model.WorkloadContainer {
			host := policy.EntityBit(model.EntityHost)
			from.Entities, to.Entities = from.Entities|host, to.Entities|host
		}
	}
	to.Addr = a.target().Addr()
	if a.Loopback {
		from.Addr = to.Addr
	}
	p := policy.Packet{Source: from, Destination: to, Protocol: protocol, DestinationPort: a.Port, ICMPType: 8}
	if a.IPv6 {
		p.ICMPType = 128
	}
	if a.From.Kind != "" {
		out := p
		out.Source.Identity = w.identity(a.From)
		if v := w.Evaluate(policy.Egress, &out); !v.Allowed() {
			return outcomeOf(v)
		}
	}
	if a.To.Kind != "" {
		in := p
		in.Destination.Identity = w.identity(a.To)
		if v := w.Evaluate(policy.Ingress, &in); !v.Allowed() {
			return outcomeOf(v)
		}
	}
	return Allowed
}

func outcomeOf(v policy.Verdict) Outcome {
	if v.Action == model.ActionReject {
		return Rejected
	}
	return Denied
}

func (w *World) identity(e *Endpoint) policy.Identity {
	if e.Kind == "" {
		return 0
	}
	id, _ := w.Identities.Intern(e.Labels)
	return id
}

// end is how the other party sees an endpoint.
func (w *World) end(e *Endpoint, addr netip.Addr, bySocket bool) policy.End {
	known := w.State.Lookup(addr)
	out := policy.End{Addr: addr, Identity: known.Identity, Entities: known.Entities}
	if bySocket {
		out.Identity = w.identity(e)
		out.Process = model.PolicyProcess{Exe: e.Exe, User: "root"}
	}
	return out
}
