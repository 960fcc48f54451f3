package bpf

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"weft/internal/tchook"
)

// portHook is one of the two hooks of a guest's port. What comes in there is the
// guest's egress.
type portHook struct {
	ifindex int
	egress  bool // of the guest
}

// String is the name of its pin.
func (h portHook) String() string {
	way := "in"
	if h.egress {
		way = "out"
	}
	return fmt.Sprintf("%s%s-%d", portPin, way, h.ifindex)
}

const portPin = "guest-"

func parsePortHook(name string) (h portHook, ok bool) {
	way, rest, _ := strings.Cut(strings.TrimPrefix(name, portPin), "-")
	if _, err := fmt.Sscanf(rest, "%d", &h.ifindex); err != nil {
		return h, false
	}
	h.egress = way == "out"
	return h, h.String() == name
}

// portHooks holds programs at ports, so that they stay when the agent goes.
type portHooks interface {
	// attach makes sure of one. A program of an older agent is swapped in place.
	attach(h portHook, prog *ebpf.Program) error
	// keep takes away all but these.
	keep(wanted map[portHook]bool) error
	// check names what is not as attach has left it, so that the next attach puts
	// it right.
	check(h portHook, prog *ebpf.Program) (fault string, err error)
}

// tcxPorts holds programs by tcx links, pinned among the others.
type tcxPorts struct {
	dir  string
	held map[portHook]link.Link
}

func (t *tcxPorts) pin(h portHook) string { return filepath.Join(t.dir, h.String()) }

// liveAt says whether a link holds this port's hook.
func liveAt(l link.Link, h portHook) bool {
	info, err := l.Info()
	return err == nil && info.TCX() != nil && int(info.TCX().Ifindex) == h.ifindex
}

func (t *tcxPorts) attach(h portHook, prog *ebpf.Program) error {
	if t.held[h] != nil {
		return nil
	}
	l, err := link.LoadPinnedLink(t.pin(h), nil)
	if err == nil {
		if liveAt(l, h) {
			if err := l.Update(prog); err != nil {
				l.Close()
				return fmt.Errorf("swap the program: %w", err)
			}
			t.held[h] = l
			return nil
		}
		l.Close()
	}
	if err := os.Remove(t.pin(h)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the pin of a dead link: %w", err)
	}
	// Before everybody else's: one that says what becomes of a frame ends the chain.
	hook := ebpf.AttachTCXEgress
	if h.egress {
		hook = ebpf.AttachTCXIngress
	}
	l, err = link.AttachTCX(link.TCXOptions{Interface: h.ifindex, Program: prog, Attach: hook, Anchor: link.Head()})
	if err != nil {
		return err
	}
	if err := l.Pin(t.pin(h)); err != nil {
		l.Close()
		return fmt.Errorf("pin the link: %w", err)
	}
	t.held[h] = l
	return nil
}

func (t *tcxPorts) keep(wanted map[portHook]bool) error {
	entries, err := os.ReadDir(t.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list pinned links: %w", err)
	}
	for _, e := range entries {
		h, ok := parsePortHook(e.Name())
		if !ok || wanted[h] {
			continue
		}
		t.drop(h)
		l, err := link.LoadPinnedLink(t.pin(h), nil)
		if err == nil {
			// Unpinning alone would detach it too, but some time later. Where the
			// device has gone there is nothing to detach.
			if err := l.Detach(); err != nil && liveAt(l, h) {
				l.Close()
				return fmt.Errorf("detach %s: %w", h, err)
			}
			l.Close()
		}
		if err := os.Remove(t.pin(h)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("unpin %s: %w", h, err)
		}
	}
	return nil
}

func (t *tcxPorts) drop(h portHook) {
	if l := t.held[h]; l != nil {
		l.Close()
		delete(t.held, h)
	}
}

