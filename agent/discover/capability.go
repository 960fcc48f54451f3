package discover

import (
	"errors"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// noDevice is no device's number: attaching to it fails without touching any.
const noDevice = 0x7ffffff0

// probe asks the kernel what it can do: "yes", "no: REASON" or
// "unknown: REASON".
func probe() map[string]string {
	return map[string]string{
		"bpf":         answer(features.HaveProgramType(ebpf.SchedCLS)),
		"bpf.ringbuf": answer(features.HaveMapType(ebpf.RingBuf)),
		"bpf.btf":     btf(),
		"tap.tcx":     tcx(),
	}
}

func answer(err error) string {
	switch {
	case err == nil:
		return "yes"
	case errors.Is(err, ebpf.ErrNotSupported):
		return "no: the kernel does not support it"
	}
	return "unknown: " + err.Error()
}

func btf() string {
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return "no: the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)"
	}
	return "yes"
}

// tcx tries to attach to a device that does not exist: a kernel with tcx
// (6.6) looks for the device, an older one does not know the attachment.
func tcx() string {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "MIT", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	if err != nil {
		return "unknown: " + err.Error()
	}
	defer prog.Close()
	l, err := link.AttachTCX(link.TCXOptions{Interface: noDevice, Program: prog, Attach: ebpf.AttachTCXIngress})
	switch {
	case err == nil:
		l.Close()
		return "yes"
	case errors.Is(err, unix.ENODEV):
		return "yes"
	case errors.Is(err, unix.EINVAL), errors.Is(err, ebpf.ErrNotSupported):
		return "no: the kernel has no tcx (Linux 6.6)"
	}
	return "unknown: " + err.Error()
}
