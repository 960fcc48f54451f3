package bpf

import (
	"testing"
	"time"

	"weft/agent/datapath/datapathtest"
	"weft/model"
)

func TestRoomFor(t *testing.T) {
	for n, want := range map[int]uint32{0: leastRoom, 1: leastRoom, leastRoom: leastRoom, leastRoom + 1: 2 * leastRoom, 3_000_000: 1 << 22, 1 << 22: 1 << 22} {
		if got := roomFor(n); got != want {
			t.Errorf("%d for %d entries, want %d", got, n, want)
		}
	}
}

// A map that stands in another takes as much as it needs, keeps what it held when it
// is exchanged, and is found again by the next driver.
func TestMapsAreExchanged(t *testing.T) {
	pins := mountBPF(t)
	s := datapathtest.NewSite(t)
	open := func() *Driver {
		t.Helper()
		d, err := Open(Config{CgroupRoot: s.Root, PinDir: pins}, Deps{})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := open()
	holds := func(n int, room uint32) {
		t.Helper()
		now, err := d.steps.read()
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range now {
			if v.Rule != uint64(k) {
				t.Fatalf("step %d is %+v", k, v)
			}
		}
		if len(now) != n || len(d.steps.have) != n || d.steps.kernel.MaxEntries() != room {
			t.Errorf("%d entries, %d known, room for %d; want %d and %d", len(now), len(d.steps.have), d.steps.kernel.MaxEntries(), n, room)
		}
	}
	fill := func(from, to uint32) {
		t.Helper()
		for k := from; k < to; k++ {
			d.steps.set(k, policyStep{Rule: uint64(k)})
		}
		if err := d.steps.write(); err != nil {
			t.Fatal(err)
		}
	}
	holds(0, leastRoom)
	fill(0, 1000)
	holds(1000, leastRoom)
	fill(1000, 100_000)
	holds(100_000, 1<<17)
	for k, v := range d.steps.have { // as what somebody has changed is put back
		d.steps.add(k, v)
	}
	if err := d.steps.write(); err != nil {
		t.Fatal(err)
	}
	holds(100_000, 1<<17)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open()
	defer d.Remove()
	holds(100_000, 1<<17)
	for k := range uint32(99_000) {
		d.steps.unset(k)
	}
	if err := d.steps.erase(); err != nil {
		t.Fatal(err)
	}
	holds(1000, leastRoom)
	for k := range uint32(d.steps.stand.most) {
		d.steps.add(1<<30+k, policyStep{})
	}
	if err := d.steps.write(); err == nil {
		t.Error("more than may be fits")
	}
	holds(1000, leastRoom)
}

// While maps are exchanged verdicts stay what they are.
func TestVerdictsWhileMapsAreExchanged(t *testing.T) {
	d, _ := unapplied(t)
	w := d.site.World(model.ModeEnforce, `
  subject: {selector: "app in (web,db)"}
  egress: [{action: Allow, ports: [{protocol: TCP, port: 80}]}]
  ingress: [{action: Allow, ports: [{protocol: TCP, port: 80}]}]`)
	if err := d.Apply(t.Context(), w.State); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { done <- n }()
		for before := d.steps.stand.now; ; {
			select {
			case <-stop:
				return
			default:
			}
			for k := range uint32(20 * leastRoom) {
				d.steps.set(1<<30+k, policyStep{})
				d.steps.unset(1<<30 + k)
			}
			if err := d.steps.write(); err != nil {
				t.Error(err)
				return
			}
			if err := d.steps.erase(); err != nil {
				t.Error(err)
				return
			}
			if before != d.steps.stand.now {
				before, n = d.steps.stand.now, n+1
			}
		}
	}()
	for range 100 {
		d.site.Hold(t, "c1", "c2", "tcp", 80)
	}
	denials := make(chan struct{})
	time.AfterFunc(time.Second, func() { close(denials) })
	if got := d.site.Probe(denials, "c1", "c2", "tcp", 443); got != "" {
		t.Error(got)
	}
	close(stop)
	if n := <-done; n < 10 {
		t.Errorf("the map was exchanged %d times", n)
	}
}
