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

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"weft/agent/connection"
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
	// Connections is how many lines the connection table holds; Room unless given.
	Connections uint32
	// Clsact holds guests' programs by clsact filters also where the kernel has tcx.
	Clsact bool
}

// Deps of a Driver.
type Deps struct {
	// Hellos, unless nil, is told the first bytes that each end of a connection says.
	Hellos Listener
	// Crowded, unless nil, is called when so many connections have begun since the
	// last visit of Connections that the next must not wait.
	Crowded func()
	Log     *slog.Logger
}

// Listener hears what connections begin with.
type Listener interface {
	// Hear is handed what is its own only until it returns.
	Hear(*connection.Hello)
}

// Driver judges by programs in the kernel.
type Driver struct {
	cfg  Config
	log  *slog.Logger
	lock *os.File

	objects policyObjects
	inner   map[string]*ebpf.MapSpec // of what stands in maps of those

	cgroups    *mirror[uint64, uint32]
	namespaces *mirror[uint64, uint32]
	slots      *mirror[uint32, policySlot]
	addresses  *mirror[policyAddressKey, policyAddress]
	options    optionMaps
	names      *mirror[policyNameKey, policyName]
	tableMaps

	clock    clock
	numbers  counters
	store    *store // nil: what the maps hold is not known
	attached bool
	carrying bool // the program that writes options is at work
	answers  *answerer
	edge     *edge // nil where the kernel has no such link
	cookies  cookies
	links    map[string]link.Link      // by the hook's name
	programs map[string]ebpf.ProgramID // by the hook's name, as asked
	learner  *learner
	hellos   Listener // nil for none
	hearer   *hearer
	crowded  func() // nil for nobody
	watch    *watch

	drops *drops // nil where the kernel does not say why it drops packets

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

	visits

	mu        sync.Mutex
	workloads map[uint32]string // by slot, also of those that are gone
	byCgroup  map[uint64]string // as workloads
	paths     map[uint32]string
	comms     map[[16]int8]string
}

var _ datapath.Driver = (*Driver)(nil)

// Name is bpf.
func (d *Driver) Name() string { return "bpf" }

// wanted is what the maps should hold for a state.
type wanted struct {
	state *datapath.State
	*options
	addresses  map[policyAddressKey]policyAddress // nil: as they are
	sameBook   bool                               // of addresses
	slots      map[uint32]policySlot
	guests     *guestWants
	cgroups    map[uint64]uint32
	namespaces map[uint64]uint32
	paths      map[uint64]string // of those namespaces
	names      map[policyNameKey]policyName
	named      []*classify.Class          // of names
	egress     map[uint32]*classify.Table // by slot, of subjects with rules by name
}

// Apply makes the state hold: new tables first, then subjects are turned over to
// them, and tables that keep their number turned into what they are to be, then the
// revision, which makes every connection be judged anew; what is old goes last.
func (d *Driver) Apply(_ context.Context, s *datapath.State) error {
	d.applying.Lock()
	defer d.applying.Unlock()
	want, err := d.prepare(s)
	if err != nil {
		return err
	}
	if err := d.enforce(want); err != nil {
		d.store = nil // some of it may be in force: the next begins with new numbers
		return err
	}
	return d.guestsUnjudged(s)
}

// prepare writes all that is new and that nobody looks at yet.
func (d *Driver) prepare(s *datapath.State) (*wanted, error) {
	options, err := newOptions(s)
	if err != nil {
		return nil, err
	}
	if d.store != nil {
		stale, err := d.store.stale()
		if err != nil {
			return nil, err
		}
		if stale {
			d.store = nil
		}
	}
	anew := d.store == nil || d.last == nil
	same := !anew && slices.Equal(d.last.state.Addresses, s.Addresses)
	book := d.addressBook
	sameBook := same || !anew && !renumbered(d.last.state.Addresses, s.Addresses)
	if !sameBook {
		d.addressBook++
	}
	if d.store == nil {
		d.store = newStore(&d.tableMaps, &d.numbers, d.resolve)
	}
	d.store.begin(nil)
	if sameBook { // else subjects are turned over to tables and addresses together
		d.store.begin(d.heirs(s))
	}
	want := &wanted{state: s, options: options, sameBook: sameBook, slots: map[uint32]policySlot{}, guests: newGuestWants(s), cgroups: map[uint64]uint32{},
		namespaces: map[uint64]uint32{}, paths: map[uint64]string{}, names: map[policyNameKey]policyName{}, egress: map[uint32]*classify.Table{}}
	if !same {
		want.addresses = addressContents(d.addressBook, s)
	}
	for i := range s.Subjects {
		if err = d.place(&s.Subjects[i], want); errors.Is(err, fs.ErrNotExist) { // one that has just ended is nobody
			err = nil
		}
		if err != nil {
			break
		}
	}
	if err == nil {
		err = d.store.write()
	}
	if err == nil {
		return want, nil
	}
	d.addressBook, err = book, fmt.Errorf("apply policy: %w", err)
	if failed := d.store.undo(); failed != nil {
		d.store = nil
		err = errors.Join(err, failed)
	}
	return nil, err
}

