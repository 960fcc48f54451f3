package engines

import (
	"fmt"
	"os/exec"
	"testing"
)

// Needs are the programs that a test with Podman names to testreq.Need.
var Needs = []string{"podman", "runc", "conmon", "busybox", "iptables", "unshare", "nsenter"}

// Podman is a Podman whose service is driven from outside.
type Podman struct{ *Engine }

// NewPodman prepares a Podman with bridges by netavark, and runs nothing. A
// service that ends is back after a second; its containers run on meanwhile.
//
// runc, cgroupfs and the limits are said for machines where Debian's defaults
// do not work: crun with both versions of cgroups, systemd where there is none.
func NewPodman(t testing.TB) Podman {
	t.Helper()
	e := newEngine(t, "podman.sock")
	conf := e.write(t, "containers.conf", `[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
pids_limit = 0
log_driver = "k8s-file"
[network]
network_backend = "netavark"
network_config_dir = "/run/networks"
`)
	storage := e.write(t, "storage.conf", "[storage]\ndriver = \"overlay\"\nrunroot = \"/run/storage\"\ngraphroot = \"/run/images\"\n")
	e.serve = fmt.Sprintf("export CONTAINERS_CONF=%s CONTAINERS_STORAGE_CONF=%s\n"+
		"while :; do podman --log-level error --tmpdir /run/libpod system service --time 0 unix://%s; sleep 1; done", conf, storage, e.Socket)
	return Podman{e}
}

// Command prepares a podman command that the service carries out.
func (p Podman) Command(args ...string) *exec.Cmd {
	return exec.Command("podman", append([]string{"--remote", "--url", "unix://" + p.Socket}, args...)...)
}

// Run carries out a podman command and returns what it prints: of "run -d" the id.
func (p Podman) Run(t testing.TB, args ...string) string {
	t.Helper()
	return output(t, p.Command(args...))
}

// Try is Run for commands that may fail, and for use outside the test's goroutine.
func (p Podman) Try(args ...string) (string, error) { return try(p.Command(args...)) }

// Import makes an image of BusyBox, localhost/NAME.
func (p Podman) Import(t testing.TB, name string) {
	t.Helper()
	cmd := p.Command("import", "-", name)
	cmd.Stdin = rootFS(t)
	output(t, cmd)
}
