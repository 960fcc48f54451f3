package discover

import (
	"cmp"
	"errors"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"weft/internal/cgroup"
	"weft/model"
)

// Extended attributes of a cgroup directory that name a workload. Only a
// process with CAP_SYS_ADMIN can write trusted.*, so no workload can forge them.
const (
	attrName   = "trusted.weft.name"
	attrLabels = "trusted.weft.labels"
)

// maxDepth and maxGroups bound a walk of the tree.
const (
	maxDepth  = 32
	maxGroups = 20_000
)

// group is a cgroup that is a workload.
type group struct {
	path    string // below the cgroup root, beginning with "/"
	kind    model.WorkloadKind
	id      string // the container's id where the path tells it
	runtime string
	name    string // as the attribute or the path says
	labels  map[string]string
	pid     int // one process in it
	netns   string
	foreign bool // its network namespace is not the agent's
	// starting containers have no network namespace to speak of yet.
	starting bool
}

// walker finds workloads in a cgroup tree.
type walker struct {
	root string
	proc string
	own  string // the agent's network namespace
	// known are cgroups that an engine says are containers.
	known map[string]bool
	seen  int
	out   []group
	dirs  []string // every directory, for the watches
}

// walk looks at one directory and below. It returns whether to go on.
func (w *walker) walk(rel string, depth int) {
	if depth > maxDepth || w.seen >= maxGroups {
		return
	}
	w.seen++
	w.dirs = append(w.dirs, rel)
	if rel != "/" { // what runs in the root itself is the host's
		if g, ok := w.group(rel); ok {
			w.out = append(w.out, g)
			if g.kind == model.WorkloadContainer {
				return // what is inside a container is its own affair
			}
		}
	}
	for _, child := range children(w.root + rel) {
		w.walk(path.Join(rel, child), depth+1)
	}
}

// group decides what a directory is. A runtime's name or an attribute makes it
// a workload whatever runs in it; else the network namespace of its processes
// does, or that it is a service.
func (w *walker) group(rel string) (group, bool) {
	g := group{path: rel, name: attribute(w.root+rel, attrName), labels: parseLabels(attribute(w.root+rel, attrLabels))}
	g.runtime, g.id = cgroup.Container(rel)
	known := w.known[rel]
	if name := cgroup.LXC(rel); name != "" {
		g.name, g.runtime, known = cmp.Or(g.name, name), "lxc", true
	}
	unit := cgroup.Unit(rel)
	whole := g.id != "" || g.name != "" || unit || known // the whole subtree is one workload
	var at string
	g.pid, g.netns, at = w.process(rel, whole, 0)
	if g.pid == 0 {
		return g, false // nothing runs here
	}
	container := g.id != "" || known
	if container && g.netns == w.own {
		g.starting = w.starting(rel, at, g.pid)
		if ns, err := os.Readlink(w.ns(g.pid, "net")); err == nil {
			g.netns = ns // it may have started between the two looks
		}
	}
	g.foreign = g.netns != "" && g.netns != w.own
	switch {
	case container:
		g.kind = model.WorkloadContainer
	case unit:
		g.kind = model.WorkloadUnit
	case g.foreign:
		g.kind = model.WorkloadContainer
	case g.name != "":
		g.kind = model.WorkloadUnit
	default:
		return g, false
	}
	return g, true
}

// maxPIDs bounds how many processes of one cgroup are looked at.
const maxPIDs = 8

// process finds one process of a cgroup, with preference for one outside the
// agent's network namespace. With deep it looks below too, and at is where it is.
func (w *walker) process(rel string, deep bool, depth int) (pid int, netns, at string) {
	for i, p := range pids(w.root + rel + "/cgroup.procs") {
		if i == maxPIDs {
			break
		}
		ns, err := os.Readlink(w.ns(p, "net"))
		if err != nil {
			continue // gone meanwhile
		}
		if pid == 0 || ns != w.own {
			pid, netns = p, ns
		}
		if ns != w.own {
			return pid, netns, rel
		}
	}
	if pid != 0 || !deep || depth > maxDepth {
		return pid, netns, rel
	}
	for _, child := range children(w.root + rel) {
		if _, id := cgroup.Container(path.Join(rel, child)); id != "" {
			continue // a container inside a unit, or in Podman's pod, which is named as one is
		}
		if pid, netns, at = w.process(path.Join(rel, child), deep, depth+1); pid != 0 {
			return pid, netns, at
		}
	}
	return 0, "", ""
}

func children(dir string) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	// The number of links of a cgroup's directory says nothing; the type in
	// each entry does, without a stat.
	entries, _ := f.ReadDir(-1)
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out
}

func pids(path string) []int {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil // removed, or a threaded cgroup
	}
	var out []int
	for line := range strings.Lines(string(data)) {
		if n, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && n > 0 {
			out = append(out, n) // 0: a process of another PID namespace
		}
	}
	return out
}

func attribute(dir, name string) string {
	b := make([]byte, 4096)
	n, err := unix.Getxattr(dir, name, b)
	if err != nil && !errors.Is(err, unix.ERANGE) || n <= 0 {
		return ""
	}
	return string(b[:n])
}

// parseLabels reads "app=web,tier=front"; what is no label is left out.
func parseLabels(text string) map[string]string {
	out := map[string]string{}
	for part := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if ok && model.CheckLabelKey(key) == nil && len(out) < maxLabels {
			out[key] = model.CleanLabelValue(value)
		}
	}
	return out
}

const maxLabels = 256
