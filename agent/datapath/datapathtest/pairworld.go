package datapathtest

import (
	"crypto/rand"
	"net/netip"

	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
	"weft/policy/classify"
)

// PairWorld is what is in force on both machines of a Pair.
type PairWorld struct {
	*policy.World
	States [2]*datapath.State // by side
}

// Identity returns that of an endpoint.
func (w *PairWorld) Identity(e *Endpoint) policy.Identity {
	id, _ := w.Identities.Intern(e.Labels)
	return id
}

// World compiles policies for all endpoints, in one mode. Secrets are new each time.
func (p *Pair) World(mode model.Mode, texts ...string) *PairWorld {
	p.T.Helper()
	var sets []map[string]string
	for _, e := range p.Endpoints {
		sets = append(sets, e.Labels)
	}
	out := &PairWorld{World: &policy.World{Policies: p.ParsePolicies(texts...), Identities: policy.NewIdentities(sets...), Modes: map[policy.Identity]model.Mode{}}}
	for _, id := range out.Identities.All() {
		out.Modes[id] = mode
	}
	set, err := policy.Compile(out.World)
	if err != nil {
		p.T.Fatal(err)
	}
	seals := map[[2]uint32]datapath.Secret{}
	for i := range p.Sides {
		for k := range p.Sides {
			var s datapath.Secret
			rand.Read(s[:])
			seals[[2]uint32{p.Sides[i].Number, p.Sides[k].Number}] = s
		}
	}
	for i := range p.Sides {
		out.States[i] = p.state(&p.Sides[i], out, set, seals)
	}
	return out
}

// state is one side's.
func (p *Pair) state(s *Side, w *PairWorld, set *policy.Set, seals map[[2]uint32]datapath.Secret) *datapath.State {
	out, host := &datapath.State{Host: s.Number}, policy.EntityBit(model.EntityHost)
	address := func(a netip.Addr, id policy.Identity, set policy.EntitySet) {
		out.Addresses = append(out.Addresses, datapath.Address{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: id, Entities: set})
	}
	for _, e := range s.Endpoints {
		id := w.Identity(e)
		r := set.For(id)
		x := datapath.Subject{Workload: e.Name, Kind: e.Kind, Identity: id, Cgroup: e.Cgroup, Addresses: []netip.Addr{e.IPv4, e.IPv6},
			Ruleset: &datapath.Ruleset{Key: r.String(), Mode: r.Mode, Ingress: classify.Build(&r.Ingress, w.Identities.Members), Egress: classify.Build(&r.Egress, w.Identities.Members)}}
		switch e.Kind {
		case model.WorkloadHost:
			x.Cgroup = s.Root
			for _, a := range s.bridge {
				address(a, id, host)
			}
		case model.WorkloadContainer:
			x.NetNS = e.NetNS
			address(e.IPv4, id, 0)
			address(e.IPv6, id, 0)
		}
		out.Subjects = append(out.Subjects, x)
	}
	for i := range p.Sides {
		other := &p.Sides[i]
		h := datapath.PeerHost{Number: other.Number, Addresses: other.Addresses, Call: seals[[2]uint32{s.Number, other.Number}],
			Accept: []datapath.Secret{seals[[2]uint32{other.Number, s.Number}]}}
		for _, e := range other.Endpoints {
			h.Identities = append(h.Identities, w.Identity(e))
		}
		entities := policy.EntitySet(0)
		if other == s {
			entities = host
		}
		for _, a := range other.Addresses {
			address(a, w.Identity(p.Endpoint(other.Name)), entities)
		}
		out.Hosts = append(out.Hosts, h)
	}
	out.Sort()
	return out
}
