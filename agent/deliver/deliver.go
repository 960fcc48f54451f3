// Package deliver is the tool's side of a tap: it accepts the streams that the
// plan grants and puts their frames on landing devices.
package deliver

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"weft/wire/wirepb"
)

// Config of a Deliver. The devices are made in the network namespace that the
// program runs in.
type Config struct {
	// Attach is how the program on a device is held: AttachAuto unless given.
	Attach Attach
}

// Deps are what a Deliver needs from outside.
type Deps struct {
	Log *slog.Logger
}

// Deliver is the reconciler of the deliver section.
type Deliver struct {
	cfg      Config
	log      *slog.Logger
	instance uint64

	applying sync.Mutex // one Apply, Remove or Close at a time

	mu      sync.Mutex
	applied bool
	sources map[sourceKey]*source
	devices map[string]*device
	broken  map[string]error // devices that could not be had
}

// sourceKey is one right to send: a line and who may send it.
type sourceKey struct{ line, spiffe string }

// The states of a delivery.
const (
	itemReady = "Ready"
	itemError = "Error"
)

// New returns a Deliver that has touched nothing yet.
func New(cfg Config, deps Deps) (*Deliver, error) {
	if deps.Log == nil {
		return nil, errors.New("deliver needs a log")
	}
	switch cfg.Attach {
	case "", AttachAuto, AttachTCX, AttachClsact:
	default:
		return nil, fmt.Errorf("attach %q: want auto, tcx or clsact", cfg.Attach)
	}
	var b [8]byte
	rand.Read(b[:])
	return &Deliver{cfg: cfg, log: deps.Log, instance: binary.NativeEndian.Uint64(b[:]) | 1,
		sources: make(map[sourceKey]*source), devices: make(map[string]*device), broken: make(map[string]error)}, nil
}

// Apply makes the section's landing devices and grants, and no more: streams
// whose grant is gone are cut, devices that no line uses are removed. The items are
// one for each source of each line, "LINE/HOST".
func (d *Deliver) Apply(ctx context.Context, section *wirepb.DeliverSection) ([]*wirepb.ItemStatus, error) {
	d.applying.Lock()
	defer d.applying.Unlock()
	wanted := make(map[string]bool)
	grants := make(map[sourceKey]grant)
	for _, l := range section.GetLines() {
		if l.GetLine() == "" {
			return nil, errors.New("a line has no id")
		}
		wanted[l.GetDevice()] = true
		for _, p := range l.GetSources() {
			if p.GetSpiffeId() == "" {
				return nil, fmt.Errorf("line %s: source %s has no identity", l.GetLine(), p.GetName())
			}
			grants[sourceKey{l.GetLine(), p.GetSpiffeId()}] = grant{device: l.GetDevice(), host: p.GetName()}
		}
	}
	d.cut(grants)
	err := d.applyDevices(wanted)
	d.grant(grants)
	var items []*wirepb.ItemStatus
	for _, l := range section.GetLines() {
		for _, p := range l.GetSources() {
			s := &wirepb.ItemStatus{Item: l.GetLine() + "/" + p.GetName(), State: itemReady}
			d.mu.Lock()
			if broken := d.broken[l.GetDevice()]; broken != nil {
				s.State, s.Message = itemError, broken.Error()
			}
			d.mu.Unlock()
			items = append(items, s)
		}
	}
	return items, err
}

// cut ends the streams that are granted no more and waits for them.
func (d *Deliver) cut(grants map[sourceKey]grant) {
	d.mu.Lock()
	var gone []*source
	for key, s := range d.sources {
		if g, ok := grants[key]; !ok || g.device != s.grant.device {
			gone = append(gone, s)
			delete(d.sources, key)
		}
	}
	d.mu.Unlock()
	for _, s := range gone {
		s.end()
	}
}

func (d *Deliver) grant(grants map[sourceKey]grant) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.applied = true
	for key, g := range grants {
		if d.sources[key] == nil {
			d.sources[key] = &source{grant: g}
		}
	}
}

// applyDevices makes what is wanted and removes what is ours and is not.
func (d *Deliver) applyDevices(wanted map[string]bool) error {
	var errs []error
	d.mu.Lock()
	clear(d.broken)
	for name, dev := range d.devices {
		if !wanted[name] || !dev.alive() {
			dev.close()
			delete(d.devices, name)
		}
	}
	d.mu.Unlock()
	ours, err := ourDevices()
	if err != nil {
		return err
	}
	for _, name := range ours {
		if !wanted[name] {
			if err := removeLink(name); err != nil {
				errs = append(errs, err)
			}
		}
	}
	for name := range wanted {
		if _, have := d.devices[name]; have {
			continue
		}
		dev, err := openDevice(name, d.cfg.Attach)
		d.mu.Lock()
		if err != nil {
			d.broken[name] = err
			errs = append(errs, err)
		} else {
			if dev.unblocked != nil {
				d.log.Warn("frames on the landing device also reach the host's own stack", "device", name, "err", dev.unblocked)
			}
			d.devices[name] = dev
		}
		d.mu.Unlock()
	}
	return errors.Join(errs...)
}

// Close ends all streams and leaves the devices.
func (d *Deliver) Close() error {
	d.applying.Lock()
	defer d.applying.Unlock()
	d.cut(nil)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.applied = false
	for name, dev := range d.devices {
		dev.close()
		delete(d.devices, name)
	}
	return nil
}

// Remove ends all streams and takes every device of ours away.
func (d *Deliver) Remove() error {
	if err := d.Close(); err != nil {
		return err
	}
	d.applying.Lock()
	defer d.applying.Unlock()
	return d.applyDevices(nil)
}
