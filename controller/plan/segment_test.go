package plan

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"weft/internal/golden"
	"weft/model"
	"weft/policy"
	"weft/wire/policywire"
	"weft/wire/wirepb"
)

func (s *scene) policy(name, spec string) *scene {
	var doc any
	text := fmt.Sprintf("apiVersion: weft/v1\nkind: Policy\nmetadata: {name: %s}\nspec: %s\n", name, spec)
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		panic(err)
	}
	p, err := model.DecodePolicy(doc)
	if err != nil {
		panic(err)
	}
	p.Metadata.UID = "uid-" + name
	s.Policies = append(s.Policies, p)
	return s
}

func (s *scene) mode(group string, mode model.Mode) *scene {
	for _, g := range s.Groups {
		if g.Metadata.Name == group {
			g.Spec.Mode = mode
		}
	}
	return s
}

// keys gives hosts what they tell one another by who calls.
func (s *scene) keys(hosts ...string) *scene {
	s.CallerKeys = map[string][]byte{}
	for _, h := range hosts {
		s.CallerKeys[h] = []byte("key of " + h)
	}
	return s
}

// shop is three hosts: containers behind NAT that share private addresses, one
// on the uplink's own network, and a database on the machine itself.
func shop() *scene {
	s := newScene().relay("r1", false).
		host("a", "site=one", "10.0.0.1/24").container("a", "web", "app=web", "172.18.0.2").container("a", "lan", "app=lan", "10.0.0.77").
		host("b", "site=one", "10.0.0.2/24", "2001:db8::2/64").container("b", "api", "app=api", "172.18.0.2").container("b", "web", "app=web", "172.18.0.3").
		host("db", "app=db", "10.0.1.1/24")
	s.Failsafe = policy.FailsafeOptions{ControllerPort: 7443}
	return s
}

const dbFromWeb = `{stage: Active, subject: {selector: app=db}, ingress: [{name: web, action: Allow, from: [{selector: app=web}], ports: [{protocol: TCP, port: 5432}]}]}`

var segmentScenarios = map[string]*scene{
	"policy":        shop().policy("db", dbFromWeb),
	"policy-draft":  shop().policy("db", strings.Replace(dbFromWeb, "Active", "Draft", 1)),
	"policy-staged": shop().policy("db", strings.Replace(dbFromWeb, "Active", "Staged", 1)).group("db", "app=db").mode("db", model.ModeEnforce),
	"policy-modes": shop().group("front", "app in (web,lan)").group("all", "site=one", "front").mode("front", model.ModeEnforce).mode("all", model.ModeObserve).
		policy("out", `{stage: Active, subject: {selector: app=web}, egress: [{action: Deny, to: [{entities: [world]}]}]}`),
	"policy-nobody":       shop().policy("none", `{subject: {selector: app=none}, ingress: []}`),
	"policy-same-address": shop().host("twin", "site=two", "10.0.1.1/24").policy("db", dbFromWeb).policy("w", `{stage: Active, subject: {selector: app=web}, egress: [{action: Allow, to: [{ipBlocks: [{cidr: 10.0.0.0/8}]}]}]}`),
	"policy-callers":      shop().host("alone", "", "10.0.3.1/24").keys("a", "b", "db", "alone").policy("db", dbFromWeb),
	"policy-some-callers": shop().keys("a", "db").policy("db", dbFromWeb).policy("w", `{stage: Active, subject: {selector: app=web}, egress: [{action: Allow, to: [{entities: [fleet]}]}]}`),
	"policy-revoked":      shop().revoke("b").policy("db", dbFromWeb).policy("w", `{stage: Active, subject: {selector: app=api}, egress: []}`),
}

func TestSegmentOfEveryScenarioInEveryOrder(t *testing.T) {
	for name, s := range segmentScenarios {
		t.Run(name, func(t *testing.T) {
			want := dump(Compute(s.State))
			golden.Equal(t, name+".txt", want)
			r := rand.New(rand.NewPCG(1, 2))
			var planner Planner
			for range 20 {
				if got := dump(planner.Plan(s.shuffle(r))); got != want {
					t.Fatalf("another order gives another plan:\n%s\nwant:\n%s", got, want)
				}
			}
		})
	}
}

// numbers is a Number for one test.
func numbers() Number {
	given := map[string]policy.Identity{}
	return func(labels map[string]string) (policy.Identity, error) {
		k := setText(labels)
		if given[k] == 0 {
			given[k] = policy.Identity(len(given) + 1)
		}
		return given[k], nil
	}
}

