package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf/link"
)

// Close lets go of everything and leaves it at work.
func (d *Driver) Close() error {
	var errs []error
	errs = append(errs, d.guestPorts.close()) // before the answerer it sends by
	if d.answers != nil {
		d.answers.close()
	}
	if d.hearer != nil {
		d.hearer.close()
		d.hearer = nil
	}
	if d.watch != nil {
		d.watch.close()
		d.watch = nil
	}
	if d.learner != nil {
		d.learner.close()
		d.saveNames()
	}
	for _, l := range d.links {
		errs = append(errs, l.Close())
	}
	clear(d.links)
	errs = append(errs, d.drops.close())
	if d.edge != nil {
		errs = append(errs, d.edge.objects.Close())
	}
	errs = append(errs, d.identities.close(), d.steps.close())
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

func removePins(dir string) error { return errors.Join(removeFilters(dir), removeLayouts(dir, "")) }

// removeLayouts takes down what drivers of every layout but one have pinned.
func removeLayouts(dir, keep string) error {
	layouts, err := filepath.Glob(filepath.Join(dir, "policy-v*"))
	if err != nil {
		return err
	}
	for _, l := range layouts {
		if filepath.Base(l) == keep {
			continue
		}
		if err := removeLayout(l); err != nil {
			return err
		}
	}
	return nil
}

func removeLayout(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "links", "*"))
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
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove pinned objects: %w", err)
	}
	return nil
}

// Left says whether a driver with this directory has left programs at work.
func Left(cfg Config) bool {
	names, err := filepath.Glob(filepath.Join(cfg.PinDir, "policy-v*", "links", "*"))
	return err == nil && len(names) > 0
}
