package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// localIn is NF_INET_LOCAL_IN of linux/netfilter.h.
const localIn = 1

// families are NFPROTO_IPV4 and NFPROTO_IPV6 there.
var families = map[string]link.NetfilterProtocolFamily{"4": 2, "6": 10}

// edge judges what no socket sees, in each network namespace that has a subject.
type edge struct {
	objects edgeObjects
	fresh   map[string]bool // links made by this program
}

// openEdge makes the program, working on the driver's maps.
func (d *Driver) openEdge() (*edge, error) {
	spec, err := loadEdge()
	if err != nil {
		return nil, fmt.Errorf("read the edge program: %w", err)
	}
	shared := map[string]*ebpf.Map{}
	o := &d.objects
	for name, m := range map[string]*ebpf.Map{"control": o.Control, "trouble": o.Trouble, "slots": o.Slots, "namespaces": o.Namespaces, "addresses": o.Addresses, "tables": o.Tables,
		"identities": o.Identities, "blocks": o.Blocks, "names": o.Names, "ports": o.Ports, "defaults": o.Defaults, "steps": o.Steps, "conditions": o.Conditions,
		"conns": o.Conns, "denied": o.Denied, "entries": o.Entries, "begun": o.Begun, "alarm_at": o.AlarmAt, "alarms": o.Alarms, "counts": o.Counts, "frames": o.Frames} {
		if spec.Maps[name] != nil {
			shared[name] = m
			spec.Maps[name].MaxEntries = m.MaxEntries()
		}
	}
	e := &edge{fresh: map[string]bool{}}
	if err := spec.LoadAndAssign(&e.objects, &ebpf.CollectionOptions{MapReplacements: shared}); err != nil {
		return nil, fmt.Errorf("load the edge program: %w", err)
	}
	return e, nil
}

// attach puts the program to work in these namespaces, by cookie, and takes it
// away where it is no longer wanted. This kind of link cannot be swapped: a new
// one is put beside the old, which then goes.
func (e *edge) attach(dir string, namespaces map[uint64]string) error {
	wanted := map[string]bool{}
	for cookie, path := range namespaces {
		for suffix, family := range families {
			name := fmt.Sprintf("edge%s-%d", suffix, cookie)
			wanted[name] = true
			if e.fresh[name] {
				continue
			}
			err := inNamespace(path, func() error {
				l, err := e.link(family)
				if err != nil {
					return err
				}
				defer l.Close()
				// Renamed, so that there is a pin at every instant.
				pin := filepath.Join(dir, name)
				if err := l.Pin(pin + "-new"); err != nil {
					return err
				}
				return os.Rename(pin+"-new", pin)
			})
			if errors.Is(err, os.ErrNotExist) {
				continue // the namespace has just gone
			}
			if err != nil {
				return fmt.Errorf("attach %s: %w", name, err)
			}
			e.fresh[name] = true
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list pinned links: %w", err)
	}
	for _, x := range entries {
		if strings.HasPrefix(x.Name(), "edge") && !wanted[x.Name()] {
			delete(e.fresh, x.Name())
			if err := os.Remove(filepath.Join(dir, x.Name())); err != nil {
				return fmt.Errorf("take down %s: %w", x.Name(), err)
			}
		}
	}
	return nil
}

// link attaches the program in this thread's namespace. Two links may not have
// one priority, and an older one may still be there.
func (e *edge) link(family link.NetfilterProtocolFamily) (link.Link, error) {
	for priority := int32(-100); ; priority++ {
		l, err := link.AttachNetfilter(link.NetfilterOptions{Program: e.objects.WeftEdge, ProtocolFamily: family, Hook: localIn, Priority: priority})
		if !errors.Is(err, unix.EBUSY) || priority == -90 {
			return l, err
		}
	}
}