// Who calls is told between pairs: each finds the other in its section, with all
// that lives there; and a host whose rules ask about nobody of another is none.
func TestPeersAreMutual(t *testing.T) {
	s := shop().host("far", "site=far", "10.9.0.1/24").container("far", "x", "app=x").keys("a", "b", "db", "far").policy("db", dbFromWeb)
	s.Number = numbers()
	var planner Planner
	p := planner.Plan(s.State)
	of := func(name string) map[uint32]*wirepb.PeerHost {
		out := map[uint32]*wirepb.PeerHost{}
		for _, h := range p.Hosts.Get(name).Sections[SectionIdentity].GetIdentity().GetHosts() {
			out[h.Number] = h
		}
		return out
	}
	for _, x := range []string{"a", "b", "db", "far"} {
		for _, y := range []string{"a", "b", "db", "far"} {
			want := x != y && x != "far" && y != "far" && (x == "db" || y == "db")
			there, back := of(x)[HostNumber("uid-"+y)], of(y)[HostNumber("uid-"+x)]
			if (there != nil) != want || (back != nil) != want {
				t.Errorf("%s and %s: %v, %v", x, y, there, back)
			}
		}
	}
	web := uint32(p.Identity("a:web"))
	if m := of("db")[HostNumber("uid-a")]; !slices.Contains(m.Identities, web) || len(m.Addresses) != 2 || string(m.CallerKey) != "key of a" {
		t.Errorf("what db knows of a: %v", m)
	}
	// A container with labels that its host has already makes nobody's section anew.
	last := p
	s.container("a", "more", "app=web", "172.18.0.9")
	p = planner.Plan(s.State)
	if p.Hosts.Get("db").Sections[SectionIdentity] != last.Hosts.Get("db").Sections[SectionIdentity] {
		t.Error("the section of db was written again")
	}
	if n := len(p.Hosts.Get("a").Sections[SectionIdentity].GetIdentity().GetBearers()); n != 4 {
		t.Errorf("%d bearers on a", n)
	}
}

// Whatever was planned before, what is planned now is the same; and what has not
// changed is not compiled or written again.
func TestLastPlanChangesNothingButTheWork(t *testing.T) {
	number := numbers()
	r := rand.New(rand.NewPCG(5, 6))
	full := shop().group("web", "app=web").mode("web", model.ModeSelective).policy("db", dbFromWeb).policy("w", `{stage: Staged, subject: {selector: app=web}, egress: [{action: Deny}]}`)
	full.Number = number
	want := dump(Compute(full.State))
	var planner Planner
	for range 60 {
		part := full.shuffle(r)
		part.Policies = part.Policies[:r.IntN(len(part.Policies)+1)]
		part.Workloads = part.Workloads[:r.IntN(len(part.Workloads)+1)]
		part.Groups = part.Groups[:r.IntN(len(part.Groups)+1)]
		if a, b := dump(planner.Plan(part)), dump(Compute(part)); a != b {
			t.Fatalf("after other plans and alone:\n%s", firstDifference(a, b))
		}
		if got := dump(planner.Plan(full.shuffle(r))); got != want {
			t.Fatalf("got:\n%s\nwant:\n%s", got, want)
		}
	}
	last := planner.plan
	again := full.shuffle(r)
	if next := planner.Plan(again); len(next.Changed) > 0 || next.Hosts != last.Hosts {
		t.Errorf("hosts %v have changed although nothing has", next.Changed)
	}
	// A workload with known labels changes no ruleset.
	again.Workloads = append(again.Workloads, shop().container("a", "web2", "app=web", "172.18.0.9").Workloads[7])
	more := planner.Plan(again)
	if before, after := last.Hosts.Get("a").Sections, more.Hosts.Get("a").Sections; before[SectionPolicy] != after[SectionPolicy] {
		t.Error("a workload with known labels changed the policy section")
	} else if before[SectionIdentity] == after[SectionIdentity] {
		t.Error("a new workload did not reach its host's identity section")
	}
	if !slices.Equal(more.Changed, []string{"a"}) {
		t.Errorf("hosts %v have changed, want a alone: nobody else can have the address", more.Changed)
	}
}

// Policies that do not compile leave hosts what they have.
func TestPoliciesThatDoNotCompile(t *testing.T) {
	var planner Planner
	last := planner.Plan(shop().policy("db", dbFromWeb).State)
	bad := shop().policy("db", dbFromWeb).policy("db", dbFromWeb) // one name twice: ids are not distinct
	p := planner.Plan(bad.State)
	if one := p.Policy("db"); one.Problem == "" || one.Workloads != 1 {
		t.Errorf("got %+v", one)
	}
	if got, want := p.Hosts.Get("db").Sections[SectionPolicy].GetDigest(), last.Hosts.Get("db").Sections[SectionPolicy].Digest; got != want {
		t.Errorf("policy section %s, want the last %s", got, want)
	}
	if s := Compute(bad.State).Hosts.Get("db").Sections[SectionPolicy]; s != nil {
		t.Errorf("a section out of nothing: %v", s)
	}
	if p := planner.Plan(shop().policy("db", dbFromWeb).State); p.Policy("db").Problem != "" || dump(p) != dump(last) {
		t.Errorf("it does not come right again:\n%s", dump(p))
	}
}

