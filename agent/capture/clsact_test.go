package capture_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/agent/capture"
	"weft/internal/tchook"
	"weft/internal/testreq"
	"weft/wire/wirepb"
)

// foreign puts somebody else's filter on a device's ingress hook: it ends the
// chain, as those of container networks do.
func foreign(t testing.TB, n namespace, device, name string, priority uint16, handle uint32) {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, int32(netlink.TC_ACT_OK)), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	n.do(t, func() {
		dev, err := netlink.LinkByName(device)
		if err != nil {
			t.Error(err)
			return
		}
		if err := netlink.FilterAdd(&netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: dev.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS,
			Priority: priority, Handle: handle, Protocol: unix.ETH_P_ALL}, Fd: prog.FD(), Name: name, DirectAction: true}); err != nil {
			t.Error(err)
		}
	})
}

// filterNames are the names of a device's filters, ours as "weft", in their order.
func filterNames(t testing.TB, n namespace, device string) (out string) {
	t.Helper()
	n.do(t, func() {
		dev, err := netlink.LinkByName(device)
		if err != nil {
			t.Error(err)
			return
		}
		for _, f := range filters(t, dev.Attrs().Index) {
			name, _, _ := strings.Cut(f.Name, ":")
			out += name + " "
		}
	})
	return out
}

// Whoever else filters there keeps what he has, and the tap sees every frame.
func TestForeignFiltersAndQdiscs(t *testing.T) {
	need(t)
	t.Setenv(attachEnv, string(capture.AttachClsact))
	w := newWorld(t, 1500)
	tool := newToolSide(t)
	tool.grant(t, w, "uid/a", "uid/b")
	c := newCapture(t, testreq.BPFFS(t), tool)
	runCapture(t, c)
	w.host.sh(t, "tc qdisc add dev v1 clsact")
	foreign(t, w.host, "v1", "theirs", 1, 1)
	a, b := captureLine("uid/a", "c1"), captureLine("uid/b", "c1", "c2")
	apply(t, w, c, a, b)
	if got := filterNames(t, w.host, "v1"); got != "weft weft theirs weft weft " {
		t.Errorf("filters of v1: %s", got)
	}
	foreign(t, w.host, "v1", "newcomer", 1, 2)
	foreign(t, w.host, "v2", "guest", 7, 1) // on a qdisc that we have made
	apply(t, w, c, a, b)
	if got := filterNames(t, w.host, "v1"); got != "weft weft newcomer theirs weft weft " {
		t.Errorf("filters of v1: %s", got)
	}
	connected(t, c)
	hush(t, c)
	before := quiet(t, c, "uid/a")
	w.c1.sh(t, "ping -q -f -c 20 10.9.0.12")
	if l := quiet(t, c, "uid/a"); l.Delivered.Packets-before.Delivered.Packets < 40 {
		t.Errorf("before %+v\nafter %+v", before, l)
	}
	// Somebody takes ours away; the next Apply brings it back.
	w.host.sh(t, "tc filter del dev v1 egress")
	apply(t, w, c, a, b)
	if got := filterNames(t, w.host, "v1"); got != "weft weft newcomer theirs weft weft " {
		t.Errorf("filters of v1: %s", got)
	}
	apply(t, w, c)
	if got := filterNames(t, w.host, "v1") + filterNames(t, w.host, "v2"); got != "newcomer theirs guest " {
		t.Errorf("left: %s", got)
	}
	if qdisc(t, w.host, "v1") != "clsact" || qdisc(t, w.host, "v2") != "clsact" {
		t.Error("a qdisc went with its filters of others")
	}
}

// An ingress qdisc of somebody's has no place for what goes out.
func TestForeignIngressQdisc(t *testing.T) {
	need(t)
	t.Setenv(attachEnv, string(capture.AttachClsact))
	w := newWorld(t, 1500)
	tool := newToolSide(t)
	c := newCapture(t, testreq.BPFFS(t), tool)
	w.host.sh(t, "tc qdisc add dev v1 ingress")
	w.host.do(t, func() {
		items, err := c.Apply(context.Background(), &wirepb.CaptureSection{Lines: []*wirepb.CaptureLine{captureLine("uid/a", "c1", "c2")}}, workloads)
		if err != nil || len(items) != 2 {
			t.Fatal(items, err)
		}
		if it := items[0]; it.State != "Error" || !strings.Contains(it.Message, "tc qdisc add dev DEVICE clsact") {
			t.Errorf("%v", it)
		}
		if items[1].State != "Capturing" {
			t.Errorf("%v", items[1])
		}
	})
	apply(t, w, c)
	if attached(t, w.host, "v1") != 0 || qdisc(t, w.host, "v1") != "ingress" {
		t.Error("v1 is not as it was")
	}
}

// An agent that attaches in the other way than the one before leaves nothing of
// that behind, and keeps lines and accounts.
func TestWaysToAttachChange(t *testing.T) {
	need(t)
	if tchook.TCX().No() {
		t.Skip("one way only: ", tchook.TCX())
	}
	w := newWorld(t, 1500)
	tool := newToolSide(t)
	tool.grant(t, w, "uid/a")
	dir := testreq.BPFFS(t)
	var seen uint64
	for _, change := range []struct {
		way   capture.Attach
		qdisc string
	}{{capture.AttachTCX, ""}, {capture.AttachClsact, "clsact"}, {capture.AttachAuto, ""}} {
		t.Setenv(attachEnv, string(change.way))
		c := newCapture(t, dir, tool)
		stop := runCapture(t, c)
		apply(t, w, c, captureLine("uid/a", "c1"))
		if n, q := attached(t, w.host, "v1"), qdisc(t, w.host, "v1"); n != 2 || q != change.qdisc {
			t.Errorf("%s: %d programs, qdisc %q", change.way, n, q)
		}
		w.c1.sh(t, "ping -q -f -c 10 10.9.0.12")
		now := quiet(t, c, "uid/a").Seen.Packets
		if now < seen+20 {
			t.Errorf("%s: %d seen after %d", change.way, now, seen)
		}
		seen = now
		stop()
		c.Close()
	}
}

// Filters outlive a BPF file system that is lost; they are known all the same.
func TestFiltersWithoutPins(t *testing.T) {
	need(t)
	t.Setenv(attachEnv, string(capture.AttachClsact))
	w := newWorld(t, 1500)
	tool := newToolSide(t)
	dir := testreq.BPFFS(t)
	lose := func(c *capture.Capture) {
		t.Helper()
		c.Close()
		if err := os.RemoveAll(dir + "/capture-v2"); err != nil {
			t.Fatal(err)
		}
	}
	c := newCapture(t, dir, tool)
	apply(t, w, c, captureLine("uid/a", "c1"), captureLine("uid/b", "c1", "c2"))
	lose(c)
	c = newCapture(t, dir, tool)
	apply(t, w, c, captureLine("uid/c", "c1"))
	if attached(t, w.host, "v1") != 2 || attached(t, w.host, "v2") != 0 {
		t.Errorf("%d programs on v1, %d on v2", attached(t, w.host, "v1"), attached(t, w.host, "v2"))
	}
	lose(c)
	c = newCapture(t, dir, tool)
	w.host.do(t, func() {
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
	})
	if attached(t, w.host, "v1") != 0 {
		t.Error("filters are left")
	}
}

func TestAttachIsChecked(t *testing.T) {
	_, err := capture.New(capture.Config{BPFDir: "/x", Attach: "xdp"}, capture.Deps{})
	if err == nil || !strings.Contains(err.Error(), `attach "xdp": want auto, tcx or clsact`) {
		t.Error(err)
	}
}
