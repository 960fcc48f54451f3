package lab_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"weft/internal/testreq"
	"weft/lab"
	"weft/lab/netns"
)

// crashEnv makes the test program the owner of a lab that waits to be killed.
const crashEnv = "WEFT_LAB_TEST_CRASH"

func TestMain(m *testing.M) {
	if file := os.Getenv(crashEnv); file != "" {
		topo, err := lab.Load(file)
		if err == nil {
			var l *lab.Lab
			if l, err = lab.Up(context.Background(), topo, lab.Options{}); err == nil {
				fmt.Println(l.ID)
				select {}
			}
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func need(t *testing.T, more ...string) {
	t.Helper()
	testreq.Need(t, append([]string{testreq.Root, testreq.NetNS, testreq.Cgroup2}, more...)...)
}

// up brings a lab up from the spec of a topology and checks that it goes
// without a trace.
func up(t *testing.T, spec string) *lab.Lab {
	t.Helper()
	topo, err := lab.Parse("test.yaml", []byte("apiVersion: weft/v1\nkind: Topology\nmetadata: {name: test}\nspec:\n"+spec))
	if err != nil {
		t.Fatal(err)
	}
	return upTopology(t, topo)
}

func upTopology(t *testing.T, topo *lab.Topology) *lab.Lab {
	t.Helper()
	l, err := lab.Up(t.Context(), topo, lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Errorf("down: %v", err)
		}
		if left := lab.Leftovers(l.ID); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	})
	return l
}

// sh runs a shell command in a host or container and returns what it says.
func sh(t *testing.T, r lab.Runner, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := r.Command(ctx, "sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return strings.TrimSpace(string(out))
}

// udp opens a UDP socket in a namespace.
func udp(t *testing.T, r lab.Runner, port int) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	err := netns.Do(r.NetNS(), func() (err error) {
		c, err = net.ListenUDP("udp4", &net.UDPAddr{Port: port})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func send(t *testing.T, c *net.UDPConn, to netip.AddrPort, text string) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(text), to); err != nil {
		t.Fatal(err)
	}
}

// receive returns the next datagram and its sender, or "" after a while.
func receive(t *testing.T, c *net.UDPConn, wait time.Duration) (string, netip.AddrPort) {
	t.Helper()
	buf := make([]byte, 2048)
	c.SetReadDeadline(time.Now().Add(wait))
	n, from, err := c.ReadFromUDPAddrPort(buf)
	if err != nil {
		return "", from
	}
	return string(buf[:n]), from
}

const (
	soon  = 2 * time.Second        // for what must arrive
	never = 200 * time.Millisecond // for what must not
)

// dial connects by TCP from a namespace to an address.
func dial(r lab.Runner, to string) error { return dialFor(r, to, 5*time.Second) }

// open says whether TCP gets through, without waiting long for a no.
func open(r lab.Runner, to string) bool { return dialFor(r, to, 300*time.Millisecond) == nil }

func dialFor(r lab.Runner, to string, patience time.Duration) error {
	return netns.Do(r.NetNS(), func() error {
		c, err := net.DialTimeout("tcp4", to, patience)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// listen accepts TCP in a namespace and sends who each connection came from.
func listen(t *testing.T, r lab.Runner, port int) <-chan string {
	t.Helper()
	var l net.Listener
	err := netns.Do(r.NetNS(), func() (err error) {
		l, err = net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", port))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	from := make(chan string, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			from <- host
			c.Close()
		}
	}()
	return from
}

func TestHostsHaveNamesCgroupsAndDirectories(t *testing.T) {
	need(t)
	l := up(t, `
  switches: [{name: lan}]
  hosts:
  - {name: a, attach: lan, dns: [192.0.2.53]}
  - {name: b, attach: lan, names: [b.example.com], units: [{name: db, labels: {app: db}}]}
`)
	a, b := l.Host("a"), l.Host("b")
	if got := sh(t, a, "hostname; cat /etc/hostname; cat /etc/resolv.conf; getent hosts b.example.com | cut -d' ' -f1; ls /sys/class/net"); got !=
		"a\na\nnameserver 192.0.2.53\n"+b.Addresses()[0].String()+"\neth0\nlo" {
		t.Errorf("host a sees:\n%s", got)
	}
	if got := sh(t, a, "grep ^0:: /proc/self/cgroup"); got != "0::/weft-lab-"+l.ID+"/a" {
		t.Errorf("cgroup of a: %s", got)
	}
	ctx := t.Context()
	if out, err := b.UnitCommand(ctx, "db", "grep", "^0::", "/proc/self/cgroup").Output(); err != nil || strings.TrimSpace(string(out)) != "0::/weft-lab-"+l.ID+"/b/units/db" {
		t.Errorf("cgroup of unit: %s %v", out, err)
	}
	if got := xattr(t, b.UnitDir("db"), lab.AttrLabels); got != "app=db" {
		t.Errorf("labels of unit: %q", got)
	}
	if err := os.WriteFile(a.StateDir()+"/x", nil, 0o600); err != nil {
		t.Error(err)
	}
	if got := sh(t, a, "mkdir /sys/fs/bpf/pin && ls /sys/fs/bpf; ls -d "+lab.CgroupMountForTest(t)); !strings.Contains("\n"+got+"\n", "\npin\n") {
		t.Errorf("BPF file system: %s", got)
	}
	if _, err := os.Stat(a.BPFDir() + "/pin"); err != nil {
		t.Errorf("a pin is not seen from outside: %v", err)
	}
	if _, err := os.Stat(b.BPFDir() + "/pin"); err == nil {
		t.Error("a's pin is on b")
	}
	sh(t, a, "ping -c1 -W2 b")
}

func TestTwoLabsAtOnce(t *testing.T) {
	need(t)
	const spec = "  switches: [{name: lan, subnet: 10.9.0.0/24}]\n  hosts: [{name: a, attach: lan}, {name: b, attach: lan}]\n"
	one, two := up(t, spec), up(t, spec)
	if one.ID == two.ID {
		t.Fatal("both have one id")
	}
	sh(t, one.Host("a"), "ping -c1 -W2 b")
	if err := one.Down(); err != nil {
		t.Fatal(err)
	}
	if left := lab.Leftovers(one.ID); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	sh(t, two.Host("a"), "ping -c1 -W2 b")
}

func TestSweepAfterTheOwnerIsKilled(t *testing.T) {
	need(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	owner := exec.Command(self)
	owner.Env = append(os.Environ(), crashEnv+"=../examples/hybrid.yaml")
	owner.Stderr = os.Stderr
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	defer owner.Process.Kill()
	id, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	id = strings.TrimSpace(id)
	if _, err := lab.Sweep(); err != nil {
		t.Fatal(err)
	}
	other, err := lab.Open(id)
	if err != nil {
		t.Fatalf("a sweep took a living lab: %v", err)
	}
	// Something that runs there must not outlive the sweep.
	stray := other.Host("web-1").Command(t.Context(), "sleep", "600")
	if err := stray.Start(); err != nil {
		t.Fatal(err)
	}
	owner.Process.Kill()
	owner.Wait()
	if len(lab.Leftovers(id)) == 0 {
		t.Fatal("nothing is left after a kill, so this test shows nothing")
	}
	if _, err := lab.Sweep(); err != nil {
		t.Fatal(err)
	}
	stray.Wait()
	if left := lab.Leftovers(id); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestManyHosts(t *testing.T) {
	need(t)
	var b strings.Builder
	b.WriteString("  switches: [{name: lan}]\n  hosts:\n")
	for i := range 200 {
		fmt.Fprintf(&b, "  - {name: h%d, attach: lan}\n", i)
	}
	l := up(t, b.String())
	sh(t, l.Host("h0"), "ping -c1 -W2 h199")
}

func TestAnotherProcessChangesALab(t *testing.T) {
	need(t)
	topo, err := lab.Load("../examples/hybrid.yaml")
	if err != nil {
		t.Fatal(err)
	}
	l := upTopology(t, topo)
	other, err := lab.Open(l.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Find("web-3"); err == nil {
		t.Error("web-3 is there before it was started")
	}
	if err := other.StartHost("web-3"); err != nil {
		t.Fatal(err)
	}
	where, err := other.Find("web-3")
	if err != nil {
		t.Fatal(err)
	}
	sh(t, where, "ping -c1 -W2 controller")
	if err := other.Cut("web-3"); err != nil {
		t.Fatal(err)
	}
	if _, err := where.Command(t.Context(), "ping", "-c1", "-W1", "controller").Output(); err == nil {
		t.Error("a cut link carries")
	}
	if err := other.Heal("web-3"); err != nil {
		t.Fatal(err)
	}
	sh(t, where, "ping -c1 -W2 controller")
	if err := other.Down(); err == nil {
		t.Error("a lab goes down at the word of one who does not own it")
	}
}

// TestHybridExample walks the paths that the example is there for.
func TestHybridExample(t *testing.T) {
	need(t, "nft")
	topo, err := lab.Load("../examples/hybrid.yaml")
	if err != nil {
		t.Fatal(err)
	}
	l := upTopology(t, topo)
	controller, relay, www := l.Host("controller"), l.Host("relay"), l.Host("www")
	for port, h := range map[int]*lab.Host{7443: controller, 443: relay, 80: www} {
		from := listen(t, h, port)
		for _, name := range []string{"ids", "db", "web-1", "web-2", "app-1", "app-2"} {
			if err := dial(l.Host(name), addrPort(h, port).String()); err != nil {
				t.Errorf("%s to %s: %v", name, h.Name, err)
				continue
			}
			if got := <-from; strings.HasPrefix(got, "10.") {
				t.Errorf("%s sees %s by its inner address %s", h.Name, name, got)
			}
		}
	}
	web := l.Host("web-1")
	sh(t, web.Container("web-1a"), "ping -c1 -W2 web-1b && ping -c1 -W2 www.example.com")
	sh(t, l.Host("ids"), "ping -c1 -W2 db")
	udpWWW := udp(t, www, 53)
	for name, passes := range map[string]bool{"web-1": false, "app-1": false, "ids": true, "app-2": true} {
		send(t, udp(t, l.Host(name), 0), addrPort(www, 53), name)
		wait := soon
		if !passes {
			wait = never
		}
		if got, _ := receive(t, udpWWW, wait); (got == name) != passes {
			t.Errorf("UDP from %s: got %q, want it to pass: %v", name, got, passes)
		}
	}
	listen(t, l.Host("ids"), 22)
	for _, from := range []*lab.Host{www, web, l.Host("app-2")} {
		if open(from, addrPort(l.Host("ids"), 22).String()) {
			t.Errorf("%s reaches into the data centre", from.Name)
		}
	}
	if l.Host("ids").Labels()["role"] != "ids" || l.Host("web-2").Cloud().Tags["app"] != "web" {
		t.Error("labels or tags are missing")
	}
}
