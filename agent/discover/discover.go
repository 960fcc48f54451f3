// Package discover finds what is on this machine: facts of the host, labels
// from the user and the cloud, and the workloads: containers and units, by
// walking the cgroup tree below a root. It reads; it changes nothing.
//
// A change is noticed by inotify on the cgroup tree, by netlink and by the
// engines' event streams; a slow resync catches what none of them tells. Only
// the processes below the cgroup root count, so that several agents on one
// machine (a lab's hosts) see each its own.
package discover

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"weft/wire/wirepb"
)

// Config of a Discover. Empty fields take the defaults that are named.
type Config struct {
	// CgroupRoot is a directory of a cgroup2 tree; where it is mounted unless given.
	CgroupRoot string
	// MetadataURL is where clouds answer: "http://169.254.169.254"; "-" asks none.
	MetadataURL string
	// Labels are the user's, from the agent's configuration.
	Labels map[string]string
	// LabelsDir holds files of further labels, "key=value" lines, read in the
	// order of their names, over Labels; /etc/weft/labels.d. "-" reads none.
	LabelsDir string
	// DockerSockets are asked in the Docker API: Docker's and Podman's.
	// ContainerdSocket is containerd's. "-" asks none.
	DockerSockets    []string
	ContainerdSocket string
	// Capabilities are what else this host can and cannot do, beside what is
	// found here: "yes", "no: REASON" or "unknown: REASON" by name.
	Capabilities map[string]string
	// Resync is how often everything is looked at though nothing was heard; 5 s.
	Resync time.Duration
}

// Deps of a Discover.
type Deps struct {
	Log *slog.Logger
}

// Discover watches the machine.
type Discover struct {
	cfg  Config
	log  *slog.Logger
	poke chan struct{} // something may have changed; holds one

	parts  parts
	timing timing // of engines
	first  voices

	complete chan struct{}

	mu        sync.Mutex
	facts     *wirepb.HostFacts
	workloads []*wirepb.Workload
	changed   chan struct{}
}

// parts are what the slow sources have last said.
type parts struct {
	mu      sync.Mutex
	cloud   map[string]string
	engines map[string]map[string]container // by socket, then by id
	troubs  map[string]string               // capability text by source
}

// New makes an inert Discover. The error names a cgroup root that is none.
func New(cfg Config, deps Deps) (*Discover, error) {
	if cfg.CgroupRoot == "" {
		root, err := findCgroupRoot()
		if err != nil {
			return nil, err
		}
		cfg.CgroupRoot = root
	}
	if err := checkCgroupRoot(cfg.CgroupRoot); err != nil {
		return nil, err
	}
	if cfg.MetadataURL == "" {
		cfg.MetadataURL = "http://169.254.169.254"
	}
	if cfg.LabelsDir == "" {
		cfg.LabelsDir = "/etc/weft/labels.d"
	}
	if cfg.DockerSockets == nil {
		cfg.DockerSockets = []string{"/run/docker.sock", "/run/podman/podman.sock"}
	}
	if cfg.ContainerdSocket == "" {
		cfg.ContainerdSocket = "/run/containerd/containerd.sock"
	}
	if cfg.Resync == 0 {
		cfg.Resync = 5 * time.Second
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	return &Discover{cfg: cfg, log: deps.Log, timing: usualTiming, poke: make(chan struct{}, 1), facts: &wirepb.HostFacts{}, changed: make(chan struct{}),
		complete: make(chan struct{}), parts: parts{engines: map[string]map[string]container{}, troubs: map[string]string{}}}, nil
}

// Snapshot returns the present facts and workloads, sorted by id. They are
// shared: change none.
func (d *Discover) Snapshot() (*wirepb.HostFacts, []*wirepb.Workload) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.facts, d.workloads
}

// Changed is closed when the next Snapshot differs.
func (d *Discover) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// Complete is closed when the Snapshot holds what the cloud and each engine have
// said, or that they do not answer.
func (d *Discover) Complete() <-chan struct{} { return d.complete }

// Workload returns the present state of one workload, or nil.
func (d *Discover) Workload(id string) *wirepb.Workload {
	_, workloads := d.Snapshot()
	for _, w := range workloads {
		if w.Id == id {
			return w
		}
	}
	return nil
}

