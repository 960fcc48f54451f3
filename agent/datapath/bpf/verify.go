package bpf

import (
	"fmt"
	"os"
	"slices"
)

// Verify looks at the links, the revision and the maps, the large ones only where
// deep, and repairs what is not as the last Apply left it.
func (d *Driver) Verify(deep bool) ([]string, error) {
	d.applying.Lock()
	defer d.applying.Unlock()
	if d.last == nil || !d.attached {
		return nil, nil
	}
	found, err := d.verifyHooks()
	if err != nil {
		return found, err
	}
	if d.edge != nil {
		lost := d.edge.verify(d.pin("links"))
		found = append(found, lost...)
	}
	at, err := d.guestPorts.verify(d.last.guests)
	found = append(found, at...)
	if err != nil {
		return found, err
	}
	maps, err := d.verifyMaps(deep)
	found = append(found, maps...)
	if err != nil || len(found) == 0 {
		return found, err
	}
	if err := d.repair(); err != nil {
		return found, fmt.Errorf("repair what was changed: %w", err)
	}
	return found, nil
}

// repair puts back what was compared, in the order of an Apply.
func (d *Driver) repair() error {
	all := append(d.tableMaps.all(), d.addresses, d.options.residents, d.options.callers, d.options.badges, d.options.callees, d.names, d.slots, d.namespaces, d.cgroups)
	all = append(all, d.guestPorts.maps()...)
	for _, m := range all {
		if err := m.write(); err != nil {
			return err
		}
	}
	if err := d.advance(); err != nil {
		return err
	}
	if d.edge != nil {
		if err := d.edge.attach(d.pin("links"), d.last.paths); err != nil {
			return err
		}
	}
	if err := d.guestPorts.attach(d.last.guests, d); err != nil {
		return err
	}
	if err := settle(); err != nil {
		return err
	}
	slices.Reverse(all)
	for _, m := range all {
		if err := m.erase(); err != nil {
			return err
		}
	}
	return nil
}

// verifyMaps compares the maps with what was written.
func (d *Driver) verifyMaps(deep bool) (found []string, err error) {
	var control policyControl
	if err := d.objects.Control.Lookup(uint32(0), &control); err != nil {
		return nil, fmt.Errorf("read the revision in force: %w", err)
	}
	if control.Revision != d.revision {
		found = append(found, fmt.Sprintf("the revision in force was %d, not %d", control.Revision, d.revision))
		d.revision = max(d.revision, control.Revision)
	}
	type compared struct {
		name  string
		large bool
		pending
	}
	list := []compared{
		{"cgroups", false, d.cgroups}, {"slots", false, d.slots}, {"namespaces", false, d.namespaces}, {"tables", false, d.tables},
		{"defaults", false, d.defaults}, {"names", true, d.names}, {"addresses", true, d.addresses}, {"identities", true, d.identities},
		{"badges", false, d.options.badges}, {"callers", true, d.options.callers}, {"residents", true, d.options.residents}, {"callees", true, d.options.callees},
		{"blocks", true, d.blocks}, {"ports", true, d.ports}, {"steps", true, d.steps}, {"conditions", true, d.conditions},
	}
	if p := d.guestPorts; p != nil {
		list = append(list, compared{"guests", false, p.guests}, compared{"homes", true, p.homes})
	}
	for _, m := range list {
		if m.large && !deep {
			continue
		}
		n, err := m.compare()
		if err != nil {
			return found, err
		}
		if n > 0 {
			found = append(found, fmt.Sprintf("%d entries of the map %s were changed", n, m.name))
		}
	}
	return found, nil
}

// verify forgets the edge's links whose pins are gone, so that attach makes them
// again.
func (e *edge) verify(dir string) (found []string) {
	for name := range e.fresh {
		if _, err := os.Stat(dir + "/" + name); err != nil {
			found = append(found, "the pin of the link "+name+" was removed")
			delete(e.fresh, name)
		}
	}
	return found
}
