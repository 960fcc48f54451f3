package monitor

import (
	"bytes"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/cgroup"
	"weft/model"
)

// maxWorkloads bounds how many are followed.
const maxWorkloads = 10_000

// workload is what is kept of a container or unit between samples.
type workload struct {
	model.WorkloadUse
	// Directories of its cgroups; empty where the kernel has no such tree.
	unified, cpu, memory, blocks string
	users                        int    // processes in it
	used                         uint64 // nanoseconds of processors
	read, written                uint64
	before                       bool
}

// trees are where control groups are mounted. Version 2 has one tree, version 1
// one for each controller; many machines have both.
type trees struct {
	unified, cpu, memory, blocks string
}

// findTrees looks where distributions mount them.
func findTrees(root string) (t trees) {
	is := func(dir string, magic int64) bool {
		var st unix.Statfs_t
		return unix.Statfs(dir, &st) == nil && int64(st.Type) == magic
	}
	for _, dir := range []string{root, root + "/unified"} {
		if is(dir, unix.CGROUP2_SUPER_MAGIC) {
			t.unified = dir
			break
		}
	}
	for name, to := range map[string]*string{"cpuacct": &t.cpu, "memory": &t.memory, "blkio": &t.blocks} {
		if dir := root + "/" + name; is(dir, unix.CGROUP_SUPER_MAGIC) {
			*to = dir
		}
	}
	return t
}

// workloads follows containers and units.
type workloads struct {
	in    *reader
	trees trees
	all   map[string]*workload // by cgroup, of the tree that told which it is
	roots map[string]int       // what root said of a path
	// name tells what others know of it by its cgroup; may be nil.
	name func(cgroup string) (id, name string, kind model.WorkloadKind)
	// looked is when roots were last forgotten: a cgroup may turn out to be a
	// workload when somebody tells its name.
	looked time.Time
}

// place finds the workload of a process by its /proc/PID/cgroup.
func (w *workloads) place(file []byte) *workload {
	var unified, named, memory, cpu, blocks []byte
	for b := file; len(b) > 0; {
		var l []byte
		l, b = line(b)
		i := bytes.IndexByte(l, ':')
		j := bytes.IndexByte(l[i+1:], ':')
		if i < 0 || j < 0 {
			continue
		}
		controllers, at := l[i+1:i+1+j], l[i+2+j:]
		for c := range bytes.SplitSeq(controllers, []byte(",")) {
			switch string(c) {
			case "":
				unified = at
			case "name=systemd":
				named = at
			case "memory":
				memory = at
			case "cpuacct":
				cpu = at
			case "blkio":
				blocks = at
			}
		}
	}
	for _, at := range [][]byte{unified, named, memory} {
		root := w.root(at)
		if root == 0 {
			continue
		}
		if found := w.all[string(at[:root])]; found != nil {
			return found
		}
		if len(w.all) >= maxWorkloads {
			return nil
		}
		return w.add(string(at[:root]), trees{w.below(w.trees.unified, unified), w.below(w.trees.cpu, cpu), w.below(w.trees.memory, memory), w.below(w.trees.blocks, blocks)})
	}
	return nil
}

// root is the length of the part of a path that names a workload: the innermost
// container, else the innermost unit; 0 for none.
func (w *workloads) root(at []byte) int {
	if len(at) < 2 || at[0] != '/' || bytes.Contains(at, []byte("/..")) { // out of this namespace's tree
		return 0
	}
	if _, known := w.all[string(at)]; known {
		return len(at)
	}
	if end, known := w.roots[string(at)]; known {
		return end
	}
	end := w.find(at)
	if len(w.roots) < maxWorkloads {
		w.roots[string(at)] = end
	}
	return end
}

func (w *workloads) find(at []byte) int {
	unit := 0
	for end := len(at); end > 1; end = bytes.LastIndexByte(at[:end], '/') {
		p := string(at[:end])
		if _, id := cgroup.Container(p); id != "" || cgroup.LXC(p) != "" {
			return end
		}
		if w.name != nil {
			if id, _, _ := w.name(p); id != "" {
				return end
			}
		}
		if unit == 0 && cgroup.Unit(p) {
			unit = end
		}
	}
	return unit
}

// below is the directory of a cgroup, cut to the workload where it is deeper.
func (w *workloads) below(tree string, at []byte) string {
	if tree == "" || len(at) == 0 {
		return ""
	}
	if end := w.root(at); end > 0 {
		at = at[:end]
	}
	if len(at) == 1 {
		return "" // the root is everybody's
	}
	return tree + string(at)
}

