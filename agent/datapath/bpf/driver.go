package bpf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
)

// Config of a Driver.
type Config struct {
	// CgroupRoot is the directory of the cgroup that holds all of the machine's
	// workloads: the root of the cgroup2 tree, as a rule.
	CgroupRoot string
	// PinDir is a directory on a BPF file system, the driver's alone.
	PinDir string
	// Connections is how many lines the connection table holds; 262,144 unless given.
	Connections uint32
}

// Deps of a Driver.
type Deps struct {
	Log *slog.Logger
}

// Driver judges by programs in the kernel.
type Driver struct {
	cfg  Config
	log  *slog.Logger
	lock *os.File

	objects policyObjects

	cgroups    *mirror[uint64, uint32]
	namespaces *mirror[uint64, uint32]
	slots      *mirror[uint32, policySlot]
	addresses  *mirror[policyAddressKey, policyAddress]
	tables     *mirror[uint32, policyTable]
	identities *mirror[policyIdentityKey, uint32]
	blocks     *mirror[policyBlockKey, policyBlock]
	ports      *mirror[policyPortKey, policyChain]
	defaults   *mirror[uint32, policyChain]
	steps      *mirror[uint32, policyStep]
	conditions *mirror[policyConditionKey, policyCondition]
	options    optionMaps

	clock    clock
	numbers  *numbers
	attached bool
	carrying bool // the program that writes options is at work
	answers  *answerer
	edge     *edge // nil where the kernel has no such link
	cookies  cookies
	lastSlot uint32
	lastPath uint32
	revision uint32

	mu        sync.Mutex
	workloads map[uint32]string // by slot, also of those that are gone
	paths     map[uint32]string
}

var _ datapath.Driver = (*Driver)(nil)

// layout names the directory of our pins. A new number for every change of a
// map's shape.
const layout = "policy-v1"

// Open takes over what is pinned, or makes it. It changes nothing of what is in
// force; the first Apply does.
func Open(cfg Config, deps Deps) (*Driver, error) {
	if cfg.Connections == 0 {
		cfg.Connections = 1 << 18
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if _, err := findCgroup(cfg.CgroupRoot); err != nil {
		return nil, err
	}
	d := &Driver{cfg: cfg, log: deps.Log, workloads: map[uint32]string{}, paths: map[uint32]string{}, cookies: cookies{}}
	var err error
	if d.clock, err = readClock(); err != nil {
		return nil, err
	}
	if d.lock, err = lockPins(cfg.PinDir); err != nil {
		return nil, err
	}
	if err := firstError(d.load, d.read); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if d.edge, err = d.openEdge(); err != nil {
		d.log.Warn("ICMP requests and what else no socket sees are not judged here; Linux 6.4 is needed", "error", err)
	}
	return d, nil
}

// lockPins makes the directory, and keeps two agents from it.
func lockPins(dir string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Join(dir, layout, "links"), 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of pinned objects: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Type != unix.BPF_FS_MAGIC {
		return nil, fmt.Errorf("%s is not on a BPF file system: run mount -t bpf bpf %s", dir, filepath.Dir(dir))
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: another agent enforces policy from there; stop it or give this one another directory: %w", dir, err)
	}
	return f, nil
}

func (d *Driver) pin(name string) string { return filepath.Join(d.cfg.PinDir, layout, name) }

// load makes the programs, working on the maps that are pinned.
func (d *Driver) load() error {
	helper := uint32(1)
	err := d.loadWith(helper)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		if second := d.loadWith(0); second == nil { // kernels before 6.15
			return nil
		}
	}
	return err
}

func (d *Driver) loadWith(helper uint32) error {
	spec, err := loadPolicy()
	if err != nil {
		return fmt.Errorf("read the policy programs: %w", err)
	}
	for name, value := range map[string]uint32{"netns_helper": helper, "mptcp": hasMPTCP()} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set up the policy programs: %w", err)
		}
	}
	for name, m := range spec.Maps {
		switch name {
		case "verdicts", "frames", "scratch_paths", "events", "answerers", "owners", ".rodata", ".bss":
			continue // nothing that must outlive a program
		case "conns":
			m.MaxEntries = d.cfg.Connections
		}
		m.Pinning = ebpf.PinByName
	}
	err = spec.LoadAndAssign(&d.objects, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: d.pin("")}})
	if err != nil {
		return fmt.Errorf("load the policy programs: %w", err)
	}
	return nil
}

// hasMPTCP is 1 where the kernel knows Multipath TCP sockets.
func hasMPTCP() uint32 {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return 0
	}
	var t *btf.Struct
	if kernel.TypeByName("mptcp_sock", &t) != nil {
		return 0
	}
	return 1
}

