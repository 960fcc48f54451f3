package discover

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/internal/testreq"
	"weft/wire/wirepb"
)

// machine is a cgroup of this test's own that stands for a host's root.
type machine struct {
	t    *testing.T
	root string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	testreq.Need(t, testreq.Root, testreq.NetNS, testreq.Cgroup2)
	mount, err := findCgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, root: filepath.Join(mount, fmt.Sprintf("weft-test-%d-%d", os.Getpid(), time.Now().UnixNano()))}
	if err := os.Mkdir(m.root, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeTree(t, m.root) })
	return m
}

// inOwnNetwork runs the calling test again in a process with a network
// namespace of its own, so that no device is made on this machine. It returns
// true in that process.
func inOwnNetwork(t *testing.T) bool {
	t.Helper()
	testreq.Need(t, testreq.Root, testreq.NetNS, testreq.Cgroup2)
	if os.Getenv("WEFT_TEST_NETNS") == t.Name() {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), "WEFT_TEST_NETNS="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
	return false
}

func removeTree(t *testing.T, dir string) {
	for _, child := range children(dir) {
		removeTree(t, filepath.Join(dir, child))
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if err := os.Remove(dir); err == nil || os.IsNotExist(err) {
			return
		} else if time.Now().After(end) {
			t.Errorf("remove %s: %v", dir, err)
			return
		}
	}
}

// group makes a cgroup with attributes.
func (m *machine) group(rel, name, labels string) string {
	m.t.Helper()
	dir := filepath.Join(m.root, rel)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		m.t.Fatal(err)
	}
	for attr, value := range map[string]string{attrName: name, attrLabels: labels} {
		if value != "" {
			if err := unix.Setxattr(dir, attr, []byte(value), 0); err != nil {
				m.t.Fatal(err)
			}
		}
	}
	return dir
}

// start runs a process that sleeps in a cgroup, in a network namespace of its
// own where isolated.
func (m *machine) start(dir string, isolated bool) *exec.Cmd {
	m.t.Helper()
	var own uintptr
	if isolated {
		own = unix.CLONE_NEWNET
	}
	return m.begin(dir, own, exec.Command("sleep", "600"))
}

// begin starts a command in a cgroup, with namespaces of its own.
func (m *machine) begin(dir string, own uintptr, cmd *exec.Cmd) *exec.Cmd {
	m.t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd()), Pdeathsig: unix.SIGKILL, Cloneflags: own}
	if err := start(cmd); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { m.stop(cmd) })
	return cmd
}

var starts = sync.OnceValue(func() chan<- func() {
	c := make(chan func())
	go func() {
		runtime.LockOSThread() // and never ends
		for f := range c {
			f()
		}
	}()
	return c
})

// start starts a program on a thread that stays: Pdeathsig is sent when the thread
// ends that has started it, and threads that were in another namespace do.
func start(cmd *exec.Cmd) error {
	done := make(chan error)
	starts() <- func() { done <- cmd.Start() }
	return <-done
}

func (m *machine) stop(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// wire connects a process's namespace to ours by a veth pair.
func (m *machine) wire(cmd *exec.Cmd, ours, address string) {
	m.t.Helper()
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: ours}, PeerName: "eth0", PeerNamespace: netlink.NsPid(cmd.Process.Pid)}
	if err := netlink.LinkAdd(pair); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = netlink.LinkDel(pair) })
	f, err := os.Open("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/net")
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	err = inNamespace(int(f.Fd()), func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		return netlink.AddrAdd(link, addr)
	})
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) run(cfg Config) *Discover {
	m.t.Helper()
	cfg.CgroupRoot = m.root
	if cfg.MetadataURL == "" {
		cfg.MetadataURL = "-"
	}
	if cfg.DockerSockets == nil {
		cfg.DockerSockets = []string{"-"}
	}
	if cfg.ContainerdSocket == "" {
		cfg.ContainerdSocket = "-"
	}
	if cfg.LabelsDir == "" {
		cfg.LabelsDir = "-"
	}
	d, err := New(cfg, Deps{})
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, ready := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); d.Run(ctx, func() { close(ready) }) }()
	m.t.Cleanup(func() { cancel(); <-done })
	<-ready
	return d
}

// heard bounds the wait for what is heard of. On an idle machine it takes a
// moment; what is not heard is found by the next resync or the next refresh of an
// engine's list, both of which are far behind it.
const heard = 10 * time.Second

