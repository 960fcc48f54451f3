package lab_test

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"weft/lab"
	"weft/lab/topology"
)

func xattr(t *testing.T, path, name string) string {
	t.Helper()
	buf := make([]byte, 1024)
	n, err := unix.Getxattr(path, name, buf)
	if err != nil {
		t.Fatalf("%s of %s: %v", name, path, err)
	}
	return string(buf[:n])
}

func TestContainers(t *testing.T) {
	need(t)
	l := up(t, `
  switches: [{name: lan}]
  hosts:
  - name: a
    attach: lan
    containers:
    - {name: web, labels: {tier: front, app: web}, publish: ["8080:80", "5353:53/udp"]}
    - {name: api}
  - {name: b, attach: lan}
`)
	a, b := l.Host("a"), l.Host("b")
	web, api := a.Container("web"), a.Container("api")
	aAddr := a.Addresses()[0].String()

	if got := xattr(t, web.CgroupDir(), "trusted.weft.labels"); got != "app=web,tier=front" {
		t.Errorf("labels: %q", got)
	}
	if got := xattr(t, web.CgroupDir(), "trusted.weft.name"); got != "web" {
		t.Errorf("name: %q", got)
	}
	var inside, process unix.Stat_t
	if err := unix.Stat(web.NetNS(), &inside); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", web.PID()), &process); err != nil || process.Ino != inside.Ino {
		t.Errorf("the container's process is not in its namespace: %v", err)
	}
	if got := sh(t, web, "hostname; ping -c1 -W2 api >/dev/null && echo sibling"); got != "web\nsibling" {
		t.Errorf("inside: %s", got)
	}

	t.Run("masquerade", func(t *testing.T) {
		from := listen(t, b, 9000)
		if err := dial(web, b.Addresses()[0].String()+":9000"); err != nil {
			t.Fatal(err)
		}
		if got := <-from; got != aAddr {
			t.Errorf("b sees %s, want the host's %s", got, aAddr)
		}
	})
	t.Run("published ports", func(t *testing.T) {
		from := listen(t, web, 80)
		for name, r := range map[string]lab.Runner{"neighbour": b, "host": a, "sibling": api} {
			if err := dial(r, aAddr+":8080"); err != nil {
				t.Errorf("from %s: %v", name, err)
				continue
			}
			<-from
		}
		if open(b, aAddr+":80") {
			t.Error("a port that is not published is open")
		}
		in, out := udp(t, web, 53), udp(t, b, 0)
		send(t, out, netip.MustParseAddrPort(aAddr+":5353"), "hello")
		if got, _ := receive(t, in, soon); got != "hello" {
			t.Errorf("UDP: %q", got)
		}
	})
	t.Run("added and removed", func(t *testing.T) {
		c, err := a.AddContainer(topology.Container{Name: "late", Labels: map[string]string{"app": "late"}, Publish: []topology.Publish{{HostPort: 8081, Port: 81, Protocol: "tcp"}}})
		if err != nil {
			t.Fatal(err)
		}
		from := listen(t, c, 81)
		if err := dial(b, aAddr+":8081"); err != nil {
			t.Fatal(err)
		}
		<-from
		sh(t, api, "ping -c1 -W2 late")
		dir := c.CgroupDir()
		if err := a.RemoveContainer("late"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Error("the cgroup is still there")
		}
		if _, err := os.Stat(c.NetNS()); err == nil {
			t.Error("the namespace is still there")
		}
		if a.Container("late") != nil {
			t.Error("the container is still there")
		}
		if _, err := a.AddContainer(topology.Container{Name: "Bad_Name"}); err == nil {
			t.Error("a bad name is taken")
		}
	})
}
