package bpf

import (
	"fmt"
	"os"
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
	if err := firstError(
		func() error { return d.write(d.last) },
		func() error {
			if d.edge == nil {
				return nil
			}
			return d.edge.attach(d.pin("links"), d.last.paths)
		},
		func() error { return d.guestPorts.attach(d.last.guests, d) },
		func() error { return d.clean(d.last) },
	); err != nil {
		return found, fmt.Errorf("repair what was changed: %w", err)
	}
	return found, nil
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
	for _, m := range []struct {
		name    string
		large   bool
		refresh func() (int, error)
	}{
		{"cgroups", false, d.cgroups.refresh}, {"slots", false, d.slots.refresh}, {"namespaces", false, d.namespaces.refresh}, {"tables", false, d.tables.refresh},
		{"defaults", false, d.defaults.refresh}, {"names", false, d.names.refresh}, {"addresses", true, d.addresses.refresh}, {"identities", true, d.identities.refresh},
		{"badges", false, d.options.badges.refresh}, {"callers", true, d.options.callers.refresh}, {"residents", true, d.options.residents.refresh}, {"callees", true, d.options.callees.refresh},
		{"blocks", true, d.blocks.refresh}, {"ports", true, d.ports.refresh}, {"steps", true, d.steps.refresh}, {"conditions", true, d.conditions.refresh},
	} {
		if m.large && !deep {
			continue
		}
		n, err := m.refresh()
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