func waitFor(t *testing.T, d *Discover, within time.Duration, what string, ok func([]*wirepb.Workload) bool) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		changed := d.Changed()
		_, workloads := d.Snapshot()
		if ok(workloads) {
			return time.Since(began)
		}
		select {
		case <-changed:
		case <-time.After(time.Until(began.Add(within))):
			t.Fatalf("not within %s: %s; have %v", within, what, workloads)
		}
	}
}

func TestContainersAndUnitsAreHeardOf(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	m := newMachine(t)
	d := m.run(Config{Resync: time.Hour}) // nothing is found but by listening
	ours := fmt.Sprintf("wt%d", os.Getpid()%1_000_000)

	dir := m.group("containers/web", "web", "app=web,tier=front,bad key=x")
	web := m.start(dir, true)
	m.wire(web, ours, "10.99.0.2/24")
	took := waitFor(t, d, heard, "container with device and address", func(ws []*wirepb.Workload) bool {
		i := find(ws, "/containers/web")
		return i >= 0 && slices.Equal(ws[i].Interfaces, []string{ours}) && slices.Equal(ws[i].Addresses, []string{"10.99.0.2"})
	})
	t.Logf("container known after %s", took)
	w := d.Workload("/containers/web")
	if w.Kind != "container" || w.Name != "web" || w.Labels["app"] != "web" || w.Labels["tier"] != "front" || w.Labels["container.name"] != "web" || len(w.Labels) != 4 {
		t.Errorf("container: %v", w)
	}

	m.start(m.group("units/cron", "cron", "app=batch"), false)
	m.start(m.group("system.slice/nginx.service", "", ""), false)
	id := strings.Repeat("ab", 32)
	m.start(m.group("system.slice/docker-"+id+".scope", "", ""), true)
	m.start(m.group("plain", "", ""), false)
	m.group("empty", "empty", "")
	waitFor(t, d, heard, "units and a Docker container", func(ws []*wirepb.Workload) bool {
		return find(ws, "/units/cron") >= 0 && find(ws, "/system.slice/nginx.service") >= 0 && find(ws, id) >= 0
	})
	_, ws := d.Snapshot()
	if len(ws) != 5 { // with the host
		t.Errorf("found %v", ws)
	}
	if w := d.Workload("/units/cron"); w.Kind != "unit" || w.Labels["app"] != "batch" || w.Labels["unit.name"] != "cron" {
		t.Errorf("unit: %v", w)
	}
	if w := d.Workload(id); w.Kind != "container" || w.ContainerRuntime != "docker" || w.Name != id[:12] {
		t.Errorf("docker container: %v", w)
	}

	m.stop(web)
	waitFor(t, d, heard, "container gone", func(ws []*wirepb.Workload) bool { return find(ws, "/containers/web") < 0 })
}

// A runtime's child is in the container's cgroup before it has namespaces of its
// own: until then it is not on the host's network, though it seems to be.
func TestContainerThatStartsIsNotOnTheHostsNetwork(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	m := newMachine(t)
	for i, c := range []struct {
		what    string
		own     uintptr
		below   string // where in the container's cgroup
		network string
	}{
		{"starts", 0, "", ""},
		{"on the host's network", unix.CLONE_NEWNS, "", "host"},
		{"on the host's network, with cgroups of its own", unix.CLONE_NEWNS, "/init.scope", "host"},
		{"on its own network", unix.CLONE_NEWNS | unix.CLONE_NEWNET, "", ""},
	} {
		id := fmt.Sprintf("%064x", i)
		rel := "/system.slice/docker-" + id + ".scope"
		dir := m.group(rel+c.below, "", "")
		hold, release, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		// A shell and its child, who ends with the pipe.
		cmd := exec.Command("sh", "-c", "cat <&3 & wait")
		cmd.ExtraFiles = []*os.File{hold}
		m.begin(dir, c.own, cmd)
		var both []int
		for len(both) < 2 {
			both = pids(dir + "/cgroup.procs")
		}
		d, err := New(Config{CgroupRoot: m.root, LabelsDir: "-"}, Deps{})
		if err != nil {
			t.Fatal(err)
		}
		s := newScanner(d)
		_, ws := s.scan(true)
		if w := byID(ws, id); w.Kind != "container" || w.Labels["container.network"] != c.network {
			t.Errorf("%s: %v", c.what, w)
		}
		w := &walker{root: m.root, proc: s.proc, own: s.own}
		for _, pid := range both {
			if got, want := w.starting(rel, rel+c.below, pid), c.own == 0; got != want {
				t.Errorf("%s: process %d of %v starts: %v", c.what, pid, both, got)
			}
		}
		s.close()
		hold.Close()
		release.Close()
		m.stop(cmd)
	}
}
