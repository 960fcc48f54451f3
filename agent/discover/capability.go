package discover

import (
	"errors"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"

	"weft/internal/tchook"
)

// probe asks the kernel what it can do: "yes", "no: REASON" or
// "unknown: REASON".
func probe() map[string]string {
	return map[string]string{
		"bpf":                   answer(features.HaveProgramType(ebpf.SchedCLS)),
		"bpf.ringbuf":           answer(features.HaveMapType(ebpf.RingBuf)),
		"bpf.btf":               btf(),
		tchook.CapabilityTCX:    tchook.TCX().String(),
		tchook.CapabilityClsact: tchook.Clsact().String(),
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
