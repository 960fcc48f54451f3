package lab

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"weft/lab/emulate"
	"weft/lab/netns"
	"weft/lab/topology"
)

// Impairment is what a link does to frames; see package topology.
type Impairment = topology.Impairment

// link is what lies between a device of a node and a switch. A perfect link is
// a veth pair whose end in the fabric is a port of the bridge:
//
//	node eth0 ═ p1 ─ bridge
//
// An impaired one has the emulator in between, and a second pair to reach the
// bridge with:
//
//	node eth0 ═ p1 ─ emulator ─ p1e ═ p1b ─ bridge
type link struct {
	host *Host
	port *topology.Port
	// device is p1.
	device string

	mu       sync.Mutex // held while the link is changed
	now      Impairment
	cut      bool
	emulator *emulate.Link
}

// innerPort is the bridge port of an impaired link, innerEnd its other end.
func (k *link) innerPort() string { return k.device + "b" }
func (k *link) innerEnd() string  { return k.device + "e" }

// bridgePort is the device that is the switch's port now.
func (k *link) bridgePort() string {
	if k.emulator != nil {
		return k.innerPort()
	}
	return k.device
}

func (l *Lab) addLink(h *Host, port *topology.Port, device string) *link {
	k := &link{host: h, port: port, device: device}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.links[port.Link] = k
	return k
}

func (l *Lab) linkStates() []LinkState {
	l.mu.Lock()
	links := slices.Collect(maps.Values(l.links))
	l.mu.Unlock()
	out := make([]LinkState, 0, len(links))
	for _, k := range links {
		k.mu.Lock()
		out = append(out, LinkState{Name: k.port.Link, Device: k.device, Cut: k.cut, Impairment: k.now})
		k.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b LinkState) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// link finds a link by "NODE@SWITCH", or by "NODE" its first one.
func (l *Lab) link(name string) (*link, error) {
	full := name
	if h := l.hosts[name]; h != nil && len(h.node.Ports) > 0 {
		full = h.node.Ports[0].Link
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.links[full]; k != nil {
		return k, nil
	}
	known := slices.Sorted(maps.Keys(l.links))
	return nil, fmt.Errorf("lab %s has no link %q; it has %s", l.ID, name, strings.Join(known, ", "))
}

// Cut makes a link lose everything, without either end being told: both keep
// their carrier, as in a partition of the network between them.
func (l *Lab) Cut(name string) error { return l.setCut(name, true) }

// Heal ends a Cut.
func (l *Lab) Heal(name string) error { return l.setCut(name, false) }

func (l *Lab) setCut(name string, cut bool) error {
	if l.remote() {
		return l.call("POST", "/links", linkChange{Link: name, Cut: &cut})
	}
	k, err := l.link(name)
	if err != nil {
		return err
	}
	k.mu.Lock()
	err = l.fabric.master(k.bridgePort(), k.port.Switch, !cut)
	if err == nil {
		k.cut = cut
	}
	k.mu.Unlock()
	if err != nil {
		return fmt.Errorf("cut or heal link %s: %w", k.port.Link, err)
	}
	return l.save()
}

// SetLink changes what a link does to frames. The zero Impairment makes it
// perfect again.
func (l *Lab) SetLink(name string, i Impairment) error {
	if l.remote() {
		return l.call("POST", "/links", linkChange{Link: name, Impairment: &i})
	}
	k, err := l.link(name)
	if err != nil {
		return err
	}
	if err := l.impair(k, i); err != nil {
		return fmt.Errorf("change link %s: %w", k.port.Link, err)
	}
	k.mu.Lock()
	port := k.bridgePort()
	k.mu.Unlock()
	return errors.Join(l.fabric.settle(port), l.save())
}

// LinkCounters says what an impaired link has done: from the node to the
// switch, and back. A perfect link counts nothing.
func (l *Lab) LinkCounters(name string) (out, in emulate.Counters, err error) {
	k, err := l.link(name)
	if err != nil {
		return out, in, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.emulator != nil {
		out, in = k.emulator.Counters()
	}
	return out, in, nil
}

func (l *Lab) impair(k *link, i Impairment) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var err error
	switch {
	case i.Active() && k.emulator != nil:
		k.emulator.Set(k.emulation(i))
	case i.Active():
		err = l.insertEmulator(k, i)
	case k.emulator != nil:
		err = l.removeEmulator(k)
	}
	if err == nil {
		k.now = i
	}
	return err
}

func (k *link) emulation(i Impairment) emulate.Impairment {
	seed := i.Seed
	if seed == 0 {
		h := fnv.New64a()
		h.Write([]byte(k.port.Link))
		seed = h.Sum64()
	}
	return emulate.Impairment{
		Rate: uint64(i.Rate), Delay: time.Duration(i.Delay), Jitter: time.Duration(i.Jitter),
		Loss: float64(i.Loss), Reorder: float64(i.Reorder), MTU: k.port.MTU, Seed: seed,
	}
}

func (l *Lab) insertEmulator(k *link, i Impairment) error {
	// The node must send whole frames: each has its own fate.
	if err := netns.Do(k.host.NetNS(), func() error { return emulate.SetOffload(k.port.Device, false) }); err != nil {
		return err
	}
	err := l.fabric.do(func(h *netlink.Handle) error {
		master := 0
		if !k.cut {
			master = l.fabric.switches[k.port.Switch]
		}
		if err := addPair(h, k.innerPort(), k.innerEnd(), k.port.MTU, master); err != nil {
			return err
		}
		if err := emulate.SetOffload(k.innerPort(), false); err != nil {
			return err
		}
		a, err := openPort(h, k.device)
		if err != nil {
			return err
		}
		b, err := openPort(h, k.innerEnd())
		if err != nil {
			return errors.Join(err, a.Close())
		}
		if err := setMaster(h, k.device, 0); err != nil {
			return errors.Join(err, a.Close(), b.Close())
		}
		k.emulator = emulate.Start(a, b, k.emulation(i))
		return nil
	})
	if err != nil {
		// Put it back as it was, as far as it goes.
		return errors.Join(err, l.restorePerfect(k))
	}
	return nil
}

func (l *Lab) removeEmulator(k *link) error {
	err := k.emulator.Close()
	k.emulator = nil
	return errors.Join(err, l.restorePerfect(k))
}

func (l *Lab) restorePerfect(k *link) error {
	err := l.fabric.do(func(h *netlink.Handle) error {
		if inner, err := h.LinkByName(k.innerPort()); err == nil {
			if err := h.LinkDel(inner); err != nil {
				return err
			}
		}
		if k.cut {
			return nil
		}
		return setMaster(h, k.device, l.fabric.switches[k.port.Switch])
	})
	return errors.Join(err, netns.Do(k.host.NetNS(), func() error { return emulate.SetOffload(k.port.Device, true) }))
}

// closeEmulators ends the emulators before the devices go.
func (l *Lab) closeEmulators() error {
	l.mu.Lock()
	links := slices.Collect(maps.Values(l.links))
	l.mu.Unlock()
	var errs []error
	for _, k := range links {
		k.mu.Lock()
		if k.emulator != nil {
			errs = append(errs, k.emulator.Close())
			k.emulator = nil
		}
		k.mu.Unlock()
	}
	return errors.Join(errs...)
}

func openPort(h *netlink.Handle, device string) (*emulate.Port, error) {
	dev, err := h.LinkByName(device)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", device, err)
	}
	return emulate.OpenPort(dev.Attrs().Index)
}