// heirs says which table may take the place of which: one by which all are to be
// judged that the other judges, and nobody by the other any more.
func (d *Driver) heirs(s *datapath.State) map[*classify.Table]*placed {
	out := map[*classify.Table]*placed{}
	of := map[string]*datapath.Ruleset{}
	wanted := map[*classify.Table]bool{}
	for i := range s.Subjects {
		x := &s.Subjects[i]
		of[x.Workload] = x.Ruleset
		wanted[x.Ruleset.Ingress], wanted[x.Ruleset.Egress] = true, true
	}
	next := map[*placed]*classify.Table{} // nil: none may
	for n, slot := range d.slots.have {
		ruleset := of[d.workloadOf(n)]
		for dir, number := range slot.Tables {
			p := d.store.numbers[number]
			if p == nil {
				continue
			}
			var t *classify.Table
			if ruleset != nil {
				t = ruleset.Table(policy.Direction(dir))
			}
			if known, ok := next[p]; ok && known != t {
				t = nil
			}
			next[p] = t
		}
	}
	for p, t := range next {
		if t != nil && !wanted[p.table] && d.store.tables[t] == nil && out[t] == nil && oneKind(p.table, t) {
			out[t] = p
		}
	}
	return out
}

// enforce makes the state hold. Its new tables are there.
func (d *Driver) enforce(want *wanted) error {
	if err := d.write(want); err != nil {
		return fmt.Errorf("apply policy: %w", err)
	}
	if err := d.attachAll(want.state, want); err != nil {
		return fmt.Errorf("apply policy: %w", err)
	}
	before := d.last
	d.last = want
	if err := d.clean(want, before); err != nil {
		return fmt.Errorf("clean up after policy: %w", err)
	}
	return nil
}

// place adds one subject to what is wanted.
func (d *Driver) place(x *datapath.Subject, want *wanted) error {
	if x.Kind == model.WorkloadGuest {
		return d.placeGuest(x, want)
	}
	c, err := findCgroup(x.Cgroup)
	if err != nil {
		return err
	}
	slot := policySlot{Identity: uint32(x.Identity), Book: d.addressBook}
	if x.NetNS == "" {
		slot.Flags |= slotMachineNetNS
	}
	if x.Unnamed {
		slot.Flags |= slotUnnamed
	}
	for _, dir := range []policy.Direction{policy.Ingress, policy.Egress} {
		if slot.Tables[dir], err = d.store.table(x.Ruleset.Table(dir)); err != nil {
			return fmt.Errorf("ruleset %s, %s: %w", x.Ruleset.Key, dir, err)
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
	d.workloads[n], d.byCgroup[c.id] = x.Workload, x.Workload
	d.mu.Unlock()
	if err := d.placeNames(x, n, slot, want); err != nil {
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
func (d *Driver) placeNames(x *datapath.Subject, n uint32, slot policySlot, want *wanted) error {
	t := x.Ruleset.Egress
	if !t.HasNames() {
		return nil
	}
	want.egress[n] = t
	for _, a := range d.lookedUp(x.Workload) {
		if err := d.nameClass(want, n, slot.Tables[policy.Egress], t, a); err != nil {
			return err
		}
	}
	return nil
}

// write turns everybody over. An identity is there before an address is its, and
// until no address is.
func (d *Driver) write(want *wanted) error {
	return firstError(
		func() error { return d.store.turn() },
		func() error { return d.addresses.put(want.addresses) },
		func() error { return d.options.put(want.options) },
		func() error { return d.names.put(want.names) },
		func() error { return d.slots.put(want.slots) },
		func() error { return d.namespaces.put(want.namespaces) },
		func() error { return d.cgroups.put(want.cgroups) },
		func() error { return d.guestPorts.write(want.guests) },
		func() error {
			if want.sameBook { // else programs may look into the old one yet
				return d.dropAddresses(want)
			}
			return nil
		},
		func() error { return d.store.turned() },
		// Who is no more anywhere is not believed when connections are judged anew.
		func() error { return d.options.drop(want.options) },
		d.advance,
	)
}

// dropAddresses deletes what is not in the book of addresses.
func (d *Driver) dropAddresses(want *wanted) error {
	if want.addresses == nil {
		return nil
	}
	return d.addresses.drop(want.addresses)
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
		d.goThrough() // programs that were there before have not told of their lines
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
	if d.hearer == nil && d.hellos != nil {
		var err error
		if d.hearer, err = newHearer(d); err != nil {
			return err
		}
	}
	if d.watch == nil && d.crowded != nil {
		var err error
		if d.watch, err = newWatch(d.objects.Alarms, d.crowded); err != nil {
			return err
		}
	}
	if d.learner == nil {
		var err error
		d.learner, err = newLearner(d)
		return err
	}
	return nil
}

// settle returns when no program sees any more what has been taken out of use:
// one that began before may read it yet.
func settle() error {
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, 1, 0, 0); errno != 0 { // membarrier(2), GLOBAL
		return fmt.Errorf("wait for running programs: %w", errno)
	}
	return nil
}

// clean deletes what is not wanted, and what names of the state before used.
func (d *Driver) clean(want, before *wanted) error {
	return firstError(
		settle,
		func() error { return d.guestPorts.clean(want.guests) },
		func() error { return d.cgroups.drop(want.cgroups) },
		func() error { return d.namespaces.drop(want.namespaces) },
		func() error { return d.slots.drop(want.slots) },
		func() error { return d.dropAddresses(want) },
		func() error { return d.names.drop(want.names) },
		func() error {
			if before != nil {
				d.store.give(before.named...)
			}
			return d.store.retire()
		},
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
	for i := range s.Subjects {
		if r := s.Subjects[i].Ruleset; r.Ingress.Rejects() || r.Egress.Rejects() {
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
