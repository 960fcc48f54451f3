package capture

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"weft/internal/tchook"
)

// clsactHooks holds programs by direct-action filters on clsact qdiscs. The
// kernel keeps filters by itself, so they need no pin: they are known by their
// name, "weft:OWNER:SLOT", where OWNER stands for the directory of our pins. A
// qdisc has no name. That we have made one is written down as an empty
// directory beside the pins, "qdisc-IFINDEX"; where that is lost, an empty
// qdisc stays, which nobody feels.
type clsactHooks struct {
	base, dir string
	table     *tchook.Table // of the last scan; attach and detach keep it right
}

// prefix is how the names of our filters begin.
func (h *clsactHooks) prefix() string {
	sum := sha256.Sum256([]byte(h.base))
	return fmt.Sprintf("weft:%x:", sum[:4])
}

func (h *clsactHooks) name(p pin) string { return fmt.Sprintf("%s%d", h.prefix(), p.slot) }

func hookOf(p pin) tchook.Hook { return tchook.Hook{Ifindex: p.ifindex, Egress: p.out} }

func (h *clsactHooks) scan() (map[pin]bool, error) {
	table, err := tchook.Scan(h.prefix())
	if err != nil {
		return nil, err
	}
	h.table = table
	there := make(map[pin]bool)
	for _, f := range table.Own() {
		p := pin{ifindex: f.Ifindex, out: f.Egress}
		if _, err := fmt.Sscanf(f.Name, h.prefix()+"%d", &p.slot); err == nil && h.name(p) == f.Name {
			there[p] = true
		}
	}
	return there, h.forgetQdiscs()
}

func (h *clsactHooks) marker(ifindex int) string {
	return filepath.Join(h.dir, fmt.Sprintf("qdisc-%d", ifindex))
}

// forgetQdiscs takes back our word for qdiscs that have gone.
func (h *clsactHooks) forgetQdiscs() error {
	entries, err := os.ReadDir(h.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list %s: %w", h.dir, err)
	}
	for _, e := range entries {
		var ifindex int
		if _, err := fmt.Sscanf(e.Name(), "qdisc-%d", &ifindex); err != nil || h.table.HasClsact(ifindex) {
			continue
		}
		if err := os.Remove(h.marker(ifindex)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget a qdisc: %w", err)
		}
	}
	return nil
}

// attach makes sure of one filter. Ours runs before all others that let it,
// because another's that says what becomes of a frame ends the chain there.
func (h *clsactHooks) attach(p pin, renew bool, program func() (*ebpf.Program, error)) error {
	old, there := h.table.Find(hookOf(p), h.name(p))
	behind := there && h.table.Behind(old)
	if there && !renew && !behind {
		return nil
	}
	prog, err := program()
	if err != nil {
		return err
	}
	if there && !behind {
		return h.table.Swap(old, prog)
	}
	made, err := h.table.Add(hookOf(p), h.name(p), h.table.First(hookOf(p)), prog)
	if made {
		// Not before it is ours for certain: a word for another's would be worse than none.
		if err := os.Mkdir(h.marker(p.ifindex), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("write down the qdisc: %w", err)
		}
	}
	if err != nil {
		return err
	}
	if behind { // it has just got a filter before the others
		return h.table.Delete(old)
	}
	return nil
}

// detach takes a filter away, all of that name, and our qdisc with its last.
func (h *clsactHooks) detach(p pin) error {
	for {
		f, there := h.table.Find(hookOf(p), h.name(p))
		if !there {
			break
		}
		if err := h.table.Delete(f); err != nil {
			return err
		}
	}
	if _, err := os.Stat(h.marker(p.ifindex)); err != nil {
		return nil // not made by us
	}
	if err := h.table.DeleteEmpty(p.ifindex); err != nil {
		return err
	}
	if !h.table.HasClsact(p.ifindex) {
		if err := os.Remove(h.marker(p.ifindex)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget a qdisc: %w", err)
		}
	}
	return nil
}