// read takes over what the maps hold.
func (d *Driver) read() error {
	var err error
	o := &d.objects
	for _, f := range []func() error{
		func() error { d.cgroups, err = newMirror[uint64, uint32](o.Cgroups); return err },
		func() error { d.namespaces, err = newMirror[uint64, uint32](o.Namespaces); return err },
		func() error { d.slots, err = newMirror[uint32, policySlot](o.Slots); return err },
		func() error { d.addresses, err = newMirror[policyAddressKey, policyAddress](o.Addresses); return err },
		func() error { d.tables, err = newMirror[uint32, policyTable](o.Tables); return err },
		func() error { d.identities, err = newMirror[policyIdentityKey, uint32](o.Identities); return err },
		func() error { d.blocks, err = newMirror[policyBlockKey, policyBlock](o.Blocks); return err },
		func() error { d.ports, err = newMirror[policyPortKey, policyChain](o.Ports); return err },
		func() error { d.defaults, err = newMirror[uint32, policyChain](o.Defaults); return err },
		func() error { d.steps, err = newMirror[uint32, policyStep](o.Steps); return err },
		func() error {
			d.conditions, err = newMirror[policyConditionKey, policyCondition](o.Conditions)
			return err
		},
		func() error { d.options, err = readOptionMaps(o); return err },
	} {
		if err := f(); err != nil {
			return err
		}
	}
	var control policyControl
	if err := o.Control.Lookup(uint32(0), &control); err != nil {
		return fmt.Errorf("read the revision in force: %w", err)
	}
	d.revision = control.Revision
	last := &counters{}
	for n := range d.tables.have {
		last.table = max(last.table, n)
	}
	for n := range d.steps.have {
		last.step = max(last.step, n)
	}
	for k := range d.ports.have {
		last.class = max(last.class, k.Class)
	}
	for k := range d.conditions.have {
		last.condition = max(last.condition, k.Condition)
	}
	d.numbers = newNumbers(last)
	for n := range d.slots.have {
		d.lastSlot = max(d.lastSlot, n)
	}
	d.lastPath = userNumbers
	return d.readPaths()
}

func (d *Driver) readPaths() error {
	var key policyPath
	var n uint32
	it := d.objects.Paths.Iterate()
	for it.Next(&key, &n) {
		d.paths[n] = readPath(&key)
		if n >= userNumbers {
			d.lastPath = max(d.lastPath, n)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read the paths of executables: %w", err)
	}
	return nil
}

// Name is bpf.
func (d *Driver) Name() string { return "bpf" }

// wanted is what the maps should hold for a state.
type wanted struct {
	*contents
	*options
	addresses  map[policyAddressKey]policyAddress
	slots      map[uint32]policySlot
	cgroups    map[uint64]uint32
	namespaces map[uint64]uint32
	paths      map[uint64]string // of those namespaces
}

// Apply makes the state hold: new tables first, then subjects are turned over to
// them, then the revision, which makes every connection be judged anew; what is
// old goes last.
func (d *Driver) Apply(_ context.Context, s *datapath.State) error {
	options, err := newOptions(s)
	if err != nil {
		return err
	}
	want := &wanted{contents: newContents(), options: options, addresses: addressContents(s), slots: map[uint32]policySlot{}, cgroups: map[uint64]uint32{},
		namespaces: map[uint64]uint32{}, paths: map[uint64]string{}}
	now := newNumbers(d.numbers.last)
	enc := &encoder{contents: want.contents, old: d.numbers, now: now, resolve: d.resolve}
	for i := range s.Subjects {
		err := d.place(&s.Subjects[i], enc, want)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // one that has just ended is nobody
			return err
		}
	}
	if err := d.write(want); err != nil {
		return fmt.Errorf("apply policy: %w", err)
	}
	d.numbers = now
	if err := d.attachAll(s, want); err != nil {
		return fmt.Errorf("apply policy: %w", err)
	}
	if err := d.clean(want); err != nil {
		return fmt.Errorf("clean up after policy: %w", err)
	}
	return nil
}

// place adds one subject to what is wanted.
func (d *Driver) place(x *datapath.Subject, enc *encoder, want *wanted) error {
	if x.Cgroup == "" {
		return nil // a guest: nothing of it has a socket here
	}
	c, err := findCgroup(x.Cgroup)
	if err != nil {
		return err
	}
	slot := policySlot{Identity: uint32(x.Identity)}
	if x.NetNS == "" {
		slot.Flags |= slotMachineNetNS
	}
	for _, dir := range []policy.Direction{policy.Ingress, policy.Egress} {
		if slot.Tables[dir], err = enc.table(x.Ruleset.Key, dir, x.Ruleset.Table(dir)); err != nil {
			return err
		}
	}
	n, ok := d.cgroups.have[c.id]
	if !ok {
		d.lastSlot++
		n = d.lastSlot
	}
	want.cgroups[c.id], want.slots[n], want.badges[c.id] = n, slot, slot.Identity
	d.mu.Lock()
	d.workloads[n] = x.Workload
	d.mu.Unlock()
	if x.NetNS == "" && x.Kind != model.WorkloadHost {
		return nil // a unit, or a container on the machine's network: that is the machine's
	}
	cookie, err := d.cookies.of(x.NetNS)
	if err != nil {
		return err
	}
	want.namespaces[cookie], want.paths[cookie] = n, x.NetNS
	return nil
}

