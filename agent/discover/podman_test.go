package discover

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/internal/engines"
	"weft/internal/testreq"
	"weft/wire/wirepb"
)

// engine runs an engine on the machine, in this process's network namespace.
func (m *machine) engine(e *engines.Engine) {
	m.t.Helper()
	root, err := os.Open(m.root)
	if err != nil {
		m.t.Fatal(err)
	}
	defer root.Close()
	argv := e.Argv()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(root.Fd()), Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { m.stop(cmd) })
	e.Wait(m.t)
}

func byID(ws []*wirepb.Workload, id string) *wirepb.Workload {
	if i := find(ws, id); i >= 0 {
		return ws[i]
	}
	return &wirepb.Workload{}
}

func waitCapability(t *testing.T, d *Discover, name, prefix string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		facts, _ := d.Snapshot()
		if strings.HasPrefix(facts.Capabilities[name], prefix) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("capability %s is %q, want %q", name, facts.Capabilities[name], prefix)
		}
	}
}

func TestPodman(t *testing.T) {
	testreq.Need(t, engines.Needs...)
	if !inOwnNetwork(t) {
		return
	}
	m := newMachine(t)
	p := engines.NewPodman(t)
	m.engine(p.Engine)
	p.Import(t, "web:1")
	d := m.run(Config{Resync: time.Hour, DockerSockets: []string{p.Socket}}) // nothing is found but by listening
	waitCapability(t, d, "discover.podman", "yes")

	run := func(args ...string) string {
		t.Helper()
		return p.Run(t, slices.Concat([]string{"run", "--detach"}, args, []string{"localhost/web:1", "sleep", "1000"})...)
	}
	known := func(what, id string, ok func(w *wirepb.Workload) bool) *wirepb.Workload {
		t.Helper()
		took := waitFor(t, d, heard, what, func(ws []*wirepb.Workload) bool { w := byID(ws, id); return w.Name != "" && ok(w) })
		t.Logf("%s: known %s after podman returned", what, took.Round(time.Millisecond))
		return d.Workload(id)
	}
	whole := func(w *wirepb.Workload) bool {
		return len(w.Addresses) == 1 && len(w.Interfaces) == 1 && w.ContainerImage != ""
	}

	id := run("--name", "web", "--label", "app=web", "--publish", "8080:80")
	w := known("bridged container", id, whole)
	if w.Kind != "container" || w.Name != "web" || w.ContainerName != "web" || w.ContainerId != id || w.ContainerImage != "localhost/web:1" ||
		w.ContainerRuntime != "podman" || w.Labels["app"] != "web" || !strings.HasPrefix(w.Addresses[0], "10.88.") || w.Cgroup != "/libpod_parent/libpod-"+id {
		t.Errorf("workload: %v", w)
	}
	if link, err := netlink.LinkByName(w.Interfaces[0]); err != nil || link.Type() != "veth" || link.Attrs().MasterIndex == 0 {
		t.Errorf("%s is no port of a bridge: %v, %v", w.Interfaces[0], link, err)
	}
	p.Run(t, "rename", "web", "shop")
	known("renamed container", id, func(w *wirepb.Workload) bool { return w.Name == "shop" && w.Labels["container.name"] == "shop" })
	p.Run(t, "rename", "shop", "web")

	p.Run(t, "rm", "--force", "--time", "0", "web")
	gone := waitFor(t, d, heard, "container gone", func(ws []*wirepb.Workload) bool { return find(ws, id) < 0 })
	t.Logf("gone %s after podman returned", gone.Round(time.Millisecond))
	again := run("--name", "web", "--label", "app=web")
	if again == id {
		t.Fatal("the same id")
	}
	known("container of the same name", again, whole)

	host := known("container with the host's network", run("--network", "host"), func(w *wirepb.Workload) bool {
		return w.ContainerImage != "" && w.Labels["container.network"] == "host"
	})
	if len(host.Interfaces)+len(host.Addresses) != 0 || host.Kind != "container" {
		t.Errorf("container with the host's network: %v", host)
	}
	none := known("container without a network", run("--network", "none"), func(w *wirepb.Workload) bool { return w.ContainerImage != "" })
	if len(none.Interfaces)+len(none.Addresses) != 0 || none.Labels["container.network"] != "" {
		t.Errorf("container without a network: %v", none)
	}

	// A pod has one network namespace; its members say so by the same device.
	p.Run(t, "pod", "create", "--name", "shop", "--share-parent=false", "--infra-image", "localhost/web:1", "--infra-command", "/bin/sleep 1000")
	one, two := known("first of a pod", run("--pod", "shop", "--label", "app=one"), whole), known("second of a pod", run("--pod", "shop"), whole)
	if !slices.Equal(one.Interfaces, two.Interfaces) || !slices.Equal(one.Addresses, two.Addresses) || one.Labels["app"] != "one" || two.Labels["app"] != "" {
		t.Errorf("pod: %v and %v", one, two)
	}

	// The service ends, its containers run on, and so does all that is known of them.
	before := d.Workload(again)
	if err := syscall.Kill(p.PID(t), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitCapability(t, d, "discover.podman", "no: ")
	if w := d.Workload(again); w == nil || w.Name != before.Name || w.Labels["app"] != "web" {
		t.Errorf("without the service the container is %v", w)
	}
	waitCapability(t, d, "discover.podman", "yes")
	known("container after the service came back", run("--name", "late"), whole)
}

func TestTwentyPodmanContainersAtOnce(t *testing.T) {
	testreq.Need(t, engines.Needs...)
	if !inOwnNetwork(t) {
		return
	}
	m := newMachine(t)
	p := engines.NewPodman(t)
	m.engine(p.Engine)
	p.Import(t, "web:1")
	d := m.run(Config{Resync: time.Hour, DockerSockets: []string{p.Socket}})
	ids := many(t, p, 20)
	took := waitFor(t, d, heard, "all twenty", func(ws []*wirepb.Workload) bool {
		return !slices.ContainsFunc(ids, func(id string) bool {
			w := byID(ws, id)
			return len(w.Interfaces) != 1 || len(w.Addresses) != 1 || w.Labels["app"] != "web"
		})
	})
	t.Logf("all known %s after the last was started", took.Round(time.Millisecond))
}

// many starts containers, as many at once as the engine does.
func many(t testing.TB, p engines.Podman, n int) []string {
	t.Helper()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = p.Run(t, "create", "--name", fmt.Sprintf("web-%d", i), "--label", "app=web", "localhost/web:1", "sleep", "1000")
	}
	failed := make(chan error, n)
	for _, id := range ids {
		go func() { _, err := p.Try("start", id); failed <- err }()
	}
	for range ids {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	return ids
}