// settle are the times after something was heard at which to look again: a
// container's processes, devices and addresses appear one after another, and
// not each of them makes a sound.
var settle = []time.Duration{0, 30 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second}

// Run watches until ctx ends. It is ready after the first look, which waits
// neither for the cloud nor for an engine.
func (d *Discover) Run(ctx context.Context, ready func()) error {
	s := newScanner(d)
	defer s.close()
	look := func(resync bool) {
		began := time.Now()
		d.publish(s.scan(resync))
		s.cost = time.Since(began)
	}
	look(true)
	spoken := d.first.expect(d.cfg)
	ready()
	var sources sync.WaitGroup
	defer sources.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sources.Go(func() { s.watchTree(ctx) })
	sources.Go(func() { d.watchLinks(ctx) })
	sources.Go(func() { d.watchCloud(ctx) })
	for _, socket := range d.cfg.DockerSockets {
		if socket != "-" {
			sources.Go(func() { d.watchDocker(ctx, socket) })
		}
	}
	if d.cfg.ContainerdSocket != "-" {
		sources.Go(func() { d.watchContainerd(ctx, d.cfg.ContainerdSocket) })
	}
	d.loop(ctx, s, look, spoken)
	return nil
}

func (d *Discover) loop(ctx context.Context, s *scanner, look func(resync bool), spoken <-chan struct{}) {
	late := time.NewTimer(completeWithin)
	defer late.Stop()
	whole := func() {
		spoken = nil
		look(false)
		close(d.complete)
	}
	resync := time.NewTicker(d.cfg.Resync)
	defer resync.Stop()
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	var heard time.Time
	step := len(settle)
	// However loud it is, looking takes a twentieth of one core at most.
	arm := func() {
		if step < len(settle) {
			timer.Reset(max(time.Until(heard.Add(settle[step])), min(20*s.cost, 500*time.Millisecond), 0))
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.poke:
			if step == len(settle) || step > 1 {
				heard, step = time.Now(), 0
				arm()
			} else {
				heard = time.Now() // a burst: the look that is due will see it
			}
		case <-timer.C:
			look(false)
			step++
			arm()
		case <-resync.C:
			look(true)
		case <-spoken:
			late.Stop()
			whole()
		case <-late.C:
			whole()
		}
	}
}

// hear asks for a look soon. It never blocks.
func (d *Discover) hear() {
	select {
	case d.poke <- struct{}{}:
	default:
	}
}

// publish makes what was found the present state.
func (d *Discover) publish(facts *wirepb.HostFacts, workloads []*wirepb.Workload) {
	d.mu.Lock()
	defer d.mu.Unlock()
	same := proto.Equal(facts, d.facts) && len(workloads) == len(d.workloads)
	for i := 0; same && i < len(workloads); i++ {
		same = proto.Equal(workloads[i], d.workloads[i])
	}
	if same {
		return
	}
	for _, w := range workloads {
		if i := find(d.workloads, w.Id); i < 0 {
			d.log.Info("workload found", "id", w.Id, "kind", w.Kind, "name", w.Name)
		}
	}
	for _, w := range d.workloads {
		if i := find(workloads, w.Id); i < 0 {
			d.log.Info("workload gone", "id", w.Id, "kind", w.Kind, "name", w.Name)
		}
	}
	d.facts, d.workloads = facts, workloads
	close(d.changed)
	d.changed = make(chan struct{})
}

func find(workloads []*wirepb.Workload, id string) int {
	for i, w := range workloads {
		if w.Id == id {
			return i
		}
	}
	return -1
}

// say records what a source can do, for the capabilities.
func (d *Discover) say(capability, text string) {
	d.parts.mu.Lock()
	changed := d.parts.troubs[capability] != text
	d.parts.troubs[capability] = text
	d.parts.mu.Unlock()
	if changed {
		d.hear()
	}
}

func findCgroupRoot() (string, error) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if checkCgroupRoot(dir) == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no cgroup2 tree at /sys/fs/cgroup or /sys/fs/cgroup/unified; mount one (mount -t cgroup2 none DIR) and give it with --cgroup-root")
}

func checkCgroupRoot(dir string) error {
	if _, err := os.Stat(dir + "/cgroup.procs"); err != nil {
		return fmt.Errorf("cgroup root %s: not a directory of a cgroup2 tree: %w", dir, err)
	}
	return nil
}
