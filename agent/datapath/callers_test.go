package datapath_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"weft/agent/datapath"
	"weft/agent/datapath/fake"
	"weft/policy"
	"weft/wire/wirepb"
)

// watched is a fake driver that shows what it is handed.
type watched struct {
	*fake.Driver
	states chan *datapath.State
}

func (w watched) Apply(ctx context.Context, s *datapath.State) error {
	w.states <- s
	return w.Driver.Apply(ctx, s)
}

// telling is a machine that tells others who calls.
type telling struct {
	*datapath.Datapath
	key    *datapath.CallerKey
	now    atomic.Int64 // Unix seconds
	states chan *datapath.State
}

func newTelling(t *testing.T, workloads ...*wirepb.Workload) *telling {
	t.Helper()
	key, err := datapath.NewCallerKey()
	if err != nil {
		t.Fatal(err)
	}
	x := &telling{key: key, states: make(chan *datapath.State, 64)}
	x.now.Store(7 * 86400 * 100)
	x.Datapath, err = datapath.New(datapath.Config{CgroupRoot: "/cg", CallerKey: key, Every: time.Millisecond, Now: func() time.Time { return time.Unix(x.now.Load(), 0) }}, datapath.Deps{
		Drivers: []datapath.Choice{{Name: "fake", Left: func() bool { return false }, Open: func() (datapath.Driver, error) {
			return watched{fake.Open(fake.NewKernel()), x.states}, nil
		}}},
		Inventory: func() (*wirepb.HostFacts, []*wirepb.Workload) { return &wirepb.HostFacts{}, workloads },
	})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// apply gives it an identity section without subjects and returns what the driver got.
func (x *telling) apply(t *testing.T, s *wirepb.IdentitySection) *datapath.State {
	t.Helper()
	if _, err := x.ApplyPolicy(t.Context(), &wirepb.PolicySection{}); err != nil {
		t.Fatal(err)
	}
	if _, err := x.ApplyIdentity(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return <-x.states
}

// Two machines that each were told the other's public key seal and accept alike,
// this week and the next, and whoever has no part in it has no secrets.
func TestSectionsMakeSecrets(t *testing.T) {
	a := newTelling(t, &wirepb.Workload{Id: "host", Kind: "host"}, &wirepb.Workload{Id: "c1", Kind: "container", Cgroup: "/pods/c1"})
	b := newTelling(t, &wirepb.Workload{Id: "host", Kind: "host"})
	bearers := []*wirepb.Bearer{{Workload: "host", Identity: 5}, {Workload: "c1", Identity: 6}, {Workload: "gone", Identity: 7}}
	toB := &wirepb.PeerHost{Number: 22, CallerKey: b.key.Public(), Addresses: [][]byte{{10, 0, 0, 2}}, Identities: []uint32{8}}
	toA := &wirepb.PeerHost{Number: 11, CallerKey: a.key.Public(), Addresses: [][]byte{{10, 0, 0, 1}}, Identities: []uint32{5, 6}}
	broken := &wirepb.PeerHost{Number: 33, CallerKey: []byte("short")}
	section := &wirepb.IdentitySection{Host: 11, Hosts: []*wirepb.PeerHost{toB, broken}, Bearers: bearers}
	atA := a.apply(t, section)
	atB := b.apply(t, &wirepb.IdentitySection{Host: 22, Hosts: []*wirepb.PeerHost{toA}, Bearers: bearers[:1]})
	if atA.Host != 11 || len(atA.Hosts) != 1 || len(atB.Hosts) != 1 {
		t.Fatalf("%v\n%v", atA, atB)
	}
	if !slices.Contains(atB.Hosts[0].Accept, atA.Hosts[0].Call) || !slices.Contains(atA.Hosts[0].Accept, atB.Hosts[0].Call) {
		t.Error("what one seals the other does not accept")
	}
	if !slices.Equal(atB.Hosts[0].Identities, []policy.Identity{5, 6}) || atA.Hosts[0].Addresses[0].String() != "10.0.0.2" {
		t.Errorf("%v\n%v", atA, atB)
	}
	if want := []datapath.Bearer{{Workload: "c1", Identity: 6, Cgroup: "/cg/pods/c1"}, {Workload: "host", Identity: 5, Cgroup: "/cg"}}; !slices.Equal(atA.Bearers, want) {
		t.Errorf("bearers %v", atA.Bearers)
	}

	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, func() {}) }()
	a.now.Add(7 * 86400)
	select {
	case next := <-a.states:
		if next.Hosts[0].Call == atA.Hosts[0].Call || !slices.Contains(atB.Hosts[0].Accept, next.Hosts[0].Call) {
			t.Error("next week's secret is this week's, or not accepted now")
		}
	case <-time.After(10 * time.Second):
		t.Error("the week has changed and the secrets have not")
	}
	stop()
	<-done
}

// A section of a controller that does not know of all this changes nothing.
func TestSectionWithoutHosts(t *testing.T) {
	a := newTelling(t, &wirepb.Workload{Id: "host", Kind: "host"})
	s := a.apply(t, &wirepb.IdentitySection{Bearers: []*wirepb.Bearer{{Workload: "host", Identity: 5}}, Hosts: []*wirepb.PeerHost{{Number: 22, CallerKey: a.key.Public()}}})
	if s.Host != 0 || len(s.Hosts) != 0 || len(s.Bearers) != 0 {
		t.Errorf("%v", s)
	}
}
