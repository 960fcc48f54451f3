package bpf

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"weft/agent/datapath"
	"weft/agent/datapath/datapathtest"
	"weft/internal/testreq"
)

func TestMain(m *testing.M) { datapathtest.Main(m) }

// mountBPF mounts a BPF file system of the test's own.
func mountBPF(t testing.TB) string {
	t.Helper()
	testreq.Need(t, testreq.BPF, testreq.Cgroup2)
	dir := filepath.Join(t.TempDir(), "bpf")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "weft")
}

func TestConformance(t *testing.T) {
	pins := mountBPF(t)
	datapathtest.Run(t, datapathtest.Options{SeesSockets: true, Processes: true, Older: true}, func(t *testing.T, s *datapathtest.Site) datapath.Driver {
		d, err := Open(Config{CgroupRoot: s.Root, PinDir: pins}, Deps{})
		if err != nil {
			t.Fatal(err)
		}
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
