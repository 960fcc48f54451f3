package policywire_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"weft/policy"
	"weft/policy/policytest"
	"weft/wire/policywire"
	"weft/wire/wirepb"
)

// What is written and read again is the same ruleset, and equal ones have one key.
func TestRulesetsSurviveTheWire(t *testing.T) {
	for seed := range uint64(300) {
		w := policytest.New(seed).World()
		set, err := policy.Compile(w)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range set.Rulesets() {
			raw, err := proto.Marshal(policywire.Encode(r))
			if err != nil {
				t.Fatal(err)
			}
			var m wirepb.Ruleset
			if err := proto.Unmarshal(raw, &m); err != nil {
				t.Fatal(err)
			}
			back, err := policywire.Decode(&m)
			if err != nil {
				t.Fatalf("seed %d: %v\n%s", seed, err, r)
			}
			if back.String() != r.String() {
				t.Fatalf("seed %d:\ngot  %s\nwant %s", seed, back, r)
			}
			if again := policywire.Encode(back).Key; again != m.Key {
				t.Fatalf("seed %d: key %s, then %s", seed, m.Key, again)
			}
		}
	}
}

// What is not understood is refused whole, by name.
func TestUnknownIsRefused(t *testing.T) {
	good := func() *wirepb.Ruleset {
		defaults := []*wirepb.PolicyDefault{{Action: "Deny"}}
		return &wirepb.Ruleset{Key: "k", Mode: "Enforce", Ingress: &wirepb.PolicyTable{Rules: []*wirepb.PolicyRule{{Id: 1, Tier: "Application", Action: "Allow"}}, Defaults: defaults}, Egress: &wirepb.PolicyTable{Defaults: defaults}}
	}
	if _, err := policywire.Decode(good()); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*wirepb.Ruleset){
		`mode "Later"`:      func(m *wirepb.Ruleset) { m.Mode = "Later" },
		`action "Teleport"`: func(m *wirepb.Ruleset) { m.Ingress.Rules[0].Action = "Teleport" },
		`tier "Ninth"`:      func(m *wirepb.Ruleset) { m.Ingress.Rules[0].Tier = "Ninth" },
		"the id is missing": func(m *wirepb.Ruleset) { m.Ingress.Rules[0].Id = 0 },
		`entity "moon"`:     func(m *wirepb.Ruleset) { m.Ingress.Rules[0].Peers = []*wirepb.PolicyPeer{{Entities: []string{"moon"}}} },
		"it must name one":  func(m *wirepb.Ruleset) { m.Ingress.Rules[0].Peers = []*wirepb.PolicyPeer{{}} },
		"make no range": func(m *wirepb.Ruleset) {
			m.Ingress.Rules[0].Ports = []*wirepb.PolicyPort{{Protocol: 6, First: 9, Last: 8}}
		},
		"names none":         func(m *wirepb.Ruleset) { m.Ingress.Rules[0].Processes = []*wirepb.PolicyProcess{{}} },
		"without condition":  func(m *wirepb.Ruleset) { m.Egress.Defaults = nil },
		"default action":     func(m *wirepb.Ruleset) { m.Egress.Defaults[0].Action = "Pass" },
		"the table is missi": func(m *wirepb.Ruleset) { m.Egress = nil },
	} {
		m := good()
		spoil(m)
		if _, err := policywire.Decode(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	w := policytest.New(5).World()
	set, err := policy.Compile(w)
	if err != nil {
		f.Fatal(err)
	}
	for _, r := range set.Rulesets() {
		raw, err := proto.Marshal(policywire.Encode(r))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var m wirepb.Ruleset
		if proto.Unmarshal(raw, &m) != nil {
			return
		}
		r, err := policywire.Decode(&m)
		if err != nil {
			return
		}
		again, err := policywire.Decode(policywire.Encode(r))
		if err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
		if again.String() != r.String() {
			t.Errorf("got  %s\nwant %s", again, r)
		}
	})
}
