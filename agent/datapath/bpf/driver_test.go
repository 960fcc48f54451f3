package bpf

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"weft/agent/datapath"
	"weft/agent/datapath/datapathtest"
	"weft/internal/testreq"
	"weft/model"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(trafficEnv); what != "" {
		os.Exit(say(what))
	}
	datapathtest.Main(m)
}

// mountBPF returns a directory for pins, on a BPF file system of the test's own.
func mountBPF(t testing.TB) string {
	t.Helper()
	testreq.Need(t, testreq.Cgroup2)
	return filepath.Join(testreq.BPFFS(t), "weft")
}

func TestConformance(t *testing.T) {
	pins := mountBPF(t)
	var driver *Driver
	names := filepath.Join(t.TempDir(), "names.json")
	options := datapathtest.Options{SeesSockets: true, Processes: true, Older: true, Rejects: true, Pings: true, Names: true, Accounts: true, Tamper: func(t *testing.T, n int) bool { return tamper(t, driver, n) }}
	datapathtest.Run(t, options, func(t *testing.T, s *datapathtest.Site) datapath.Driver {
		d, err := Open(Config{CgroupRoot: s.Root, PinDir: pins, NamesFile: names}, Deps{})
		if err != nil {
			t.Fatal(err)
		}
		driver = d
		return inMachine{d, s}
	})
}

// inMachine is the driver as an agent has it: in the machine's namespace.
type inMachine struct {
	*Driver
	site *datapathtest.Site
}

func (d inMachine) Apply(ctx context.Context, s *datapath.State) error {
	return inNamespace(d.site.Machine, func() error { return d.Driver.Apply(ctx, s) })
}

func (d inMachine) Verify(deep bool) (found []string, err error) {
	err = inNamespace(d.site.Machine, func() (err error) {
		found, err = d.Driver.Verify(deep)
		return err
	})
	return found, err
}

func (d inMachine) Remove() error { return inNamespace(d.site.Machine, d.Driver.Remove) }

// tamper does what somebody with root's rights could do.
func tamper(t *testing.T, d *Driver, n int) bool {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	switch n {
	case 0:
		l, err := link.LoadPinnedLink(d.pin("links/egress"), nil)
		must(err)
		must(l.Detach())
		must(l.Close())
	case 1:
		must(os.Remove(d.pin("links/ingress")))
	case 2: // a judge that lets everything pass
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetEgress, License: "MIT",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}})
		must(err)
		must(d.links["egress"].Update(p))
		must(p.Close())
	case 3:
		for k := range d.cgroups.have {
			must(d.objects.Cgroups.Delete(k))
		}
	case 4: // deny made allow
		for k, v := range d.steps.have {
			v.Action = actionNumbers[model.ActionAllow]
			must(d.steps.kernel.Put(k, v))
		}
	case 5:
		must(d.objects.Control.Put(uint32(0), policyControl{Revision: 99}))
	case 6:
		names, err := filepath.Glob(d.pin("links/edge*"))
		must(err)
		for _, name := range names {
			must(os.Remove(name))
		}
	case 7: // other rules in the place of ours
		m, err := d.steps.stand.make(leastRoom)
		must(err)
		must(d.objects.Steps.Put(uint32(0), m))
		must(m.Close())
	default:
		return false
	}
	return true
}

// A table with no room judges packet by packet, lets through no more than before,
// and says so.
func TestFullTable(t *testing.T) {
	pins := mountBPF(t)
	s := datapathtest.NewSite(t)
	d, err := Open(Config{CgroupRoot: s.Root, PinDir: pins, Connections: 2}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Remove()
	w := s.World(model.ModeEnforce, `
  subject: {selector: "app in (web,db)"}
  egress: [{action: Allow, ports: [{protocol: TCP, port: 80}]}]
  ingress: [{action: Allow, ports: [{protocol: TCP, port: 80}]}]`)
	if err := (inMachine{d, s}).Apply(t.Context(), w.State); err != nil {
		t.Fatal(err)
	}
	var talks []func() datapathtest.Outcome
	for range 10 {
		talks = append(talks, s.Hold(t, "c1", "c2", "tcp", 80))
	}
	for i, talk := range talks {
		if got := talk(); got != datapathtest.Allowed {
			t.Errorf("connection %d: %s", i, got)
		}
	}
	stop := make(chan struct{})
	time.AfterFunc(time.Second, func() { close(stop) })
	if got := s.Probe(stop, "c1", "c2", "tcp", 443); got != "" {
		t.Error(got)
	}
	troubles, err := d.Troubles()
	if err != nil {
		t.Fatal(err)
	}
	if len(troubles) != 1 {
		t.Errorf("it says %v", troubles)
	}
	for what, n := range troubles {
		t.Logf("%s: %d", what, n)
	}
}

// Who may open raw sockets can make a line that looks like a call to it. A call of
// its own is no part of that: it is judged as what it is.
func TestALineIsNotForCallsTheOtherWay(t *testing.T) {
	pins := mountBPF(t)
	s := datapathtest.NewSite(t)
	d, err := Open(Config{CgroupRoot: s.Root, PinDir: pins}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Remove()
	w := s.World(model.ModeEnforce, `
  subject: {selector: "app in (web,db)"}
  egress: [{action: Allow, ports: [{protocol: TCP, port: 80}]}]
  ingress: [{action: Allow}]`)
	if err := (inMachine{d, s}).Apply(t.Context(), w.State); err != nil {
		t.Fatal(err)
	}
	if got := s.Sneak(t, "c1", "outside", 443); got != datapathtest.Denied {
		t.Errorf("a call that no rule allows, after a segment that looks like an answer: %s", got)
	}
	if got := s.Sneak(t, "c1", "outside", 80); got != datapathtest.Allowed {
		t.Errorf("a call that a rule allows: %s", got)
	}
}

// A driver of another layout takes the place of one: both judge until the new one
// does, and then nothing of the old one is left.
func TestAnotherLayout(t *testing.T) {
	pins := mountBPF(t)
	s := datapathtest.NewSite(t)
	open := func() *Driver {
		t.Helper()
		d, err := Open(Config{CgroupRoot: s.Root, PinDir: pins}, Deps{})
		if err != nil {
			t.Fatal(err)
		}
		w := s.World(model.ModeEnforce, `
  subject: {selector: "app in (web,db)"}
  ingress: [{action: Allow, ports: [{protocol: TCP, port: 80}]}]
  egress: [{action: Allow, ports: [{protocol: TCP, port: 80}]}]`)
		if err := (inMachine{d, s}).Apply(t.Context(), w.State); err != nil {
			t.Fatal(err)
		}
		return d
	}
	old := open()
	talk := s.Hold(t, "c1", "c2", "tcp", 80)
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(pins, layout), filepath.Join(pins, "policy-v0")); err != nil {
		t.Fatal(err)
	}
	d := open()
	defer d.Remove()
	if left, err := filepath.Glob(filepath.Join(pins, "policy-v0*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
	if got := talk(); got != datapathtest.Allowed {
		t.Errorf("the open connection: %s", got)
	}
	stop := make(chan struct{})
	time.AfterFunc(500*time.Millisecond, func() { close(stop) })
	if got := s.Probe(stop, "c1", "c2", "tcp", 443); got != "" {
		t.Error(got)
	}
}
