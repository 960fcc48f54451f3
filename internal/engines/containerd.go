package engines

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"weft/internal/testreq"
)

// Containerd is a containerd, driven with ctr.
type Containerd struct{ *Engine }

// NeedContainerd skips the test where there is no containerd. Debian's package
// starts a service, which is too much to ask of a developer's machine, so it is
// not among what "all" in WEFT_REQUIRE stands for: list it by name.
func NeedContainerd(t testing.TB) {
	t.Helper()
	if !slices.Contains(strings.Split(os.Getenv("WEFT_REQUIRE"), ","), "containerd") {
		if _, err := exec.LookPath("containerd"); err != nil {
			t.Skip("containerd is not installed: scripts/deps engines")
		}
	}
	testreq.Need(t, "containerd", "ctr", "runc", "busybox", "unshare", "nsenter")
}

// NewContainerd prepares a containerd without Kubernetes' part, and runs nothing.
func NewContainerd(t testing.TB) Containerd {
	t.Helper()
	e := newEngine(t, "containerd.sock")
	conf := e.write(t, "config.toml", fmt.Sprintf(`version = 2
root = "/run/containerd/root"
state = "/run/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = %q
`, e.Socket))
	e.serve = "exec containerd --log-level error --config " + conf
	return Containerd{e}
}

// Ctr runs a ctr command and returns what it prints.
func (c Containerd) Ctr(t testing.TB, args ...string) string {
	t.Helper()
	return output(t, c.inside(t, append([]string{"ctr", "--address", c.Socket}, args...)...))
}

// Import makes an image of BusyBox whose command sleeps.
func (c Containerd) Import(t testing.TB, name string) {
	t.Helper()
	c.Ctr(t, "image", "import", c.ociArchive(t, name))
}

// Start starts a container in the namespace "default". It has no shares of the
// CPU, for which there is no controller where cgroups of both versions are.
func (c Containerd) Start(t testing.TB, image, id string, flags ...string) {
	t.Helper()
	args := append([]string{"run", "--detach", "--null-io", "--cpu-shares", "0"}, flags...)
	c.Ctr(t, append(args, image, id)...)
}