func (t *tcxPorts) check(h portHook, prog *ebpf.Program) (string, error) {
	l := t.held[h]
	if l == nil {
		return "", nil
	}
	info, err := l.Info()
	if err != nil {
		return "", fmt.Errorf("look at the link %s: %w", h, err)
	}
	if info.TCX() == nil || int(info.TCX().Ifindex) != h.ifindex {
		t.drop(h)
		if _, err := netlink.LinkByIndex(h.ifindex); err != nil {
			return "", nil // the port is gone, and the guest with it
		}
		return "the program at the port " + h.String() + " was detached", nil
	}
	ours, err := prog.Info()
	if err != nil {
		return "", fmt.Errorf("look at the program of %s: %w", h, err)
	}
	if id, _ := ours.ID(); id != info.Program {
		if err := l.Update(prog); err != nil {
			return "", fmt.Errorf("put the program of %s back: %w", h, err)
		}
		return "the link " + h.String() + " was given another program", nil
	}
	if _, err := os.Stat(t.pin(h)); errors.Is(err, fs.ErrNotExist) {
		// The held link does not know that its pin is gone: a second handle has none.
		fresh, err := link.NewFromID(info.ID)
		if err == nil {
			err = fresh.Pin(t.pin(h))
		}
		if err != nil {
			return "", fmt.Errorf("pin %s again: %w", h, err)
		}
		t.drop(h)
		t.held[h] = fresh
		return "the pin of the link " + h.String() + " was removed", nil
	}
	return "", nil
}

// filterPorts holds programs by direct-action filters on clsact qdiscs, known by
// their name. That a qdisc is ours is noted as an empty directory, as the tap's is.
type filterPorts struct {
	base  string // directory of the driver's pins, which names the filters
	table *tchook.Table
	fresh map[portHook]bool // have this program
}

func portFilter(base string) string {
	sum := sha256.Sum256([]byte(base))
	return fmt.Sprintf("weft:%x:guest", sum[:4])
}

func (f *filterPorts) marker(ifindex int) string {
	return filepath.Join(f.base, layout, "qdiscs", fmt.Sprint(ifindex))
}

func tcHook(h portHook) tchook.Hook { return tchook.Hook{Ifindex: h.ifindex, Egress: !h.egress} }

func (f *filterPorts) scan() error {
	if f.table != nil {
		return nil
	}
	var err error
	f.table, err = tchook.Scan(portFilter(f.base))
	return err
}

func (f *filterPorts) attach(h portHook, prog *ebpf.Program) error {
	if err := f.scan(); err != nil {
		return err
	}
	name := portFilter(f.base)
	old, there := f.table.Find(tcHook(h), name)
	behind := there && f.table.Behind(old)
	if there && !behind {
		if f.fresh[h] {
			return nil
		}
		if err := f.table.Swap(old, prog); err != nil {
			return err
		}
		f.fresh[h] = true
		return nil
	}
	made, err := f.table.Add(tcHook(h), name, f.table.First(tcHook(h)), prog)
	if made {
		if err := os.MkdirAll(f.marker(h.ifindex), 0o700); err != nil {
			return fmt.Errorf("write down the qdisc: %w", err)
		}
	}
	if err != nil {
		return err
	}
	f.fresh[h] = true
	if behind {
		return f.table.Delete(old)
	}
	return nil
}

// keep looks anew, because others may have come and gone since.
func (f *filterPorts) keep(wanted map[portHook]bool) error {
	f.table = nil
	if err := f.scan(); err != nil {
		return err
	}
	for _, x := range f.table.Own() {
		h := portHook{ifindex: x.Ifindex, egress: !x.Egress}
		if wanted[h] {
			continue
		}
		delete(f.fresh, h)
		if err := f.table.Delete(x); err != nil {
			return err
		}
		if _, err := os.Stat(f.marker(x.Ifindex)); err != nil {
			continue // not made by us
		}
		if err := f.table.DeleteEmpty(x.Ifindex); err != nil {
			return err
		}
		if !f.table.HasClsact(x.Ifindex) {
			os.Remove(f.marker(x.Ifindex))
		}
	}
	f.table = nil
	return nil
}

func (f *filterPorts) check(h portHook, _ *ebpf.Program) (string, error) {
	if !f.fresh[h] {
		return "", nil
	}
	if err := f.scan(); err != nil {
		return "", err
	}
	if _, there := f.table.Find(tcHook(h), portFilter(f.base)); there {
		return "", nil
	}
	delete(f.fresh, h)
	if _, err := netlink.LinkByIndex(h.ifindex); err != nil {
		return "", nil
	}
	return "the filter at the port " + h.String() + " was taken away", nil
}

// removeFilters takes away what filterPorts has left.
func removeFilters(base string) error {
	f := &filterPorts{base: base, fresh: map[portHook]bool{}}
	if err := f.keep(nil); err != nil {
		return fmt.Errorf("take away filters at guests' ports: %w", err)
	}
	return nil
}
