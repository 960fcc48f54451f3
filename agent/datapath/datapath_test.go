package datapath_test

import (
	"errors"
	"testing"

	"weft/agent/datapath"
	"weft/agent/datapath/fake"
	"weft/model"
	"weft/policy"
	"weft/wire/policywire"
	"weft/wire/wirepb"
)

// world is sections as a controller makes them, for one machine and a container.
func sections(t *testing.T, action model.Action) (*wirepb.PolicySection, *wirepb.IdentitySection) {
	t.Helper()
	sel, err := model.ParseSelector("app=db")
	if err != nil {
		t.Fatal(err)
	}
	rule := &policy.Rule{ID: 7, Tier: model.TierApplication, Policy: "p", Name: "r", Action: action, Stateful: true, Peers: []policy.Peer{{Selector: &sel}}}
	deny := []policy.Default{{Action: model.ActionDeny}}
	r := policywire.Encode(policy.NewRuleset(model.ModeEnforce, []*policy.Rule{rule}, nil, deny, deny))
	return &wirepb.PolicySection{Rulesets: []*wirepb.Ruleset{r}}, &wirepb.IdentitySection{
		Subjects:  []*wirepb.PolicySubject{{Workload: "host", Identity: 1, Ruleset: r.Key}},
		Selectors: []*wirepb.SelectorMembers{{Selector: "app=db", Identities: []uint32{2}}},
		Addresses: []*wirepb.AddressIdentity{{Address: []byte{192, 0, 2, 1}, Identity: 2}},
	}
}

func newDatapath(t *testing.T, k *fake.Kernel, fail func() error) *datapath.Datapath {
	t.Helper()
	d, err := datapath.New(datapath.Config{CgroupRoot: "/cgroup"}, datapath.Deps{
		Drivers: []datapath.Choice{{Name: "fake", Open: func() (datapath.Driver, error) { d := fake.Open(k); d.Fail = fail; return d, nil }, Left: k.InForce}},
		Inventory: func() (*wirepb.HostFacts, []*wirepb.Workload) {
			return &wirepb.HostFacts{}, []*wirepb.Workload{{Id: "host", Kind: "host"}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// In whatever order the sections come, however often, and whatever fails on the
// way, what is in force in the end is the same.
func TestOrderDoesNotMatter(t *testing.T) {
	first, firstIDs := sections(t, model.ActionDeny)
	last, lastIDs := sections(t, model.ActionAllow)
	steps := map[string]func(*datapath.Datapath) error{
		"p1": func(d *datapath.Datapath) error { _, err := d.ApplyPolicy(t.Context(), first); return err },
		"i1": func(d *datapath.Datapath) error { _, err := d.ApplyIdentity(t.Context(), firstIDs); return err },
		"p2": func(d *datapath.Datapath) error { _, err := d.ApplyPolicy(t.Context(), last); return err },
		"i2": func(d *datapath.Datapath) error { _, err := d.ApplyIdentity(t.Context(), lastIDs); return err },
	}
	want := ""
	for _, order := range [][]string{{"p2", "i2"}, {"i2", "p2"}, {"p1", "i1", "p2", "i2"}, {"i1", "p1", "i2", "p2"}, {"p1", "p2", "i1", "i2"}, {"p2", "p2", "i2", "i2"}, {"p1", "i1", "restart", "p2", "i2"}, {"p1", "i1", "p2", "restart", "i2", "p2"}} {
		for _, every := range []int{0, 2, 3} {
			k := fake.NewKernel()
			var fail func() error
			if every > 0 {
				fail = fake.FailSome(every)
			}
			d := newDatapath(t, k, fail)
			for _, step := range order {
				if step == "restart" {
					d = newDatapath(t, k, fail)
					continue
				}
				for range 5 { // an agent tries again
					if err := steps[step](d); !errors.Is(err, fake.ErrInjected) {
						break
					}
				}
			}
			got := fake.Open(k).String()
			if want == "" {
				want = got
			}
			if got != want || got == "nothing in force\n" {
				t.Errorf("%v, each %d-th apply fails:\ngot  %swant %s", order, every, got, want)
			}
		}
	}
}

// A machine that no policy is about is left alone, also where an earlier run had
// something in force.
func TestNothingIsLeft(t *testing.T) {
	p, ids := sections(t, model.ActionAllow)
	k := fake.NewKernel()
	for _, restart := range []bool{false, true} {
		d := newDatapath(t, k, nil)
		if _, err := d.ApplyPolicy(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if _, err := d.ApplyIdentity(t.Context(), ids); err != nil {
			t.Fatal(err)
		}
		if !k.InForce() {
			t.Fatal("nothing is in force")
		}
		if restart {
			d = newDatapath(t, k, nil)
		}
		if _, err := d.ApplyPolicy(t.Context(), &wirepb.PolicySection{}); err != nil {
			t.Fatal(err)
		}
		if _, err := d.ApplyIdentity(t.Context(), &wirepb.IdentitySection{}); err != nil {
			t.Fatal(err)
		}
		if k.InForce() {
			t.Errorf("restart %t: something is left", restart)
		}
	}
}

// A rule that this agent does not understand is refused whole: what was in force
// stays.
func TestUnknownIsRefused(t *testing.T) {
	p, ids := sections(t, model.ActionAllow)
	k := fake.NewKernel()
	d := newDatapath(t, k, nil)
	d.ApplyPolicy(t.Context(), p)
	if _, err := d.ApplyIdentity(t.Context(), ids); err != nil {
		t.Fatal(err)
	}
	before := fake.Open(k).String()
	bad, _ := sections(t, "Teleport")
	if _, err := d.ApplyPolicy(t.Context(), bad); err == nil {
		t.Error("accepted")
	}
	if got := fake.Open(k).String(); got != before {
		t.Errorf("got %s", got)
	}
}
