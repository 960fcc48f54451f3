package discover

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/wire/wirepb"
)

func TestMarkOfAPort(t *testing.T) {
	m, ok := parseMark("weft: name=web1 labels=app=web,env=prod addresses=192.0.2.5,2001:db8::5 forwards agent")
	if !ok || m.name != "web1" || !maps.Equal(m.labels, map[string]string{"app": "web", "env": "prod"}) || !m.forwards || !m.agent || len(m.faults) > 0 ||
		!slices.Equal(m.addresses, []string{"192.0.2.5", "2001:db8::5"}) {
		t.Errorf("%v %+v", ok, m)
	}
	for alias, faults := range map[string]int{"weft:name=x": 0, "weft:": 0, "weft: addresses=127.0.0.1,fe80::1,::ffff:192.0.2.1,192.0.2.0/24": 3, "weft: adresses=192.0.2.1": 1} {
		if m, ok := parseMark(alias); !ok || len(m.faults) != faults {
			t.Errorf("%q: %v %+v", alias, ok, m)
		}
	}
	for _, alias := range []string{"", "uplink", "weft", " weft: name=x"} {
		if _, ok := parseMark(alias); ok {
			t.Errorf("%q is a mark", alias)
		}
	}
}

func TestNameOfAGuest(t *testing.T) {
	for want, args := range map[string]string{
		"web": "qemu-system-x86_64 -name guest=web,debug-threads=on -S", "db": "qemu -m 1 -name db", "b": "qemu -name process=x,guest=b", "a,b": "qemu -name guest=a,,b",
		"i-1": "firecracker --id i-1 --api-sock /s", "i-2": "firecracker --id=i-2", "": "qemu -m 1 -name"} {
		if got := commandName(strings.Fields(args)); got != want {
			t.Errorf("%s: %q", args, got)
		}
	}
	if got := scopeName(`/machine.slice/machine-qemu\x2d12\x2dweb\x2d1.scope/libvirt/emulator`); got != "web-1" {
		t.Errorf("scope: %q", got)
	}
	for _, c := range []struct {
		scope, name string
		want        bool
	}{{"web1", "web_1", true}, {"web", "payroll", false}, {"web", "webshop", false}, {strings.Repeat("a", 64), strings.Repeat("a", 80), true}} {
		if got := sameMachine(c.scope, c.name); got != c.want {
			t.Errorf("%s %s: %v", c.scope, c.name, got)
		}
	}
}

// openTap makes a tap in the namespace of the calling thread, up.
func openTap(t *testing.T, name string) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), name)
}

// hypervisor starts a process that has a tap open and looks like QEMU, or like
// whatever program is.
func (m *machine) hypervisor(program string, tap *os.File, args ...string) *exec.Cmd {
	m.t.Helper()
	shell, err := os.ReadFile("/bin/sh")
	if err != nil {
		m.t.Fatal(err)
	}
	file := filepath.Join(m.t.TempDir(), program)
	if err := os.WriteFile(file, shell, 0o755); err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.Command(file, append([]string{"-c", "read x", program}, args...)...)
	cmd.ExtraFiles = []*os.File{tap}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { stdin.Close() })
	return m.begin(m.root, 0, cmd)
}

