package nft_test

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
	"weft/policy/policytest"
)

// Real packets meet what the reference says, in random worlds.
func TestPacketsEqualReference(t *testing.T) {
	worlds := 200
	if testing.Short() {
		worlds = 10
	}
	if n, err := strconv.Atoi(os.Getenv("WEFT_NFT_WORLDS")); err == nil {
		worlds = n
	}
	s := newSite(t)
	d := newDriver(t, s)
	for seed := range uint64(worlds) {
		g := policytest.New(seed)
		w := randomWorld(g, s)
		st := w.state(t, s)
		if g.IntN(3) == 0 { // the outside is a workload of another machine
			id := policytest.Pick(g, w.Identities.All()...)
			for _, a := range []netip.Addr{s.outside.addr4, s.outside.addr6} {
				st.Addresses = append(st.Addresses, datapath.Address{Prefix: netip.PrefixFrom(a, a.BitLen()), Identity: id, Entities: policy.EntitySet(g.IntN(1<<9)) & policy.Special &^ policy.EntityBit(model.EntitySelf)})
			}
			st.Sort()
		}
		apply(t, d, st)
		var wg sync.WaitGroup
		for range 16 {
			x := randomProbe(g, s)
			want := x.expect(w, st)
			wg.Add(1)
			go func() {
				defer wg.Done()
				got := x.run(100 * time.Millisecond)
				if got != want && want != "dropped" {
					got = x.run(time.Second) // the machine is slow
				}
				if got != want {
					t.Errorf("world %d: %s: %s, want %s", seed, x, got, want)
				}
			}()
		}
		wg.Wait()
		if t.Failed() {
			for _, x := range st.Subjects {
				t.Logf("%s identity %d %s addresses %v", x.Workload, x.Identity, w.Identities.Labels(x.Identity), x.Addresses)
			}
			set, _ := policy.Compile(w.World)
			for _, x := range st.Subjects {
				t.Logf("%s: %s", x.Workload, set.For(x.Identity))
			}
			return
		}
	}
}

func randomWorld(g policytest.Gen, s *site) *world {
	w := &world{World: g.World(), ids: map[string]policy.Identity{}}
	for _, p := range w.Policies {
		p.Spec.Subject.Processes = nil
		for _, list := range [][]model.PolicyRule{p.Spec.Ingress, p.Spec.Egress} {
			for i := range list {
				for _, peers := range [][]model.PolicyPeer{list[i].From, list[i].To} {
					for k := range peers {
						peers[k].Processes = nil
						if len(peers[k].DomainNames) > 0 {
							peers[k] = model.PolicyPeer{Selector: g.Selector()}
						}
					}
				}
			}
		}
	}
	w.Failsafe = policy.Failsafe(policy.FailsafeOptions{ControllerPort: 443, RelayPort: 80})
	for _, p := range s.all() {
		w.ids[p.name] = policytest.Pick(g, w.Identities.All()...)
	}
	return w
}

// trial is one exchange.
type trial struct {
	from, to *place
	protocol string
	six      bool
	port     int
}

func (x trial) String() string {
	return fmt.Sprintf("%s to %s, %s %s", x.from.name, x.to.name, x.protocol, x.to.addr(x.six, x.port))
}

func randomProbe(g policytest.Gen, s *site) trial {
	x := trial{from: policytest.Pick(g, s.all()...), to: policytest.Pick(g, s.all()...), protocol: policytest.Pick(g, "tcp", "tcp", "udp", "icmp"), six: g.IntN(2) == 0}
	switch {
	case x.protocol == "icmp" && (x.to == s.unit || x.to == s.inner):
		x.to = s.host // who answers for the machine
	case x.protocol == "icmp":
	case x.to == s.unit:
		x.port = 10000 + policytest.Pick(g, ports...)
	case x.to == s.inner:
		x.port = 20000 + policytest.Pick(g, ports...)
	default:
		x.port = policytest.Pick(g, ports...)
	}
	return x
}

func (x trial) run(wait time.Duration) string {
	got := x.from.do("probe", x.protocol, x.to.addr(x.six, x.port), wait)
	if got == "rejected" && x.protocol != "tcp" {
		return "dropped" // the kernel limits how often it says so
	}
	return got
}

// expect is what becomes of the exchange.
func (x trial) expect(w *world, st *datapath.State) string {
	source, target := x.from.addr4, x.to.addr4
	if x.six {
		source, target = x.from.addr6, x.to.addr6
	}
	if x.from.netns == x.to.netns {
		source = target // over loopback
	}
	p := policy.Packet{Protocol: map[string]uint8{"tcp": 6, "udp": 17, "icmp": 1}[x.protocol], SourcePort: 40000, DestinationPort: uint16(x.port), ICMPType: 8}
	back := policy.Packet{Protocol: p.Protocol, SourcePort: p.DestinationPort, DestinationPort: p.SourcePort}
	if x.protocol == "icmp" && x.six {
		p.Protocol, p.ICMPType, back.Protocol, back.ICMPType = 58, 128, 58, 129
	}
	judge := func(d policy.Direction, p *policy.Packet, who *place, from, to netip.Addr) policy.Verdict {
		if who.name == "outside" {
			return policy.Verdict{Action: model.ActionAllow, Stateful: true}
		}
		p.Source, p.Destination = end(st, from), end(st, to)
		subject, peer := p.Ends(d)
		subject.Identity = w.ids[who.name]
		if peer.Addr == who.addr4 || peer.Addr == who.addr6 {
			peer.Entities |= policy.EntityBit(model.EntitySelf)
		}
		return w.Evaluate(d, p)
	}
	out := judge(policy.Egress, &p, x.from, source, target)
	in := judge(policy.Ingress, &p, x.to, source, target)
	answer := func() bool {
		if !in.Stateful && !judge(policy.Egress, &back, x.to, target, source).Allowed() {
			return false
		}
		return out.Stateful || judge(policy.Ingress, &back, x.from, target, source).Allowed()
	}
	reject := func() string {
		if x.protocol == "tcp" {
			return "rejected"
		}
		return "dropped"
	}
	switch {
	case out.Action == model.ActionReject:
		return reject()
	case !out.Allowed():
		return "dropped"
	case in.Action == model.ActionReject:
		if !out.Stateful && !judge(policy.Ingress, &back, x.from, target, source).Allowed() {
			return "dropped" // the sender takes no answers
		}
		return reject()
	case !in.Allowed(), !answer():
		return "dropped"
	}
	return "ok"
}

func end(st *datapath.State, a netip.Addr) policy.End {
	x := st.Lookup(a)
	return policy.End{Addr: a, Identity: x.Identity, Entities: x.Entities}
}
