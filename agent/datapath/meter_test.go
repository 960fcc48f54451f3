package datapath_test

import (
	"errors"
	"strings"
	"testing"

	"weft/agent/datapath"
	"weft/agent/datapath/fake"
	"weft/model"
	"weft/wire/wirepb"
)

// drivers are one that meters and one that only judges.
func metering(t *testing.T, meter, judge *fake.Kernel, meterFails func() bool) *datapath.Datapath {
	t.Helper()
	d, err := datapath.New(datapath.Config{CgroupRoot: "/cgroup"}, datapath.Deps{
		Drivers: []datapath.Choice{
			{Name: "fake", Meters: true, Left: meter.InForce, Open: func() (datapath.Driver, error) {
				if meterFails() {
					return nil, errors.New("this kernel is too old")
				}
				return fake.Open(meter), nil
			}},
			{Name: "judge", Left: judge.InForce, Open: func() (datapath.Driver, error) { return fake.Open(judge), nil }},
		},
		Inventory: func() (*wirepb.HostFacts, []*wirepb.Workload) {
			return &wirepb.HostFacts{}, []*wirepb.Workload{{Id: "host", Kind: "host"}, {Id: "a", Kind: "unit", Cgroup: "a"}, {Id: "b", Kind: "unit", Cgroup: "b"}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func apply(t *testing.T, d *datapath.Datapath, p *wirepb.PolicySection, i *wirepb.IdentitySection, f *wirepb.FlowSection) {
	t.Helper()
	if _, err := d.ApplyFlow(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ApplyPolicy(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ApplyIdentity(t.Context(), i); err != nil {
		t.Fatal(err)
	}
}

func TestEveryWorkloadIsMeteredButThoseExempt(t *testing.T) {
	meter, judge := fake.NewKernel(), fake.NewKernel()
	d := metering(t, meter, judge, func() bool { return false })
	p, i := sections(t, model.ActionDeny)
	apply(t, d, p, i, &wirepb.FlowSection{Meter: true, Exempt: []string{"b"}})
	got := fake.Open(meter).String()
	if !strings.Contains(got, "subject a unit identity 0 ruleset unjudged") || strings.Contains(got, "subject b") || !strings.Contains(got, "subject host host identity 1") {
		t.Errorf("in force:\n%s", got)
	}
	// No policy is about the machine any more: it is metered all the same.
	apply(t, d, &wirepb.PolicySection{}, &wirepb.IdentitySection{}, &wirepb.FlowSection{Meter: true})
	if got := fake.Open(meter).String(); strings.Count(got, "ruleset unjudged") != 3 {
		t.Errorf("in force:\n%s", got)
	}
	apply(t, d, &wirepb.PolicySection{}, &wirepb.IdentitySection{}, &wirepb.FlowSection{})
	if got := fake.Open(meter).String(); got != "nothing in force\n" {
		t.Errorf("nothing is asked for, and in force is:\n%s", got)
	}
}

// Metering alone is not worth a driver that costs every packet much: the machine
// is left alone, and says why it is not metered.
func TestMeteringAloneOpensNoDriverThatOnlyJudges(t *testing.T) {
	meter, judge := fake.NewKernel(), fake.NewKernel()
	d := metering(t, meter, judge, func() bool { return true })
	apply(t, d, &wirepb.PolicySection{}, &wirepb.IdentitySection{}, &wirepb.FlowSection{Meter: true})
	if judge.InForce() {
		t.Error("the driver that only judges is in force")
	}
	said := func() string {
		for _, c := range d.Conditions() {
			if c.Type == datapath.ConditionNotMetered {
				return c.Message
			}
		}
		return ""
	}
	if !strings.Contains(said(), "this kernel is too old") {
		t.Errorf("the host says %q", said())
	}
	// A policy opens it, for its subjects alone.
	p, i := sections(t, model.ActionDeny)
	apply(t, d, p, i, &wirepb.FlowSection{Meter: true})
	if got := fake.Open(judge).String(); !strings.Contains(got, "subject host") || strings.Contains(got, "unjudged") {
		t.Errorf("in force:\n%s", got)
	}
	if !strings.Contains(said(), "judge") {
		t.Errorf("the host says %q", said())
	}
	apply(t, d, &wirepb.PolicySection{}, &wirepb.IdentitySection{}, &wirepb.FlowSection{Meter: true})
	if judge.InForce() {
		t.Error("the policy is gone, and the driver that only judges is in force")
	}
}

// An agent that was killed may hold what it has left for a moment: the next one
// must not take that for something to remove, and with it every connection.
func TestWhatMetersStaysWhereItCannotBeOpenedYet(t *testing.T) {
	meter, judge := fake.NewKernel(), fake.NewKernel()
	busy := 0
	never := func() bool { return false }
	apply(t, metering(t, meter, judge, never), &wirepb.PolicySection{}, &wirepb.IdentitySection{}, &wirepb.FlowSection{Meter: true})
	want := fake.Open(meter).String()
	d := metering(t, meter, judge, func() bool { busy++; return busy == 1 })
	if _, err := d.ApplyFlow(t.Context(), &wirepb.FlowSection{Meter: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ApplyPolicy(t.Context(), &wirepb.PolicySection{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ApplyIdentity(t.Context(), &wirepb.IdentitySection{}); err == nil {
		t.Error("what could not be opened is no error: nobody tries again")
	}
	if got := fake.Open(meter).String(); got != want {
		t.Errorf("in force:\n%s", got)
	}
	if _, err := d.ApplyIdentity(t.Context(), &wirepb.IdentitySection{}); err != nil {
		t.Fatal(err)
	}
	if got := fake.Open(meter).String(); got != want || len(d.Conditions()) != 0 {
		t.Errorf("in force:\n%s\nsaid: %v", got, d.Conditions())
	}
}

// Loading programs into the kernel takes seconds on a busy machine. Whoever reports
// meanwhile waits for none of it.
func TestAskedWhileADriverIsOpened(t *testing.T) {
	opening, opened := make(chan struct{}), make(chan struct{})
	d := metering(t, fake.NewKernel(), fake.NewKernel(), func() bool { close(opening); <-opened; return false })
	p, i := sections(t, model.ActionDeny)
	done := make(chan struct{})
	go func() { defer close(done); apply(t, d, p, i, &wirepb.FlowSection{Meter: true}) }()
	<-opening
	d.Conditions()
	d.Report()
	close(opened)
	<-done
}
