package bpf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/agent/datapath"
	"weft/internal/tchook"
	"weft/model"
	"weft/policy"
)

// The flags of struct guest_port.
const (
	portForwards = 1
	portStated4  = 2
	portStated6  = 4
	portAgent    = 8
	portObserved = 16
	portMetered  = 32
)

// guestPorts judges at guests' ports.
type guestPorts struct {
	objects guestObjects
	hooks   portHooks
	other   portHooks // the way that an older agent may have gone
	guests  *mirror[uint32, guestGuestPort]
	homes   *mirror[guestHomeKey, uint8]
	answers *guestAnswerer
}

// guestWants is what a state asks for at ports.
type guestWants struct {
	ports map[uint32]guestGuestPort
	homes map[guestHomeKey]uint8
}

func newGuestWants(s *datapath.State) *guestWants {
	w := &guestWants{ports: map[uint32]guestGuestPort{}, homes: map[guestHomeKey]uint8{}}
	for i := range s.Subjects {
		if s.Subjects[i].Kind == model.WorkloadUnit {
			continue // its machine's addresses
		}
		for _, a := range s.Subjects[i].Addresses {
			w.homes[homeKey(0, a)] = 1
		}
	}
	return w
}

func homeKey(slot uint32, a netip.Addr) guestHomeKey {
	k := guestHomeKey{Slot: slot}
	k.Family, k.Address = addressBytes(a)
	return k
}

// openPorts makes the programs, working on the driver's maps.
func (d *Driver) openPorts() (*guestPorts, error) {
	spec, err := loadGuest()
	if err != nil {
		return nil, fmt.Errorf("read the programs for guests' ports: %w", err)
	}
	shared := map[string]*ebpf.Map{}
	o := reflect.ValueOf(d.objects.policyMaps)
	for i := range o.NumField() {
		name := o.Type().Field(i).Tag.Get("ebpf")
		if spec.Maps[name] != nil {
			shared[name] = o.Field(i).Interface().(*ebpf.Map)
			spec.Maps[name].MaxEntries = shared[name].MaxEntries()
		}
	}
	if err := spec.Variables["hello_wanted"].Set(d.helloWanted()); err != nil {
		return nil, fmt.Errorf("set up the programs for guests' ports: %w", err)
	}
	for _, name := range []string{"guests", "homes", "guest_trouble"} {
		spec.Maps[name].Pinning = ebpf.PinByName
	}
	p := &guestPorts{}
	if err := spec.LoadAndAssign(&p.objects, &ebpf.CollectionOptions{MapReplacements: shared, Maps: ebpf.MapOptions{PinPath: d.pin("")}}); err != nil {
		return nil, fmt.Errorf("load the programs for guests' ports: %w", err)
	}
	p.hooks, p.other = &tcxPorts{dir: d.pin("links"), held: map[portHook]link.Link{}}, &filterPorts{base: d.cfg.PinDir, fresh: map[portHook]bool{}}
	if d.cfg.Clsact || !tchook.TCX().Yes() {
		p.hooks, p.other = p.other, p.hooks
	}
	if p.guests, err = newMirror[uint32, guestGuestPort](p.objects.Guests); err == nil {
		p.homes, err = newMirror[guestHomeKey, uint8](p.objects.Homes)
	}
	if err != nil {
		return nil, errors.Join(err, p.objects.Close())
	}
	return p, nil
}

// placeGuest adds a guest to what is wanted: a slot of its own, at each of its
// ports. One whose ports have just gone is nobody.
func (d *Driver) placeGuest(x *datapath.Subject, want *wanted) error {
	if d.guestPorts == nil {
		return nil // told by guestsUnjudged
	}
	var found []uint32
	for _, name := range x.Interfaces {
		l, err := netlink.LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue
		}
		if err != nil {
			return fmt.Errorf("find the port %s of guest %s: %w", name, x.Workload, err)
		}
		found = append(found, uint32(l.Attrs().Index))
	}
	if len(found) == 0 {
		return nil
	}
	slot := policySlot{Identity: uint32(x.Identity), Book: d.addressBook}
	if x.Unnamed {
		slot.Flags |= slotUnnamed
	}
	for _, dir := range []policy.Direction{policy.Ingress, policy.Egress} {
		var err error
		if slot.Tables[dir], err = d.store.table(x.Ruleset.Table(dir)); err != nil {
			return fmt.Errorf("ruleset %s, %s: %w", x.Ruleset.Key, dir, err)
		}
	}
	n := d.guestSlot(x.Workload, found, want)
	flags := uint32(0)
	if x.Forwards {
		flags |= portForwards
	}
	if x.Agent {
		flags |= portAgent
	}
	if x.Ruleset.Mode != model.ModeSelective && x.Ruleset.Mode != model.ModeEnforce {
		flags |= portObserved
	}
	if x.Identity == 0 {
		flags = portForwards | portObserved | portMetered // no policy is about it
	}
	for _, a := range x.Addresses {
		want.guests.homes[homeKey(n, a)] = 1
		if a.Unmap().Is4() {
			flags |= portStated4
		} else {
			flags |= portStated6
		}
	}
	for _, ifindex := range found {
		want.guests.ports[ifindex] = guestGuestPort{Slot: n, Flags: flags}
	}
	want.slots[n] = slot
	d.mu.Lock()
	d.workloads[n] = x.Workload
	d.mu.Unlock()
	return d.placeNames(x, n, slot, want)
}

