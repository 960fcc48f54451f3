package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
	"weft/policy/classify"
	"weft/policy/policytest"
)

// random makes a world that nftables can enforce.
func random(g policytest.Gen) *policy.World {
	w := g.World()
	for _, p := range w.Policies {
		p.Spec.Subject.Processes = nil
		for _, list := range [][]model.PolicyRule{p.Spec.Ingress, p.Spec.Egress} {
			for i := range list {
				for _, peers := range []*[]model.PolicyPeer{&list[i].From, &list[i].To} {
					for k := range *peers {
						(*peers)[k].Processes = nil
						if len((*peers)[k].DomainNames) > 0 {
							(*peers)[k] = model.PolicyPeer{Selector: g.Selector()}
						}
					}
				}
			}
		}
	}
	return w
}

// rulesets compiles a world for drivers.
func rulesets(t testing.TB, w *policy.World) func(policy.Identity) *datapath.Ruleset {
	t.Helper()
	set, err := policy.Compile(w)
	if err != nil {
		t.Fatal(err)
	}
	made := map[*policy.Ruleset]*datapath.Ruleset{}
	return func(id policy.Identity) *datapath.Ruleset {
		r := set.For(id)
		if made[r] == nil {
			made[r] = &datapath.Ruleset{Key: fmt.Sprintf("%p", r), Mode: r.Mode, Ingress: classify.Build(&r.Ingress, w.Identities.Members), Egress: classify.Build(&r.Egress, w.Identities.Members)}
		}
		return made[r]
	}
}

// find looks a key up as the kernel does.
func (c content) find(set, key string) (uint32, bool) {
	if !isRange(set) {
		v, ok := c[set][key]
		return v.data, ok
	}
	for k, v := range c[set] {
		if k <= key && key < v.end {
			return v.data, true
		}
	}
	return 0, false
}

// The content of the sets says what Judge says, through any number of changes.
func TestContentEqualsJudge(t *testing.T) {
	worlds := 400
	if testing.Short() {
		worlds = 60
	}
	addrs := []netip.Prefix{}
	for _, s := range []string{"10.1.2.3/32", "10.1.2.200/32", "10.2.3.0/24", "192.0.2.1/32", "2001:db8::1/128", "2001:db8:1::/48", "10.2.3.4/32", "255.255.255.255/32", "0.0.0.0/8"} {
		addrs = append(addrs, netip.MustParsePrefix(s))
	}
	for seed := range uint64(worlds) {
		g := policytest.New(seed)
		p := newPlan()
		var before content
		w := random(g)
		for range 3 {
			if g.IntN(2) == 0 {
				w = random(g)
			}
			of := rulesets(t, w)
			ids := w.Identities.All()
			var list []datapath.Address
			for _, a := range addrs {
				if g.IntN(3) > 0 {
					list = append(list, datapath.Address{Prefix: a, Identity: policytest.Pick(g, append(ids, 0)...), Entities: policy.EntitySet(g.IntN(1<<9)) & policy.Special &^ selfBit})
				}
			}
			var members []member
			for i := range 3 {
				id := policytest.Pick(g, ids...)
				members = append(members, member{cgroup: uint64(100 + i), subject: &datapath.Subject{Workload: fmt.Sprint("w", i), Identity: id, Ruleset: of(id), Addresses: []netip.Addr{netip.MustParseAddr(policytest.Pick(g, "10.1.2.3", "2001:db8::1"))}}})
			}
			a := newAddresses(list)
			c := p.make(members[1:], &members[0], a, 1)
			checkNumbers(t, before, c)
			before = c
			for range 60 {
				peer := g.End(ids)
				proto := policytest.Pick[uint8](g, 1, 6, 17, 58, 47, 132)
				port := policytest.Pick(g, 0, 53, 80, 443, 3<<8, 8<<8, uint16(g.IntN(65536)))
				checkContent(t, seed, p, c, policytest.Pick(g, members...), a, peer.Addr, proto, port)
			}
			if t.Failed() {
				return
			}
		}
	}
}

func checkContent(t *testing.T, seed uint64, p *plan, c content, m member, a *addresses, addr netip.Addr, proto uint8, port uint16) {
	t.Helper()
	for _, role := range roles {
		peer := policy.End{Addr: addr}
		if x, ok := a.lpm.Lookup(addr.Unmap()); ok {
			peer.Identity, peer.Entities = x.Identity, x.Entities
		}
		if slices.Contains(m.subject.Addresses, addr.Unmap()) {
			peer.Entities |= selfBit
		}
		want := outcomeOf(role, m.subject.Ruleset.Table(role).Judge(&policy.End{Identity: m.subject.Identity}, &peer, proto, port))
		set, key := setCgroups, cgroupKey(uint32(role), m.cgroup)
		if m.cgroup == 100 {
			set, key = setViews, viewKey(uint32(role))
		}
		v, ok1 := c.find(set, key)
		n, ok2 := c.find(setPeers, addrKey(addr.Unmap()))
		class, ok3 := c.find(setClasses, be32(v, n))
		num, ok4 := c.find(setPorts, portKey(class, uint32(proto)<<16|uint32(port)))
		if got := p.outcomes[num]; !ok1 || !ok2 || !ok3 || !ok4 || got != want {
			t.Errorf("seed %d: %s of %s at %s, protocol %d port %d: got %+v (%t %t %t %t), want %+v", seed, role, m.subject.Workload, addr, proto, port, got, ok1, ok2, ok3, ok4, want)
		}
	}
}

// checkNumbers says that a packet that reads old and new numbers finds nothing:
// no view, and no class, says anything else than it did.
func checkNumbers(t *testing.T, before, now content) {
	t.Helper()
	for _, set := range []string{setClasses, setPorts} {
		for k, v := range before[set] {
			if n, ok := now[set][k]; ok && n != v {
				t.Errorf("%s %x was %v and is %v", set, k, v, n)
			}
		}
	}
}

func TestPortKeysAscend(t *testing.T) {
	last := ""
	for _, k := range []uint32{0, 1, 79, 255, 256, 65535, 1 << 16, 6<<16 | 80, 255<<16 | 65535, 1 << 24} {
		key := portKey(7, k)
		if key <= last || len(key) != 12 {
			t.Errorf("key of %d: %x after %x", k, key, last)
		}
		last = key
	}
	if binary.BigEndian.Uint32([]byte(last)) != 8 {
		t.Errorf("the key after the last is %x", last)
	}
}