// What hosts are sent judges as the reference does, for every pair of workloads
// whose addresses hosts can know.
func TestSectionsJudgeAsTheReference(t *testing.T) {
	s := segmentScenarios["policy-modes"]
	p := Compute(s.State)
	world, err := NewWorld(WorldInput{Policies: s.Policies, Failsafe: policy.Failsafe(FailsafeOf(s.Failsafe, s.Relays)), Groups: s.Groups, Workloads: s.Workloads})
	if err != nil {
		t.Fatal(err)
	}
	w := world.At(model.StageActive)
	for _, wl := range s.Workloads {
		subject := world.ByWorkload[wl.Metadata.Name]
		if got := p.Identity(wl.Metadata.Name); got != subject {
			t.Errorf("%s is %d, want %d", wl.Metadata.Name, got, subject)
		}
		if !world.Subjects[subject] {
			continue
		}
		rulesets, members := sent(t, p.Hosts.Get(wl.Spec.Host), WorkloadID(wl))
		for _, peer := range append(slices.Sorted(maps.Values(world.ByWorkload)), 0) {
			packet := &policy.Packet{Protocol: 6, SourcePort: 40000, DestinationPort: 443, Source: policy.End{Identity: subject}, Destination: policy.End{Identity: peer}}
			want := w.Evaluate(policy.Egress, packet).Action
			if got := first(&rulesets.Egress, members, peer); got != want {
				t.Errorf("%s -> identity %d: %s by what was sent, %s by the reference", wl.Metadata.Name, peer, got, want)
			}
		}
	}
}

func sent(t *testing.T, h *Host, id string) (*policy.Ruleset, map[string][]uint32) {
	t.Helper()
	who, members := h.Sections[SectionIdentity].GetIdentity(), map[string][]uint32{}
	for _, m := range who.Selectors {
		members[m.Selector] = m.Identities
	}
	i := slices.IndexFunc(who.Subjects, func(s *wirepb.PolicySubject) bool { return s.Workload == id })
	if i < 0 {
		t.Fatalf("%s is no subject", id)
	}
	for _, r := range h.Sections[SectionPolicy].GetPolicy().Rulesets {
		if r.Key == who.Subjects[i].Ruleset {
			out, err := policywire.Decode(r)
			if err != nil {
				t.Fatal(err)
			}
			return out, members
		}
	}
	t.Fatalf("ruleset %s was not sent", who.Subjects[i].Ruleset)
	return nil, nil
}

// first judges by peers alone.
func first(t *policy.Table, members map[string][]uint32, peer policy.Identity) model.Action {
	world := policy.EntityBit(model.EntityWorld)
	for _, r := range t.Rules {
		if len(r.Ports) > 0 || r.Tier == model.TierFailsafe {
			continue
		}
		hit := len(r.Peers) == 0
		for _, p := range r.Peers {
			hit = hit || p.Entities&world != 0 && peer == 0 || p.Selector != nil && slices.Contains(members[p.Selector.String()], uint32(peer))
		}
		if hit {
			return r.Action
		}
	}
	return t.Defaults[len(t.Defaults)-1].Action
}

// A thousand hosts with ten containers each; one container comes with each plan.
func BenchmarkComputePolicy(b *testing.B) {
	s := newScene()
	for i := range 1000 {
		s.host(fmt.Sprintf("h%d", i), "role=server", fmt.Sprintf("10.%d.%d.1/8", i/250, i%250))
		for j := range 10 {
			s.container(fmt.Sprintf("h%d", i), fmt.Sprintf("c%d", j), fmt.Sprintf("app=a%d", j), fmt.Sprintf("172.18.0.%d", j+2))
		}
	}
	for i := range 100 {
		s.policy(fmt.Sprintf("p%d", i), fmt.Sprintf(`{stage: Active, subject: {selector: app=a%d}, ingress: [{action: Allow, from: [{selector: app=a%d}], ports: [{protocol: TCP, port: %d}]}]}`, i%10, i/10, 1000+i))
	}
	s.Number = numbers()
	var planner Planner
	for i := 0; b.Loop(); i++ {
		s.container("h1", fmt.Sprintf("new%d", i), "app=a1", "172.18.1.1")
		planner.Plan(s.State)
	}
}
