package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"weft/model"
	. "weft/policy"
	"weft/policy/policytest"
)

// A million random (world, packet, end) get the same verdict from the reference
// and from the compiled form; 50,000 with -short.
func TestEngineEqualsReference(t *testing.T) {
	total := 1_000_000
	if testing.Short() {
		total = 50_000
	}
	kinds := map[string]int{}
	const perWorld = 1000
	for seed := range total / perWorld {
		g := policytest.New(uint64(seed))
		w := g.World()
		set, err := Compile(w)
		if err != nil {
			t.Fatal(err)
		}
		engine, ids := NewEngine(set), w.Identities.All()
		for range perWorld / 2 {
			p := g.Packet(ids)
			for _, d := range []Direction{Ingress, Egress} {
				want, got := w.Evaluate(d, &p), engine.Judge(d, &p)
				if want != got {
					subject, _ := p.Ends(d)
					t.Fatalf("seed %d, %s, %+v:\nreference %+v\ncompiled  %+v\n%s", seed, d, p, want, got, set.For(subject.Identity))
				}
				kinds[string(want.Reason)+string(want.Action)]++
			}
		}
	}
	// The test is worth something only where all kinds of verdicts occur.
	for _, k := range []string{"ruleAllow", "ruleDeny", "ruleReject", "defaultAllow", "defaultDeny", "unmanagedAllow"} {
		if kinds[k] < total/100 {
			t.Errorf("%s occurred %d times in %d", k, kinds[k], total)
		}
	}
}

func manyRules(n int) *World {
	p := policyOf("many", "app=a")
	for i := range n {
		port := i%60000 + 1
		p.Spec.Ingress = append(p.Spec.Ingress, model.PolicyRule{Name: fmt.Sprintf("r%d", i), Action: model.ActionAllow,
			From:  []model.PolicyPeer{{IPBlocks: []model.IPBlock{{CIDR: fmt.Sprintf("10.%d.%d.0/24", i/256%256, i%256)}}}},
			Ports: []model.PolicyPort{{Protocol: "TCP", Port: &port}}})
	}
	return &World{Policies: []*model.Policy{p}, Identities: NewIdentities(map[string]string{"app": "a"}), Modes: map[Identity]model.Mode{1: model.ModeEnforce}}
}

func policyOf(name, subject string) *model.Policy {
	s, err := model.ParseSelector(subject)
	if err != nil {
		panic(err)
	}
	return &model.Policy{Metadata: model.Metadata{Name: name}, Spec: model.PolicySpec{Stage: model.StageActive, Subject: model.PolicySubject{Selector: &s}}}
}

func TestJudgeAllocatesNothing(t *testing.T) {
	g := policytest.New(7)
	w := g.World()
	for len(w.Policies) < 8 {
		w = g.World()
	}
	set, err := Compile(w)
	if err != nil {
		t.Fatal(err)
	}
	engine, ids := NewEngine(set), w.Identities.All()
	var packets []Packet
	for range 500 {
		packets = append(packets, g.Packet(ids))
	}
	judge := func() {
		for i := range packets {
			engine.JudgeBoth(&packets[i])
		}
	}
	if n := testing.AllocsPerRun(10, judge); n != 0 {
		t.Errorf("%v allocations in %d packets", n, len(packets))
	}
}

func TestPortPrefixesCoverExactlyTheRange(t *testing.T) {
	g := policytest.New(3)
	for range 300 {
		a, b := uint16(g.IntN(65536)), uint16(g.IntN(65536))
		p := Port{6, min(a, b), max(a, b)}
		covered := 0
		for _, x := range p.Prefixes() {
			size := 1 << (16 - x.Bits)
			if int(x.Value)%size != 0 || int(x.Value) != int(p.First)+covered {
				t.Fatalf("%s: prefix %+v after %d ports", p, x, covered)
			}
			covered += size
		}
		if covered != int(p.Last)-int(p.First)+1 || len(p.Prefixes()) > 30 {
			t.Errorf("%s: %d ports in %d prefixes", p, covered, len(p.Prefixes()))
		}
	}
	if n := len((Port{6, 0, 65535}).Prefixes()); n != 1 {
		t.Errorf("every port takes %d prefixes", n)
	}
}

// Compiling twice, and in another order, gives the same text; an unrelated policy
// leaves every rule's id and text as it was.
func TestCompileIsDeterministicAndStable(t *testing.T) {
	for seed := range uint64(50) {
		g := policytest.New(seed)
		w := g.World()
		text := func() string {
			set, err := Compile(w)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, id := range w.Identities.All() {
				b.WriteString(set.For(id).String())
			}
			return b.String()
		}
		before := text()
		g.Shuffle(len(w.Policies), func(i, j int) { w.Policies[i], w.Policies[j] = w.Policies[j], w.Policies[i] })
		if after := text(); after != before {
			t.Fatalf("seed %d: another order of policies gives\n%s\nnot\n%s", seed, after, before)
		}
		w.Policies = append(w.Policies, policyOf("unrelated", "app=nobody"))
		w.Policies[len(w.Policies)-1].Spec.Ingress = []model.PolicyRule{{Action: model.ActionDeny}}
		if after := text(); after != before {
			t.Fatalf("seed %d: an unrelated policy changed\n%s\nto\n%s", seed, before, after)
		}
	}
}

func TestEqualSubjectsShareARuleset(t *testing.T) {
	w := &World{Policies: []*model.Policy{policyOf("a", "app=a"), policyOf("b", "env=b")},
		Identities: NewIdentities(map[string]string{"app": "a", "n": "1"}, map[string]string{"app": "a", "n": "2"}, map[string]string{"env": "b"})}
	set, err := Compile(w)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := w.Identities.Intern(map[string]string{"app": "a", "n": "1"})
	second, _ := w.Identities.Intern(map[string]string{"app": "a", "n": "2"})
	if set.For(first) != set.For(second) || len(set.Rulesets()) != 2 || set.For(0) != nil {
		t.Errorf("%d rulesets", len(set.Rulesets()))
	}
}

func TestTwoPoliciesOfOneNameAreRefused(t *testing.T) {
	a, b := policyOf("a", "*"), policyOf("a", "*")
	a.Spec.Ingress = []model.PolicyRule{{Action: model.ActionAllow}}
	b.Spec.Ingress = a.Spec.Ingress
	if _, err := Compile(&World{Policies: []*model.Policy{a, b}, Identities: NewIdentities()}); err == nil || !strings.Contains(err.Error(), "has the id of #0 of policy a; rename") {
		t.Errorf("got %v", err)
	}
}
