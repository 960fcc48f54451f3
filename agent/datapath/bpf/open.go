package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"weft/policy/classify"
)

// layout names the directory of our pins. A new number for every change of a
// map's shape.
const layout = "policy-v3"

// Open takes over what is pinned, or makes it. It changes nothing of what is in
// force; the first Apply does.
func Open(cfg Config, deps Deps) (*Driver, error) {
	if cfg.Connections == 0 {
		cfg.Connections = Room()
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if _, err := findCgroup(cfg.CgroupRoot); err != nil {
		return nil, err
	}
	d := &Driver{cfg: cfg, log: deps.Log, inner: map[string]*ebpf.MapSpec{}, hellos: deps.Hellos, crowded: deps.Crowded, workloads: map[uint32]string{}, byCgroup: map[uint64]string{}, paths: map[uint32]string{}, comms: map[[16]int8]string{}, cookies: cookies{}, links: map[string]link.Link{}, programs: map[string]ebpf.ProgramID{}}
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
	d.lines, d.pastLines, d.refused = follow[policyConnKey, policyConn](d.objects.Conns), follow[policyPastKey, policyConn](d.objects.PastConns), follow[policyConnKey, policyConn](d.objects.Denied)
	d.loadNames()
	if d.edge, err = d.openEdge(); err != nil {
		d.log.Warn("ICMP requests and what else no socket sees are not judged here; Linux 6.4 is needed", "error", err)
	}
	if d.guestPorts, d.portsMissing = d.openPorts(); d.portsMissing != nil {
		d.log.Warn("guests' ports are not judged here", "error", d.portsMissing)
	}
	if d.drops, err = d.openDrops(); err != nil {
		d.log.Warn("packets that the kernel throws away are not counted by connection here; Linux 5.17 with BTF is needed", "error", err)
	}
	return d, nil
}

// lineSize is what a line of the connection table takes, its place in the map
// included.
const lineSize = 512

// Room is how many lines of the connection table this machine has room for: a
// sixteenth of its memory, from 65,536 to 1,048,576.
func Room() uint32 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 1 << 18
	}
	memory := info.Totalram * uint64(info.Unit)
	return uint32(min(max(memory/16/lineSize, 1<<16), 1<<20))
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
	for name, value := range map[string]uint32{"netns_helper": helper, "mptcp": hasMPTCP(), "hello_wanted": d.helloWanted()} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set up the policy programs: %w", err)
		}
	}
	for name, m := range spec.Maps {
		switch name {
		case "verdicts", "frames", "scratch_paths", "events", "answerers", "owners", "lookups", "hellos", "hello_budget", "entries", "begun", "alarm_at", "alarms", "visited", ".rodata", ".bss":
			continue // nothing that must outlive a program
		case "conns":
			m.MaxEntries = d.cfg.Connections
		case "identities", "steps":
			d.inner[name] = m.InnerMap
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
		func() error {
			d.identities, err = newStanding[policyIdentityKey, uint32](o.Identities, d.inner["identities"], classify.Capacity.Identities)
			return err
		},
		func() error { d.blocks, err = newMirror[policyBlockKey, policyBlock](o.Blocks); return err },
		func() error { d.ports, err = newMirror[policyPortKey, policyChain](o.Ports); return err },
		func() error { d.defaults, err = newMirror[uint32, policyChain](o.Defaults); return err },
		func() error {
			d.steps, err = newStanding[uint32, policyStep](o.Steps, d.inner["steps"], classify.Capacity.Steps)
			return err
		},
		func() error {
			d.conditions, err = newMirror[policyConditionKey, policyCondition](o.Conditions)
			return err
		},
		func() error { d.names, err = newMirror[policyNameKey, policyName](o.Names); return err },
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
	last := &d.numbers
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
	for n, slot := range d.slots.have {
		d.lastSlot, d.addressBook = max(d.lastSlot, n), max(d.addressBook, slot.Book)
	}
	for k := range d.addresses.have {
		d.addressBook = max(d.addressBook, k.Book)
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
