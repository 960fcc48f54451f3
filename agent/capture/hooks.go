package capture

import (
	"fmt"

	"github.com/cilium/ebpf"

	"weft/internal/tchook"
)

// Attach is how programs are held on interfaces.
type Attach string

// The ways to attach.
const (
	// AttachAuto takes tcx where the kernel has it, and clsact where it has not.
	AttachAuto Attach = "auto"
	// AttachTCX is tcx links (kernel 6.6 and later).
	AttachTCX Attach = "tcx"
	// AttachClsact is direct-action filters on a clsact qdisc.
	AttachClsact Attach = "clsact"
)

// hooks is one way to hold the lines' programs on interfaces, such that they
// stay when the agent goes and a new agent knows them.
type hooks interface {
	// scan reads which of our pins are in the kernel, those of every line.
	scan() (map[pin]bool, error)
	// attach makes sure of a pin that scan may or may not have found. What is
	// there and works stays; with renew it gets the program, in place.
	attach(p pin, renew bool, program func() (*ebpf.Program, error)) error
	// detach takes a pin away; one that is gone is no error.
	detach(p pin) error
}

// chooseHooks returns the way to attach in this directory of pins, and the other.
func chooseHooks(want Attach, base, dir string, test func() tchook.Support) (way Attach, use, other hooks, err error) {
	tcx, clsact := &tcxHooks{dir: dir}, &clsactHooks{base: base, dir: dir}
	if want == AttachAuto {
		switch have := test(); {
		case have.Yes():
			want = AttachTCX
		case have.No():
			want = AttachClsact
		default: // a guess could leave taps attached in the other way, unseen
			return "", nil, nil, fmt.Errorf("find out whether the kernel has tcx: %v; set attach to tcx or clsact where it cannot be found out", have)
		}
	}
	if want == AttachTCX {
		return AttachTCX, tcx, clsact, nil
	}
	return AttachClsact, clsact, tcx, nil
}

// detachAll takes away every pin.
func detachAll(h hooks) error {
	there, err := h.scan()
	if err != nil {
		return err
	}
	for p := range there {
		if err := h.detach(p); err != nil {
			return err
		}
	}
	return nil
}