// guestSlot is the number that a guest has had at one of its ports, or a new one.
func (d *Driver) guestSlot(workload string, found []uint32, want *wanted) uint32 {
	for _, ifindex := range found {
		had, ok := d.guestPorts.guests.have[ifindex]
		if !ok {
			continue
		}
		_, taken := want.slots[had.Slot]
		if known := d.workloadOf(had.Slot); !taken && (known == "" || known == workload) {
			return had.Slot
		}
	}
	d.lastSlot++
	return d.lastSlot
}

// maps are those of ports, in the order of their writing.
func (p *guestPorts) maps() []pending {
	if p == nil {
		return nil
	}
	return []pending{p.homes, p.guests}
}

// write puts the maps; what programs find through them has been written before.
func (p *guestPorts) write(want *guestWants) error {
	if p == nil || want == nil {
		return nil
	}
	if err := p.homes.put(want.homes); err != nil {
		return err
	}
	return p.guests.put(want.ports)
}

// clean drops what is not wanted.
func (p *guestPorts) clean(want *guestWants) error {
	if p == nil || want == nil {
		return nil
	}
	if err := p.guests.drop(want.ports); err != nil {
		return err
	}
	return p.homes.drop(want.homes)
}

// attach puts the programs to work at these ports, and nowhere else.
func (p *guestPorts) attach(want *guestWants, d *Driver) error {
	if p == nil {
		return nil
	}
	wanted := map[portHook]bool{}
	if want != nil {
		for ifindex := range want.ports {
			wanted[portHook{int(ifindex), true}], wanted[portHook{int(ifindex), false}] = true, true
		}
	}
	if len(wanted) > 0 && p.answers == nil {
		var err error
		if p.answers, err = newGuestAnswerer(p.objects.GuestEvents, d); err != nil {
			return err
		}
	}
	if err := p.hooks.keep(wanted); err != nil {
		return err
	}
	for h := range wanted {
		if err := p.hooks.attach(h, p.program(h)); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("attach %s: %w", h, err)
		}
	}
	if p.other != nil {
		if err := p.other.keep(nil); err != nil {
			return err
		}
		p.other = nil
	}
	return nil
}

func (p *guestPorts) program(h portHook) *ebpf.Program {
	if h.egress {
		return p.objects.WeftGuestEgress
	}
	return p.objects.WeftGuestIngress
}

// verify names what was changed at the ports of a state.
func (p *guestPorts) verify(want *guestWants) (found []string, err error) {
	if p == nil || want == nil {
		return nil, nil
	}
	if f, ok := p.hooks.(*filterPorts); ok {
		f.table = nil
	}
	for ifindex := range want.ports {
		for _, egress := range []bool{true, false} {
			h := portHook{int(ifindex), egress}
			fault, err := p.hooks.check(h, p.program(h))
			if fault != "" {
				found = append(found, fault)
			}
			if err != nil {
				return found, err
			}
		}
	}
	return found, nil
}

// close lets go of the programs and leaves them at work.
func (p *guestPorts) close() error {
	if p == nil {
		return nil
	}
	if p.answers != nil {
		p.answers.close()
	}
	if t, ok := p.hooks.(*tcxPorts); ok {
		for h := range t.held {
			t.drop(h)
		}
	}
	return p.objects.Close()
}

// troubles adds what was counted at ports.
func (p *guestPorts) troubles(out map[string]uint64) error {
	if p == nil {
		return nil
	}
	var perCPU []guestGuestTrouble
	if err := p.objects.GuestTrouble.Lookup(uint32(0), &perCPU); err != nil {
		return fmt.Errorf("read what went wrong at guests' ports: %w", err)
	}
	var sum guestGuestTrouble
	for _, t := range perCPU {
		sum.Borrowed += t.Borrowed
		sum.Strange += t.Strange
		sum.Routers += t.Routers
	}
	for what, n := range map[string]uint64{
		"guests' frames came from, or claimed, an address that is not theirs, and were dropped unless they are only observed":               sum.Borrowed,
		"guests' frames were neither IP nor ARP, and were dropped unless they are only observed":                                            sum.Strange,
		"router advertisements and redirects of guests were dropped unless they are only observed: only one whose mark says so is a router": sum.Routers,
	} {
		if n > 0 {
			out[what] = n
		}
	}
	return nil
}

// guestsUnjudged is an error that names the guests of a state where this driver
// cannot judge them.
func (d *Driver) guestsUnjudged(s *datapath.State) error {
	if d.guestPorts != nil {
		return nil
	}
	var names []string
	for i := range s.Subjects {
		if s.Subjects[i].Kind == model.WorkloadGuest && s.Subjects[i].Identity != 0 {
			names = append(names, s.Subjects[i].Workload)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return fmt.Errorf("%w: the guests %s: %w", datapath.ErrPartly, strings.Join(names, ", "), d.portsMissing)
}

// swapMACs writes the Ethernet header of an answer to a frame.
func swapMACs(frame []byte, macs [12]byte, vlan uint16, ipv6 bool) []byte {
	frame = append(frame, net.HardwareAddr(macs[6:])...)
	frame = append(frame, net.HardwareAddr(macs[:6])...)
	if vlan != 0 {
		frame = append(frame, 0x81, 0, byte(vlan>>8)&0xef, byte(vlan))
	}
	if ipv6 {
		return append(frame, 0x86, 0xdd)
	}
	return append(frame, 8, 0)
}
