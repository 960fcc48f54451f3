package discover

import (
	"cmp"
	"maps"
	"os"
	"slices"
	"time"

	"weft/model"
	"weft/wire/wirepb"
)

// refreshNet is how long what was found in a container's network namespace is
// believed while nothing was heard.
const refreshNet = 15 * time.Second

// scanner looks at the machine. It keeps what is dear to find out.
type scanner struct {
	d     *Discover
	proc  string
	own   string
	fixed *wirepb.HostFacts // what does not change while we run
	watch *treeWatch
	nets  map[string]netDetail // by namespace
	held  map[int]*holder      // by tap
	cost  time.Duration
	// faultSince is since when label files have been wrong, unix seconds.
	faultSince int64
}

type netDetail struct {
	read       time.Time
	addresses  []string
	interfaces []string // of the host, at which the container's packets pass
}

func newScanner(d *Discover) *scanner {
	s := &scanner{d: d, proc: "/proc", fixed: fixedFacts(), nets: map[string]netDetail{}}
	s.own, _ = os.Readlink(s.proc + "/self/ns/net")
	s.watch = newTreeWatch(d.cfg.CgroupRoot, d.hear)
	if err := s.watch.err; err != nil {
		d.say("discover.events", "no: "+err.Error()+"; looking every "+d.cfg.Resync.String()+" instead")
	}
	return s
}

func (s *scanner) close() { s.watch.close() }

// scan looks at everything. A resync, for which nothing was heard, believes
// what is known of namespaces for a while.
func (s *scanner) scan(resync bool) (*wirepb.HostFacts, []*wirepb.Workload) {
	w := &walker{root: s.d.cfg.CgroupRoot, proc: s.proc, own: s.own, known: s.d.engineCgroups()}
	w.walk("/", 0)
	s.watch.follow(w.dirs)

	links, err := readLinks()
	if err != nil {
		s.d.say("discover.interfaces", "no: "+err.Error())
	} else {
		s.d.say("discover.interfaces", "yes")
	}
	guests := s.guests(w, links) // first: their ports are not the host's own
	facts := s.facts(links)
	workloads := append([]*wirepb.Workload{hostWorkload(facts)}, guests...)
	used := map[string]bool{}
	for _, g := range w.out {
		wl := s.workload(g)
		if g.foreign {
			used[g.netns] = true
			detail := s.netDetail(g, links, resync)
			wl.Addresses, wl.Interfaces = detail.addresses, detail.interfaces
		}
		workloads = append(workloads, wl)
	}
	maps.DeleteFunc(s.nets, func(ns string, _ netDetail) bool { return !used[ns] })
	slices.SortFunc(workloads, func(a, b *wirepb.Workload) int { return cmp.Compare(a.Id, b.Id) })
	return facts, slices.CompactFunc(workloads, func(a, b *wirepb.Workload) bool { return a.Id == b.Id })
}

func (s *scanner) netDetail(g group, links *links, resync bool) netDetail {
	old, known := s.nets[g.netns]
	if known && (resync && time.Since(old.read) < refreshNet || time.Since(old.read) < 20*time.Millisecond) {
		return old
	}
	detail, err := links.inside(s.proc, g.pid)
	if err != nil {
		// Ending, or not ours to enter: keep what was known.
		s.d.log.Debug("look into network namespace", "pid", g.pid, "cgroup", g.path, "error", err)
		return old
	}
	detail.read = time.Now()
	s.nets[g.netns] = detail
	return detail
}

// hostWorkload is the machine itself: its packets pass at the uplinks.
func hostWorkload(f *wirepb.HostFacts) *wirepb.Workload {
	w := &wirepb.Workload{Id: "host", Kind: string(model.WorkloadHost), Labels: f.Labels, Cgroup: "/"}
	for _, i := range f.Interfaces {
		if i.Uplink {
			w.Interfaces = append(w.Interfaces, i.Name)
			w.Addresses = append(w.Addresses, withoutBits(i.Addresses)...)
		}
	}
	return w
}

// workload describes a cgroup with what the engines know of it.
func (s *scanner) workload(g group) *wirepb.Workload {
	w := &wirepb.Workload{Id: cmp.Or(g.id, g.path), Kind: string(g.kind), Cgroup: g.path, Labels: map[string]string{}}
	if g.kind == model.WorkloadUnit {
		w.Name = cmp.Or(g.name, baseName(g.path))
		w.Labels["unit.name"] = model.CleanLabelValue(w.Name)
		maps.Copy(w.Labels, g.labels)
		return w
	}
	c := s.d.engineContainer(g.id, g.path)
	w.ContainerId, w.ContainerImage = cmp.Or(g.id, c.id, g.path), c.image
	w.ContainerRuntime = cmp.Or(c.runtime, g.runtime, "cgroup")
	if c.runtime == "containerd" && g.runtime != "" {
		w.ContainerRuntime = g.runtime // Docker's run by way of containerd
	}
	short := ""
	if g.id != "" {
		short = g.id[:12]
	}
	w.ContainerName = cmp.Or(c.name, g.name, short, baseName(g.path))
	w.Name = w.ContainerName
	network := ""
	if !g.foreign && !g.starting {
		network = "host"
	}
	for k, v := range c.labels {
		if model.CheckLabelKey(k) == nil && len(w.Labels) < maxLabels {
			w.Labels[k] = model.CleanLabelValue(v)
		}
	}
	maps.Copy(w.Labels, g.labels)
	for k, v := range map[string]string{"container.name": w.ContainerName, "container.image": c.image, "container.id": cmp.Or(g.id, c.id), "container.network": network, "container.runtime": w.ContainerRuntime} {
		if v != "" {
			w.Labels[k] = model.CleanLabelValue(v)
		}
	}
	return w
}