func (d *Driver) write(want *wanted) error {
	err := firstError(
		func() error { return d.steps.put(want.steps) },
		func() error { return d.conditions.put(want.conditions) },
		func() error { return d.defaults.put(want.defaults) },
		func() error { return d.ports.put(want.ports) },
		func() error { return d.blocks.put(want.blocks) },
		func() error { return d.identities.put(want.identities) },
		func() error { return d.tables.put(want.tables) },
		func() error { return d.addresses.put(want.addresses) },
		func() error { return d.options.put(want.options) },
		func() error { return d.slots.put(want.slots) },
		func() error { return d.namespaces.put(want.namespaces) },
		func() error { return d.cgroups.put(want.cgroups) },
	)
	if err != nil {
		return err
	}
	d.revision++
	if err := d.objects.Control.Put(uint32(0), policyControl{Revision: d.revision}); err != nil {
		return fmt.Errorf("put the revision in force: %w", err)
	}
	return nil
}

// attachAll puts programs to work wherever the state has subjects.
func (d *Driver) attachAll(s *datapath.State, want *wanted) error {
	if !d.attached && len(s.Subjects) == 0 {
		return d.attachCarrier() // nobody is judged: their packets cost nothing
	}
	if !d.attached {
		if err := d.attach(namespaces(s)); err != nil {
			return err
		}
		d.attached = true
	}
	if d.edge != nil {
		if err := d.edge.attach(d.pin("links"), want.paths); err != nil {
			return err
		}
	}
	if d.answers == nil {
		var err error
		if d.answers, err = newAnswerer(d.objects.Events, d.objects.Answerers, d.log); err != nil {
			return err
		}
	}
	d.answers.know(rejecting(s))
	return nil
}

func (d *Driver) clean(want *wanted) error {
	// A program that began before the slots were turned over may still read the
	// old tables. This returns when none does (membarrier(2), GLOBAL).
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, 1, 0, 0); errno != 0 {
		return fmt.Errorf("wait for running programs: %w", errno)
	}
	return firstError(
		func() error { return d.cgroups.drop(want.cgroups) },
		func() error { return d.namespaces.drop(want.namespaces) },
		func() error { return d.slots.drop(want.slots) },
		func() error { return d.options.drop(want.options) },
		func() error { return d.addresses.drop(want.addresses) },
		func() error { return d.identities.drop(want.identities) },
		func() error { return d.tables.drop(want.tables) },
		func() error { return d.blocks.drop(want.blocks) },
		func() error { return d.ports.drop(want.ports) },
		func() error { return d.defaults.drop(want.defaults) },
		func() error { return d.conditions.drop(want.conditions) },
		func() error { return d.steps.drop(want.steps) },
	)
}

// namespaces lists the network namespaces of a state, but for the machine's own.
func namespaces(s *datapath.State) []string {
	var out []string
	for i := range s.Subjects {
		if n := s.Subjects[i].NetNS; n != "" {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// rejecting lists the namespaces, "" being the machine's own, of subjects with a
// Reject rule.
func rejecting(s *datapath.State) []string {
	var out []string
	isReject := func(r *policy.Rule) bool { return r.Action == model.ActionReject }
	for i := range s.Subjects {
		if r := s.Subjects[i].Ruleset; slices.ContainsFunc(r.Ingress.Rules, isReject) || slices.ContainsFunc(r.Egress.Rules, isReject) {
			out = append(out, s.Subjects[i].NetNS)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func firstError(steps ...func() error) error {
	for _, f := range steps {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// Close lets go of everything and leaves it at work.
func (d *Driver) Close() error {
	var errs []error
	if d.answers != nil {
		d.answers.close()
	}
	if d.edge != nil {
		errs = append(errs, d.edge.objects.Close())
	}
	if d.objects.WeftEgress != nil {
		errs = append(errs, d.objects.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}

// Remove detaches the programs and removes every pin.
func (d *Driver) Remove() error {
	return errors.Join(removePins(d.cfg.PinDir), d.Close())
}

// Remove takes away what a driver with this directory left behind.
func Remove(cfg Config) error { return removePins(cfg.PinDir) }

func removePins(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "policy-v*", "links", "*"))
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		l, err := link.LoadPinnedLink(name, nil)
		if err != nil {
			return fmt.Errorf("open pinned link %s: %w", name, err)
		}
		if err := errors.Join(l.Unpin(), l.Close()); err != nil {
			return fmt.Errorf("take down %s: %w", name, err)
		}
	}
	old, err := filepath.Glob(filepath.Join(dir, "policy-v*"))
	if err != nil {
		return err
	}
	for _, p := range old {
		if err := os.RemoveAll(p); err != nil {
			return fmt.Errorf("remove pinned objects: %w", err)
		}
	}
	return nil
}
