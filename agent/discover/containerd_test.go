package discover

import (
	"strings"
	"testing"
	"time"

	"weft/internal/engines"
	"weft/internal/testreq"
	"weft/wire/wirepb"
)

func TestRealContainerd(t *testing.T) {
	engines.NeedContainerd(t)
	if !inOwnNetwork(t) {
		return
	}
	m := newMachine(t)
	c := engines.NewContainerd(t)
	m.engine(c.Engine)
	c.Import(t, "docker.io/library/web:1")
	d := m.run(Config{Resync: time.Hour, ContainerdSocket: c.Socket})
	waitCapability(t, d, "discover.containerd", "yes")
	known := func(id, network string) *wirepb.Workload {
		t.Helper()
		took := waitFor(t, d, heard, id, func(ws []*wirepb.Workload) bool {
			w := byID(ws, id)
			return w.ContainerImage != "" && w.Labels["container.network"] == network
		})
		t.Logf("%.20s known %s after ctr returned", id, took.Round(time.Millisecond))
		return d.Workload(id)
	}

	// ctr makes no network: there is loopback only.
	hex := strings.Repeat("ab", 32)
	c.Start(t, "docker.io/library/web:1", hex, "--label", "app=web")
	w := known(hex, "")
	if w.Kind != "container" || w.ContainerImage != "docker.io/library/web:1" || w.ContainerRuntime != "containerd" || w.Labels["app"] != "web" ||
		w.Name != hex[:12] || len(w.Addresses)+len(w.Interfaces) != 0 {
		t.Errorf("container: %v", w)
	}
	// A name of the user's choice: the engine says which cgroup it is.
	c.Start(t, "docker.io/library/web:1", "shop", "--label", "app=shop")
	w = known("/default/shop", "")
	if w.Kind != "container" || w.Name != "shop" || w.ContainerId != "shop" || w.Labels["app"] != "shop" || w.ContainerRuntime != "containerd" || w.Labels["container.id"] != "shop" {
		t.Errorf("container with a name: %v", w)
	}
	c.Start(t, "docker.io/library/web:1", "outside", "--net-host")
	if w = known("/default/outside", "host"); w.Kind != "container" || len(w.Interfaces) != 0 {
		t.Errorf("container with the host's network: %v", w)
	}
	c.Ctr(t, "container", "label", "outside", "tier=edge")
	waitFor(t, d, heard, "new label", func(ws []*wirepb.Workload) bool { return byID(ws, "/default/outside").Labels["tier"] == "edge" })
	time.Sleep(1500 * time.Millisecond) // nothing is due to be asked now: only an event can tell
	c.Start(t, "docker.io/library/web:1", "later", "--net-host", "--label", "app=later")
	if w = known("/default/later", "host"); w.Labels["app"] != "later" {
		t.Errorf("container that starts later: %v", w)
	}
	c.Ctr(t, "task", "kill", "--signal", "KILL", "shop")
	waitFor(t, d, heard, "killed container gone", func(ws []*wirepb.Workload) bool { return find(ws, "/default/shop") < 0 })
}

func TestRealRunC(t *testing.T) {
	testreq.Need(t, engines.Needs...)
	if !inOwnNetwork(t) {
		return
	}
	m := newMachine(t)
	p := engines.NewPodman(t) // for its namespaces only: runc has no engine
	m.engine(p.Engine)
	d := m.run(Config{Resync: time.Hour})
	for id, cgroup := range map[string]string{"bare": "", "deep": "/batch/jobs/deep"} {
		p.RunC(t, id, cgroup)
		path := "/" + id
		if cgroup != "" {
			path = cgroup
		}
		took := waitFor(t, d, heard, id, func(ws []*wirepb.Workload) bool { return byID(ws, path).Kind == "container" })
		if w := d.Workload(path); w.Name != id || w.ContainerRuntime != "cgroup" || w.ContainerId != path || len(w.Addresses)+len(w.Interfaces) != 0 {
			t.Errorf("container: %v", w)
		}
		t.Logf("%s known %s after runc returned", id, took.Round(time.Millisecond))
	}
}
