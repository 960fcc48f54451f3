package datapath_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"weft/agent/datapath"
	"weft/agent/datapath/fake"
	"weft/model"
	"weft/wire/wirepb"
)

// witness is a driver that has seen proofs that are not good.
type witness struct {
	*fake.Driver
	forged, unknown map[string]uint64
}

func (w *witness) Disbelieved() (forged, unknown map[string]uint64, err error) {
	return w.forged, w.unknown, nil
}

func TestForgedCallsAreAConditionOfTheirOwn(t *testing.T) {
	k := fake.NewKernel()
	w := &witness{Driver: fake.Open(k), forged: map[string]uint64{"calls under a forged proof": 3}, unknown: map[string]uint64{"calls of strangers": 1}}
	d, err := datapath.New(datapath.Config{CgroupRoot: "/cgroup", Every: 5 * time.Millisecond}, datapath.Deps{
		Drivers: []datapath.Choice{{Name: "fake", Open: func() (datapath.Driver, error) { return w, nil }, Left: k.InForce}},
		Inventory: func() (*wirepb.HostFacts, []*wirepb.Workload) {
			return &wirepb.HostFacts{}, []*wirepb.Workload{{Id: "host", Kind: "host"}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	policy, identity := sections(t, model.ActionAllow)
	if _, err := d.ApplyPolicy(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ApplyIdentity(t.Context(), identity); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); d.Run(ctx, func() {}) }()
	defer func() { cancel(); <-done }()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		said := ""
		for _, c := range d.Conditions() {
			said += c.Type + ": " + c.Message + "\n"
		}
		if strings.Contains(said, "CallerForged: calls under a forged proof (3)\n") && strings.Contains(said, "CallerUnknown: calls of strangers (1)\n") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("it says %q", said)
		}
	}
}
