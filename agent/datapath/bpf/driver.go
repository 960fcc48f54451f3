package bpf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"weft/agent/datapath"
	"weft/agent/datapath/bpf/lookup"
	"weft/model"
	"weft/policy"
	"weft/policy/classify"
)

// Config of a Driver.
type Config struct {
	// CgroupRoot is the directory of the cgroup that holds all of the machine's
	// workloads: the root of the cgroup2 tree, as a rule.
	CgroupRoot string
	// PinDir is a directory on a BPF file system, the driver's alone.
	PinDir string
	// NamesFile keeps what was learned of names over restarts; empty for not.
	NamesFile string
	// Connections is how many lines the connection table holds; 262,144 unless given.
	Connections uint32
	// Clsact holds guests' programs by clsact filters also where the kernel has tcx.
	Clsact bool
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
	names      *mirror[policyNameKey, policyName]

	clock    clock
	numbers  *numbers
	attached bool
	carrying bool // the program that writes options is at work
	answers  *answerer
	edge     *edge // nil where the kernel has no such link
	cookies  cookies
	links    map[string]link.Link // by the hook's name
	learner  *learner

	guestPorts   *guestPorts // nil where they cannot be judged, for this reason:
	portsMissing error

	applying sync.Mutex // one at a time changes what is in force
	bookMu   sync.Mutex
	book     lookup.Book
	last     *wanted // what the last Apply put in force
	lastSlot uint32
	lastPath uint32
	revision uint32
	// addressBook is the number of the book of addresses in force.
	addressBook uint32

	visiting sync.Mutex         // one at a time reads the connection table
	ending   [2][]policyConnKey // lines of conns and denied that were last visited as ended

	mu        sync.Mutex
	workloads map[uint32]string // by slot, also of those that are gone
	paths     map[uint32]string
}

var _ datapath.Driver = (*Driver)(nil)

// Name is bpf.
func (d *Driver) Name() string { return "bpf" }

// wanted is what the maps should hold for a state.
type wanted struct {
	state *datapath.State
	*contents
	*options
	addresses  map[policyAddressKey]policyAddress
	slots      map[uint32]policySlot
	guests     *guestWants
	cgroups    map[uint64]uint32
	namespaces map[uint64]uint32
	paths      map[uint64]string // of those namespaces
	names      map[policyNameKey]policyName
	egress     map[uint32]*classify.Table // by slot, of subjects with rules by name
}

// Apply makes the state hold: new tables first, then subjects are turned over to
// them, then the revision, which makes every connection be judged anew; what is
// old goes last.
func (d *Driver) Apply(_ context.Context, s *datapath.State) error {
	d.applying.Lock()
	defer d.applying.Unlock()
	options, err := newOptions(s)
	if err != nil {
		return err
	}
	if d.last == nil || renumbered(d.last.state.Addresses, s.Addresses) {
		d.addressBook++
	}
	want := &wanted{state: s, contents: newContents(), options: options, addresses: addressContents(d.addressBook, s), slots: map[uint32]policySlot{}, guests: newGuestWants(s), cgroups: map[uint64]uint32{},
		namespaces: map[uint64]uint32{}, paths: map[uint64]string{}, names: map[policyNameKey]policyName{}, egress: map[uint32]*classify.Table{}}
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
	d.last = want
	if err := d.clean(want); err != nil {
		return fmt.Errorf("clean up after policy: %w", err)
	}
	return d.guestsUnjudged(s)
}

// place adds one subject to what is wanted.
func (d *Driver) place(x *datapath.Subject, enc *encoder, want *wanted) error {
	if x.Kind == model.WorkloadGuest {
		return d.placeGuest(x, enc, want)
	}
	c, err := findCgroup(x.Cgroup)
	if err != nil {
		return err
	}
	slot := policySlot{Identity: uint32(x.Identity), Book: d.addressBook}
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
	want.cgroups[c.id], want.slots[n] = n, slot
	if slot.Identity != 0 {
		want.badges[c.id] = slot.Identity
	}
	d.mu.Lock()
	d.workloads[n] = x.Workload
	d.mu.Unlock()
	if err := d.placeNames(x, n, slot, enc, want); err != nil {
		return err
	}
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

// placeNames adds what a subject has looked up, where its rules ask for names.
func (d *Driver) placeNames(x *datapath.Subject, n uint32, slot policySlot, enc *encoder, want *wanted) error {
	t := x.Ruleset.Egress
	if len(t.Names) == 0 {
		return nil
	}
	want.egress[n] = t
	for _, a := range d.lookedUp(x.Workload) {
		if err := d.nameClass(enc, want.names, n, slot.Tables[policy.Egress], t, a); err != nil {
			return err
		}
	}
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
		func() error { return d.names.put(want.names) },
		func() error { return d.slots.put(want.slots) },
		func() error { return d.namespaces.put(want.namespaces) },
		func() error { return d.cgroups.put(want.cgroups) },
		func() error { return d.guestPorts.write(want.guests) },
	)
	if err != nil {
		return err
	}
	return d.advance()
}

// advance makes every connection be judged anew by its next packet.
func (d *Driver) advance() error {
	d.revision++
	if err := d.objects.Control.Put(uint32(0), policyControl{Revision: d.revision}); err != nil {
		return fmt.Errorf("put the revision in force: %w", err)
	}
	return nil
}

// attachAll puts programs to work wherever the state has subjects.
func (d *Driver) attachAll(s *datapath.State, want *wanted) error {
	if len(s.Subjects) == 0 {
		return d.carry() // nobody is judged: packets cost nothing
	}
	if !d.attached {
		if err := d.attach(namespaces(s)); err != nil {
			return err
		}
		// Programs of another layout have judged until now.
		if err := removeLayouts(d.cfg.PinDir, layout); err != nil {
			return err
		}
		d.attached = true
		// What spoke while sockets were being noted was judged without its process.
		if err := d.advance(); err != nil {
			return err
		}
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
	if err := d.guestPorts.attach(want.guests, d); err != nil {
		return err
	}
	if d.learner == nil {
		var err error
		d.learner, err = newLearner(d)
		return err
	}
	return nil
}

func (d *Driver) clean(want *wanted) error {
	// A program that began before the slots were turned over may still read the
	// old tables. This returns when none does (membarrier(2), GLOBAL).
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, 1, 0, 0); errno != 0 {
		return fmt.Errorf("wait for running programs: %w", errno)
	}
	return firstError(
		func() error { return d.guestPorts.clean(want.guests) },
		func() error { return d.cgroups.drop(want.cgroups) },
		func() error { return d.namespaces.drop(want.namespaces) },
		func() error { return d.slots.drop(want.slots) },
		func() error { return d.options.drop(want.options) },
		func() error { return d.addresses.drop(want.addresses) },
		func() error { return d.names.drop(want.names) },
		func() error { return d.identities.drop(want.identities) },
		func() error { return d.tables.drop(want.tables) },
		func() error { return d.blocks.drop(want.blocks) },
		func() error { return d.ports.drop(want.ports) },
		func() error { return d.defaults.drop(want.defaults) },
		func() error { return d.conditions.drop(want.conditions) },
		func() error { return d.steps.drop(want.steps) },
	)
}

// workloadOf is the id of the workload in a slot.
func (d *Driver) workloadOf(slot uint32) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.workloads[slot]
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
