// Package tchook is about the two traffic-control hooks of a network interface:
// which of the two ways to attach a BPF program there the kernel has, and the
// older way, a clsact qdisc with filters. The newer, tcx, is
// github.com/cilium/ebpf/link's.
package tchook

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The names under which a host reports what it has.
const (
	CapabilityTCX    = "tap.tcx"
	CapabilityClsact = "tap.clsact"
)

// Support is what a feature test found: yes, no, or could not tell, which is
// the zero value.
type Support struct {
	known, have bool
	reason      string
}

// Yes says that the kernel has the feature.
func (s Support) Yes() bool { return s.known && s.have }

// No says that the kernel lacks the feature; not to know is no No.
func (s Support) No() bool { return s.known && !s.have }

// String is "yes", "no: REASON" or "unknown: REASON".
func (s Support) String() string {
	switch {
	case s.Yes():
		return "yes"
	case s.No():
		return "no: " + s.reason
	}
	return "unknown: " + s.reason
}

var yes = Support{known: true, have: true}

func no(reason string) Support { return Support{known: true, reason: reason} }

func unknown(what string, err error) Support {
	return Support{reason: fmt.Sprintf("%s: %v", what, err)}
}

// noDevice is no device's number: attaching to it fails without touching any.
const noDevice = 0x7ffffff0

// pass is a program that lets every frame through to whatever comes next.
func pass() (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{Name: "weft_probe", Type: ebpf.SchedCLS, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, int32(netlink.TC_ACT_UNSPEC)), asm.Return()}})
}

// TCX says whether the kernel has tcx links. It tries to attach to a device that
// does not exist: a kernel with tcx looks for it, an older one does not
// know the attachment.
func TCX() Support {
	prog, err := pass()
	if err != nil {
		return unknown("load a program", err)
	}
	defer prog.Close()
	l, err := link.AttachTCX(link.TCXOptions{Interface: noDevice, Program: prog, Attach: ebpf.AttachTCXIngress})
	switch {
	case err == nil:
		l.Close()
		return yes
	case errors.Is(err, unix.ENODEV):
		return yes
	case errors.Is(err, unix.EINVAL), errors.Is(err, ebpf.ErrNotSupported):
		return no("the kernel has no tcx, which came with 6.6")
	}
	return unknown("attach by tcx", err)
}

// Clsact says whether the kernel has clsact qdiscs and BPF filters. It tries
// both on the loopback device of a network namespace made for that, which goes with
// the thread that made it.
func Clsact() Support {
	answer := make(chan Support)
	go onThread(func() { answer <- clsactHere() })
	return <-answer
}

// onThread runs f on a thread that ends with it, and never on the process's
// first, which cannot end and whose namespace is what /proc/self/ns shows.
func onThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			onThread(f) // elsewhere: this thread is held
		}()
		<-done
		runtime.UnlockOSThread()
		return
	}
	f() // and no unlock
}

func clsactHere() Support {
	prog, err := pass()
	if err != nil {
		return unknown("load a program", err)
	}
	defer prog.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return unknown("make a network namespace to try in", err)
	}
	const loopback = 1
	// The kernel answers ENOENT for a module that is not there, EOPNOTSUPP where
	// it was built without traffic control.
	missing := func(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) }
	if err := addQdisc(loopback); err != nil {
		if missing(err) {
			return no("the kernel has no clsact qdisc (module sch_ingress)")
		}
		return unknown("add a clsact qdisc", err)
	}
	f := Filter{Hook: Hook{Ifindex: loopback}, Priority: 1, Handle: 1, Name: "weft:probe"}
	if err := netlink.FilterAdd(f.netlink(prog)); err != nil {
		if missing(err) {
			return no("the kernel has no BPF filters (module cls_bpf)")
		}
		return unknown("add a BPF filter", err)
	}
	return yes
}
