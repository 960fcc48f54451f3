package policy_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/goccy/go-yaml"

	"weft/internal/golden"
	"weft/model"
	. "weft/policy"
	"weft/policy/policytest"
)

// orders is the three-tier world of testdata/orders.yaml: identities api, db, web.
func orders(t testing.TB) (w *World, api, db, web Identity) {
	t.Helper()
	f, err := os.Open("testdata/orders.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w = &World{Identities: NewIdentities(), Modes: map[Identity]model.Mode{}, Failsafe: Failsafe(FailsafeOptions{ControllerPort: 7443})}
	dec := yaml.NewDecoder(f)
	for {
		var doc any
		if dec.Decode(&doc) != nil {
			break
		}
		p, err := model.DecodePolicy(doc)
		if err != nil {
			t.Fatal(err)
		}
		w.Policies = append(w.Policies, p)
	}
	if len(w.Policies) != 3 {
		t.Fatalf("read %d policies", len(w.Policies))
	}
	for role, id := range map[string]*Identity{"api": &api, "db": &db, "web": &web} {
		*id, _ = w.Identities.Intern(map[string]string{"app": "orders", "role": role})
	}
	w.Modes[db], w.Modes[api] = model.ModeEnforce, model.ModeSelective
	return w, api, db, web
}

func TestExplainReadsWell(t *testing.T) {
	w, api, db, web := orders(t)
	end := func(addr string, id Identity, exe string) End {
		return End{Addr: netip.MustParseAddr(addr), Identity: id, Process: model.PolicyProcess{Exe: exe}}
	}
	postgres := end("10.0.0.3", db, "/usr/bin/postgres")
	for name, p := range map[string]Packet{
		"allowed":       {Source: end("10.0.0.2", api, "/srv/orders/api"), Destination: postgres, Protocol: 6, DestinationPort: 5432},
		"wrong-process": {Source: end("10.0.0.2", api, "/bin/sh"), Destination: postgres, Protocol: 6, DestinationPort: 5432},
		"wrong-port":    {Source: end("10.0.0.2", api, "/srv/orders/api"), Destination: postgres, Protocol: 6, DestinationPort: 5433},
		"wrong-peer":    {Source: end("10.0.0.4", web, ""), Destination: postgres, Protocol: 6, DestinationPort: 5432},
		"staged":        {Source: postgres, Destination: end("10.7.0.9", 0, ""), Protocol: 6, DestinationPort: 9000},
		"denied":        {Source: end("203.0.113.9", 0, ""), Destination: postgres, Protocol: 6, DestinationPort: 23},
		"ping":          {Source: end("10.0.0.4", web, ""), Destination: postgres, Protocol: 1, ICMPType: 8},
	} {
		golden.Equal(t, "explain-"+name+".golden", Explain(w, &p).String())
	}
}

func TestRulesetGolden(t *testing.T) {
	w, _, db, _ := orders(t)
	set, err := Compile(w)
	if err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, "ruleset-db.golden", set.For(db).String())
}

// The explanation's steps tell the same story as the verdict, and a miss really
// is one: no rule that matches is listed.
func TestExplainAgreesWithVerdict(t *testing.T) {
	misses := 0
	for seed := range uint64(300) {
		g := policytest.New(seed)
		w := g.World()
		ids := w.Identities.All()
		for range 30 {
			p := g.Packet(ids)
			x := Explain(w, &p)
			if x.Action != w.EvaluateBoth(&p).Action() || x.String() != Explain(w, &p).String() {
				t.Fatalf("seed %d: %s", seed, x)
			}
			for _, e := range []EndExplanation{x.Egress, x.Ingress} {
				misses += len(e.Misses)
				if e.Verdict.Reason == ByRule {
					last := e.Steps[len(e.Steps)-1]
					want := string(e.Verdict.Action) + " by " + e.Verdict.Policy + "/" + e.Verdict.Rule
					if last.Tier != e.Verdict.Tier || len(last.Text) < len(want) || last.Text[len(last.Text)-len(want):] != want {
						t.Fatalf("seed %d: %s", seed, x)
					}
				}
			}
		}
	}
	if misses < 100 {
		t.Errorf("only %d misses", misses)
	}
}
