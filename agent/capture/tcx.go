package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// tcxHooks holds programs by tcx links, pinned in dir by the names of their pins.
type tcxHooks struct{ dir string }

func (h *tcxHooks) path(p pin) string { return filepath.Join(h.dir, p.String()) }

func (h *tcxHooks) scan() (map[pin]bool, error) {
	entries, err := os.ReadDir(h.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list %s: %w", h.dir, err)
	}
	there := make(map[pin]bool)
	for _, e := range entries {
		if p, ok := parsePin(e.Name()); ok {
			there[p] = true
		}
	}
	return there, nil
}

// attach makes sure of one link: a live one gets the new program, in place;
// one whose device has gone is made anew.
func (h *tcxHooks) attach(p pin, renew bool, program func() (*ebpf.Program, error)) error {
	old, err := link.LoadPinnedLink(h.path(p), nil)
	if err == nil {
		defer old.Close()
		if live(old, p) {
			if !renew {
				return nil
			}
			prog, err := program()
			if err != nil {
				return err
			}
			if err := old.Update(prog); err != nil {
				return fmt.Errorf("swap the program: %w", err)
			}
			return nil
		}
	}
	if err := os.Remove(h.path(p)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpin a dead link: %w", err)
	}
	prog, err := program()
	if err != nil {
		return err
	}
	hook := ebpf.AttachTCXIngress
	if p.out {
		hook = ebpf.AttachTCXEgress
	}
	fresh, err := link.AttachTCX(link.TCXOptions{Interface: p.ifindex, Program: prog, Attach: hook})
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	defer fresh.Close()
	if err := fresh.Pin(h.path(p)); err != nil {
		return fmt.Errorf("pin the link: %w", err)
	}
	return nil
}

// live says whether a link still holds its device.
func live(l link.Link, p pin) bool {
	info, err := l.Info()
	if err != nil {
		return false
	}
	tcx := info.TCX()
	return tcx != nil && tcx.Ifindex == uint32(p.ifindex)
}

// detach detaches a pinned link and unpins it. Unpinning alone would detach
// it too, but some time later.
func (h *tcxHooks) detach(p pin) error {
	if l, err := link.LoadPinnedLink(h.path(p), nil); err == nil {
		defer l.Close()
		if err := l.Detach(); err != nil && attached(l) {
			return fmt.Errorf("detach %s: %w", p, err)
		}
	}
	if err := os.Remove(h.path(p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin %s: %w", p, err)
	}
	return nil
}

// attached says whether a link still holds a device.
func attached(l link.Link) bool {
	info, err := l.Info()
	return err == nil && info.TCX() != nil && info.TCX().Ifindex != 0
}
