package capture_test

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"weft/agent/capture"
	"weft/internal/tchook"
)

// attachEnv makes every test attach in the way it names; auto unless given.
const attachEnv = "WEFT_CAPTURE_ATTACH"

// way is how the tests that name none attach.
func way() capture.Attach { return capture.Attach(os.Getenv(attachEnv)) }

// eachWay runs f for every way to attach that this kernel has.
func eachWay(t *testing.T, f func(t *testing.T)) {
	for _, w := range []capture.Attach{capture.AttachTCX, capture.AttachClsact} {
		t.Run(string(w), func(t *testing.T) {
			if w == capture.AttachTCX && tchook.TCX().No() {
				t.Skip(tchook.TCX())
			}
			t.Setenv(attachEnv, string(w))
			f(t)
		})
	}
}

// attached counts our programs on a device's two hooks, in whichever way they are attached.
func attached(t testing.TB, n namespace, device string) (count int) {
	t.Helper()
	n.do(t, func() {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			t.Error(err)
			return
		}
		for _, hook := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			if tchook.TCX().No() {
				break
			}
			got, err := link.QueryPrograms(link.QueryOptions{Target: dev.Index, Attach: hook})
			if err != nil {
				t.Error(err)
				return
			}
			count += len(got.Programs)
		}
		for _, f := range filters(t, dev.Index) {
			if strings.HasPrefix(f.Name, "weft:") {
				count++
			}
		}
	})
	return count
}

// filters are the BPF filters on a device, ours and others'.
func filters(t testing.TB, ifindex int) (out []*netlink.BpfFilter) {
	t.Helper()
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		list, err := netlink.FilterList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}, parent)
		if err != nil {
			continue // no clsact qdisc
		}
		for _, f := range list {
			if b, ok := f.(*netlink.BpfFilter); ok {
				out = append(out, b)
			}
		}
	}
	return out
}

// qdisc tells the kind of the qdisc that holds a device's filters, "" for none.
func qdisc(t testing.TB, n namespace, device string) (kind string) {
	t.Helper()
	n.do(t, func() {
		dev, err := netlink.LinkByName(device)
		if err != nil {
			t.Error(err)
			return
		}
		list, err := netlink.QdiscList(dev)
		if err != nil {
			t.Error(err)
		}
		for _, q := range list {
			if q.Type() == "clsact" || q.Type() == "ingress" {
				kind = q.Type()
			}
		}
	})
	return kind
}

func containsWeft(s string) bool { return strings.Contains(s, "weft") }