func (w *workloads) add(at string, dirs trees) *workload {
	x := &workload{unified: dirs.unified, cpu: dirs.cpu, memory: dirs.memory, blocks: dirs.blocks}
	x.ID, x.Name, x.Kind = at, path.Base(at), model.WorkloadUnit
	if _, id := cgroup.Container(at); id != "" {
		x.ID, x.Name, x.Kind = id, id[:12], model.WorkloadContainer
	} else if name := cgroup.LXC(at); name != "" {
		x.Name, x.Kind = name, model.WorkloadContainer
	}
	if w.name != nil {
		if id, name, kind := w.name(at); id != "" {
			x.ID, x.Name, x.Kind = id, name, kind
		}
	}
	w.all[at] = x
	return x
}

// sample fills in what workloads use; of those whose cgroup does not say, what
// their processes do.
func (w *workloads) sample(s *model.Sample, all map[int]*process) {
	if time.Since(w.looked) > forgetRoots {
		w.looked = time.Now()
		clear(w.roots)
	}
	for at, x := range w.all {
		if x.users <= 0 {
			delete(w.all, at)
			continue
		}
		if w.name != nil { // engines may tell a name late
			if id, name, kind := w.name(at); id != "" {
				x.ID, x.Name, x.Kind = id, name, kind
			}
		}
		x.Processes, x.CPU, x.Memory, x.ReadBytes, x.WriteBytes, x.Sent, x.Received = 0, 0, 0, 0, 0, 0, 0
	}
	for _, p := range all {
		if x := p.workload; x != nil {
			x.Processes++
			x.CPU += p.CPU
			x.Memory += p.Memory
			x.ReadBytes += p.ReadBytes
			x.WriteBytes += p.WriteBytes
			x.Sent += p.Sent
			x.Received += p.Received
		}
	}
	s.Workloads = s.Workloads[:0]
	for _, x := range w.all {
		w.read(x, s.Seconds)
		s.Workloads = append(s.Workloads, x.WorkloadUse)
	}
}

// forgetRoots is how long it is believed that a cgroup belongs to no workload.
const forgetRoots = 30 * time.Second

// noLimit is from where a limit of version 1 is none.
const noLimit = 1 << 60

func (w *workloads) read(x *workload, seconds float64) {
	var used, read, written uint64
	var cpu, blocks bool
	if x.unified != "" {
		if b, err := w.in.file(x.unified + "/cpu.stat"); err == nil {
			var micros uint64
			micros, cpu = field(b, "usage_usec")
			used = micros * 1000
		}
		if b, err := w.in.file(x.unified + "/memory.current"); err == nil {
			x.Memory, _ = number(b)
			if b, err = w.in.file(x.unified + "/memory.max"); err == nil {
				x.MemoryLimit, _ = number(b) // "max" is 0
			}
		}
		if b, err := w.in.file(x.unified + "/io.stat"); err == nil {
			read, written = parseIOStat(b)
			blocks = true
		}
	}
	if !cpu && x.cpu != "" {
		if b, err := w.in.file(x.cpu + "/cpuacct.usage"); err == nil {
			used, _ = number(b)
			cpu = true
		}
	}
	if x.memory != "" {
		if b, err := w.in.file(x.memory + "/memory.usage_in_bytes"); err == nil {
			x.Memory, _ = number(b)
			if b, err = w.in.file(x.memory + "/memory.limit_in_bytes"); err == nil {
				if x.MemoryLimit, _ = number(b); x.MemoryLimit >= noLimit {
					x.MemoryLimit = 0
				}
			}
		}
	}
	if !blocks && x.blocks != "" {
		if b, err := w.in.file(x.blocks + "/blkio.throttle.io_service_bytes"); err == nil {
			read, written = parseBlkio(b)
			blocks = true
		}
	}
	if cpu && x.before {
		x.CPU = rate(used, x.used, seconds) / 1e9 * 100
	}
	if blocks && x.before {
		x.ReadBytes, x.WriteBytes = rate(read, x.read, seconds), rate(written, x.written, seconds)
	}
	x.used, x.read, x.written, x.before = used, read, written, true
}

// parseIOStat adds up io.stat: "8:0 rbytes=1 wbytes=2 rios=3 …" for each disk.
func parseIOStat(b []byte) (read, written uint64) {
	for len(b) > 0 {
		var w []byte
		for len(b) > 0 && b[0] == '\n' {
			b = b[1:]
		}
		end := bytes.IndexAny(b, " \n")
		if end < 0 {
			end = len(b)
		}
		w, b = b[:end], b[end:]
		if len(b) > 0 {
			b = b[1:]
		}
		if v, ok := bytes.CutPrefix(w, []byte("rbytes=")); ok {
			n, _ := number(v)
			read += n
		} else if v, ok := bytes.CutPrefix(w, []byte("wbytes=")); ok {
			n, _ := number(v)
			written += n
		}
	}
	return read, written
}

// parseBlkio adds up blkio.throttle.io_service_bytes: "8:0 Read 1" for each disk.
func parseBlkio(b []byte) (read, written uint64) {
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		_, rest := word(l)
		kind, rest := word(rest)
		n, _ := number(rest)
		switch string(kind) {
		case "Read":
			read += n
		case "Write":
			written += n
		}
	}
	return read, written
}