func TestGuestsAreHeardOf(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	m := newMachine(t)
	d := m.run(Config{})
	guest := func(id string) func([]*wirepb.Workload) bool {
		return func(ws []*wirepb.Workload) bool { return find(ws, id) >= 0 }
	}

	// A port that is marked: no hypervisor is needed.
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "port0"}, PeerName: "far0"}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	alias := func(name, text string) {
		t.Helper()
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetAlias(link, text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	alias("port0", "weft: name=db labels=app=db addresses=192.0.2.7")
	took := waitFor(t, d, heard, "marked port", guest("guest/db"))
	t.Logf("guest known after %s", took)
	if w := d.Workload("guest/db"); w.Kind != "guest" || w.Name != "db" || w.Cgroup != "" || !slices.Equal(w.Interfaces, []string{"port0"}) || !slices.Equal(w.Addresses, []string{"192.0.2.7"}) ||
		!maps.Equal(w.Labels, map[string]string{"app": "db", "guest.name": "db"}) {
		t.Errorf("marked port: %v", w)
	}
	alias("port0", "weft: name=db labels=app=db forwards")
	waitFor(t, d, heard, "another mark", func(ws []*wirepb.Workload) bool {
		i := find(ws, "guest/db")
		return i >= 0 && len(ws[i].Addresses) == 0 && ws[i].Labels["guest.forwards"] == "yes"
	})

	// Two ports of one hypervisor's process are one guest's.
	tap := openTap(t, "vnet0")
	qemu := m.hypervisor("qemu-system-x86_64", tap, "-name", "guest=web1,debug-threads=on")
	tap.Close()
	waitFor(t, d, heard, "a guest by its process", guest("guest/web1"))
	if w := d.Workload("guest/web1"); !slices.Equal(w.Interfaces, []string{"vnet0"}) || w.Labels["guest.name"] != "web1" {
		t.Errorf("by its process: %v", w)
	}
	// A second of that name is another guest.
	tap = openTap(t, "vnet1")
	m.hypervisor("qemu-kvm", tap, "-name", "web1")
	tap.Close()
	waitFor(t, d, heard, "a guest of a name that is taken", guest("guest/vnet1"))
	// Nor is one that calls itself by another's port.
	tap = openTap(t, "vnet2")
	m.hypervisor("qemu-kvm", tap, "-name", "vnet1")
	tap.Close()
	waitFor(t, d, heard, "a guest of a port's name", guest("guest/vnet2"))
	if w := d.Workload("guest/vnet1"); !slices.Equal(w.Interfaces, []string{"vnet1"}) {
		t.Errorf("joined by another: %v", w)
	}
	// One that is no hypervisor has no guest, until its port is marked.
	tap = openTap(t, "tap9")
	m.hypervisor("openvpn", tap)
	tap.Close()
	facts, _ := d.Snapshot()
	if !slices.ContainsFunc(facts.Interfaces, func(i *wirepb.Interface) bool { return i.Name == "port0" || i.Name == "vnet0" }) {
		t.Log("guests' ports are not the host's interfaces")
	} else {
		t.Errorf("the host says it has %v", facts.Interfaces)
	}
	alias("tap9", "weft:")
	waitFor(t, d, heard, "a port that is marked without a name", guest("guest/tap9"))
	if got := d.Workload("guest/web1"); got == nil {
		t.Error("the first guest is gone")
	}
	m.stop(qemu)
	waitFor(t, d, heard, "guest gone", func(ws []*wirepb.Workload) bool { return find(ws, "guest/web1") < 0 })
	alias("tap9", "weft: adresses=192.0.2.1")
	waitForCapability(t, d, "discover.guests", "adresses")
}

// A tap in another namespace that has the name of one here is not it.
func TestTapOfAnotherNamespace(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	m := newMachine(t)
	fake := openTapElsewhere(t, "vnet0")
	here := openTap(t, "vnet0") // ours, held by no hypervisor
	defer here.Close()
	m.hypervisor("qemu-system-x86_64", fake, "-name", "payroll")
	fake.Close()
	real := openTap(t, "vnet1")
	m.hypervisor("qemu-system-x86_64", real, "-name", "web")
	real.Close()
	d := m.run(Config{})
	waitFor(t, d, heard, "the other one", func(ws []*wirepb.Workload) bool { return find(ws, "guest/web") >= 0 })
	if w := d.Workload("guest/payroll"); w != nil {
		t.Errorf("found %v", w)
	}
}

func waitForCapability(t *testing.T, d *Discover, name, part string) {
	t.Helper()
	waitFor(t, d, heard, fmt.Sprintf("%s says %q", name, part), func([]*wirepb.Workload) bool {
		facts, _ := d.Snapshot()
		return strings.Contains(facts.Capabilities[name], part)
	})
}

// openTapElsewhere makes a tap in a namespace of its own, and is back in this one
// when it returns.
func openTapElsewhere(t *testing.T, name string) *os.File {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	tap := openTap(t, name)
	if err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	return tap
}
