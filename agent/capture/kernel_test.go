package capture_test

import (
	"net"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// tcx counts the programs on a device's two hooks.
func tcx(t testing.TB, n namespace, device string) (count int) {
	t.Helper()
	n.do(t, func() {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			t.Error(err)
			return
		}
		for _, hook := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			got, err := link.QueryPrograms(link.QueryOptions{Target: dev.Index, Attach: hook})
			if err != nil {
				t.Error(err)
				return
			}
			count += len(got.Programs)
		}
	})
	return count
}

func containsWeft(s string) bool { return strings.Contains(s, "weft") }
