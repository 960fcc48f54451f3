package datapath_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"weft/agent/connection"
	"weft/agent/datapath"
	"weft/agent/datapath/bpf"
	"weft/agent/datapath/datapathtest"
	"weft/agent/datapath/nft"
	"weft/internal/testreq"
	"weft/lab/netns"
	"weft/model"
)

func TestMain(m *testing.M) { datapathtest.Main(m) }

// A machine changes from one driver to the other and back: open connections go
// on, and what is denied is denied at every instant.
func TestSwap(t *testing.T) {
	testreq.Need(t, testreq.Cgroup2)
	dir := testreq.BPFFS(t)
	s := datapathtest.NewSite(t)
	w := s.World(model.ModeEnforce, `
  subject: {selector: "*"}
  ingress: [{action: Allow, ports: [{protocol: TCP, port: 80}, {protocol: UDP, port: 53}]}]
  egress: [{action: Allow, to: [{entities: [fleet]}], ports: [{protocol: TCP, port: 80}, {protocol: TCP, port: 443}]}]`)
	open := map[string]func() (datapath.Driver, error){
		"bpf": func() (datapath.Driver, error) {
			return bpf.Open(bpf.Config{CgroupRoot: s.Root, PinDir: filepath.Join(dir, "weft")}, bpf.Deps{})
		},
		"nft": func() (datapath.Driver, error) { return nft.New(nft.Config{NetNS: s.Machine}), nil },
	}
	inMachine := func(f func() error) {
		t.Helper()
		if err := netns.Do(s.Machine, f); err != nil {
			t.Fatal(err)
		}
	}
	var now datapath.Driver
	inMachine(func() (err error) {
		if now, err = open["bpf"](); err == nil {
			err = now.Apply(t.Context(), w.State)
		}
		return err
	})
	// Some called from here, some called here; a datagram's answer is only allowed
	// because of its question.
	talks := map[string]func() datapathtest.Outcome{}
	for _, c := range [][2]string{{"c1", "c2"}, {"outside", "c2"}, {"outside", "machine"}, {"machine", "c1"}} {
		talks[c[0]+" -> "+c[1]] = s.Hold(t, c[0], c[1], "tcp", 80)
	}
	talks["outside -> machine udp"] = s.Hold(t, "outside", "machine", "udp", 53)
	stop := make(chan struct{})
	denied := make(chan string, 1)
	go func() { denied <- s.Probe(stop, "c1", "c2", "tcp", 443) }()
	for _, next := range []string{"nft", "bpf", "nft"} {
		inMachine(func() error {
			driver, err := open[next]()
			if err != nil {
				return err
			}
			if err := swap(t.Context(), now, driver, w.State); err != nil {
				return fmt.Errorf("to %s: %w", next, err)
			}
			now = driver
			return nil
		})
		for name, talk := range talks {
			if got := talk(); got != datapathtest.Allowed {
				t.Errorf("with %s, %s: %s", next, name, got)
			}
		}
	}
	time.Sleep(200 * time.Millisecond)
	close(stop)
	if got := <-denied; got != "" {
		t.Error(got)
	}
	inMachine(now.Remove)
}

// swap does what the reconciler does where it finds another driver's work.
func swap(ctx context.Context, old, next datapath.Driver, s *datapath.State) error {
	var list []connection.Line
	if err := old.Connections(func(c *connection.Line) bool { list = append(list, *c); return true }); err != nil {
		return err
	}
	if err := next.Adopt(s, list); err != nil {
		return err
	}
	if err := next.Apply(ctx, s); err != nil {
		return err
	}
	return old.Remove()
}
