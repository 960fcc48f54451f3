package capture_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"weft/agent/capture"
	"weft/agent/capture/bpf"
	"weft/internal/testreq"
	"weft/wire/wirepb"
)

// kernelIDs are the ids of every map, program and link that is pinned under
// dir, that a pinned link holds, or that is a filter of ours on a device.
func kernelIDs(t *testing.T, w *world, dir string, devices ...string) (maps []ebpf.MapID, progs []ebpf.ProgramID, links []link.ID) {
	t.Helper()
	for _, path := range pins(t, dir) {
		if strings.HasPrefix(filepath.Base(path), "qdisc-") {
			continue
		}
		if strings.HasPrefix(filepath.Base(path), "link-") {
			l, err := link.LoadPinnedLink(path, nil)
			if err != nil {
				t.Fatal(err)
			}
			info, err := l.Info()
			l.Close()
			if err != nil {
				t.Fatal(err)
			}
			progs, links = append(progs, info.Program), append(links, info.ID)
			continue
		}
		m, err := ebpf.LoadPinnedMap(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		info, err := m.Info()
		m.Close()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		maps = append(maps, id)
	}
	for _, name := range devices {
		w.host.do(t, func() {
			dev, err := net.InterfaceByName(name)
			if err != nil {
				t.Error(err)
				return
			}
			for _, f := range filters(t, dev.Index) {
				progs = append(progs, ebpf.ProgramID(f.Id))
			}
		})
	}
	return maps, progs, links
}

func TestDeletionLeavesNoKernelObject(t *testing.T) {
	need(t)
	eachWay(t, deletionLeavesNoKernelObject)
}

func deletionLeavesNoKernelObject(t *testing.T) {
	w := newWorld(t, 1500)
	tool := newToolSide(t)
	tool.grant(t, w, "uid/a", "uid/b")
	dir := testreq.BPFFS(t)
	c := newCapture(t, dir, tool)
	stop := runCapture(t, c)
	apply(t, w, c, captureLine("uid/a", "c1", "c2", "host"), captureLine("uid/b", "c1"))
	if n := attached(t, w.host, "v1"); n != 4 {
		t.Errorf("%d programs on v1, want 4", n)
	}
	apply(t, w, c, captureLine("uid/a", "c1"))
	if n := attached(t, w.host, "v1") + attached(t, w.host, "v2") + attached(t, w.host, "up0"); n != 2 {
		t.Errorf("%d programs after a line and two workloads went, want 2", n)
	}
	if q := qdisc(t, w.host, "v2") + qdisc(t, w.host, "up0"); q != "" {
		t.Errorf("a qdisc is left: %s", q)
	}
	maps, progs, links := kernelIDs(t, w, dir, "v1", "v2", "up0")
	if want := map[capture.Attach]int{capture.AttachTCX: 2}[way()]; len(maps) != len(bpf.MapNames) || len(progs) != 2 || len(links) != want {
		t.Errorf("%d maps, %d programs, %d links", len(maps), len(progs), len(links))
	}
	// Also where the agent that removes is not the one that made.
	stop()
	c.Close()
	if attached(t, w.host, "v1") != 2 {
		t.Error("Close changed the kernel")
	}
	c = newCapture(t, dir, tool)
	w.host.do(t, func() {
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
	})
	if left := pins(t, dir); len(left) != 0 {
		t.Errorf("pins are left: %v", left)
	}
	if n := attached(t, w.host, "v1"); n != 0 || qdisc(t, w.host, "v1") != "" {
		t.Errorf("%d programs and qdisc %q are left", n, qdisc(t, w.host, "v1"))
	}
	eventually(t, "the kernel to free everything", func() bool {
		gone := true
		for _, id := range maps {
			if m, err := ebpf.NewMapFromID(id); !errors.Is(err, os.ErrNotExist) {
				gone = false
				m.Close()
			}
		}
		for _, id := range progs {
			if p, err := ebpf.NewProgramFromID(id); !errors.Is(err, os.ErrNotExist) {
				gone = false
				p.Close()
			}
		}
		for _, id := range links {
			if l, err := link.NewFromID(id); !errors.Is(err, os.ErrNotExist) {
				gone = false
				l.Close()
			}
		}
		return gone
	})
}

func TestInterfacesComeAndGo(t *testing.T) {
	need(t)
	eachWay(t, interfacesComeAndGo)
}

func interfacesComeAndGo(t *testing.T) {
	w := newWorld(t, 1500)
	tool := newToolSide(t)
	tool.grant(t, w, "uid/ids")
	c := newCapture(t, testreq.BPFFS(t), tool)
	runCapture(t, c)
	line := captureLine("uid/ids", "c1", "c2", "gone")
	states := func() string {
		var out []string
		w.host.do(t, func() {
			items, err := c.Apply(context.Background(), &wirepb.CaptureSection{Lines: []*wirepb.CaptureLine{line}}, workloads)
			if err != nil {
				t.Error(err)
			}
			for _, it := range items {
				out = append(out, strings.TrimPrefix(it.Item, "uid/ids/")+"="+it.State)
			}
		})
		return strings.Join(out, " ")
	}
	if got := states(); got != "c1=Capturing c2=Capturing gone=Error" {
		t.Error(got)
	}
	w.host.sh(t, "ip link del v2")
	if got := states(); got != "c1=Capturing c2=Error gone=Error" {
		t.Error(got)
	}
	w.host.sh(t, "ip link add v2 type veth peer name eth0 netns "+string(w.c2)+"; ip link set v2 master br0 up")
	w.c2.sh(t, "ip addr add 10.9.0.12/24 dev eth0; ip link set eth0 up")
	if got := states(); got != "c1=Capturing c2=Capturing gone=Error" {
		t.Error(got)
	}
	if attached(t, w.host, "v2") != 2 {
		t.Error("the new v2 is not tapped")
	}
	connected(t, c)
	w.c1.sh(t, "ping -q -c 1 10.9.0.12")
	hush(t, c)
	before := quiet(t, c, "uid/ids")
	w.c1.sh(t, "ping -q -f -c 20 10.9.0.12")
	if l := quiet(t, c, "uid/ids"); l.Delivered.Packets-before.Delivered.Packets < 40 || l.Deduplicated.Packets-before.Deduplicated.Packets < 40 {
		t.Errorf("before %+v\nafter %+v", before, l)
	}
	removeEverything(t, w, c, tool)
}

// A filter, snaplen or direction that changes swaps programs in place and keeps the account.
func TestChangesKeepTheLine(t *testing.T) {
	need(t)
	eachWay(t, changesKeepTheLine)
}

func changesKeepTheLine(t *testing.T) {
	line := captureLine("uid/ids", "c1")
	w, _, c, remove := setup(t, line)
	w.c1.sh(t, "ping -q -f -c 10 10.9.0.12")
	first := quiet(t, c, "uid/ids")
	line.Filter, line.FilterEthernet = "udp port 9", filter(t, "udp port 9")
	apply(t, w, c, line)
	w.c1.sh(t, "ping -q -f -c 10 10.9.0.12")
	second := quiet(t, c, "uid/ids")
	if second.Filtered.Packets < 20 || second.Delivered != first.Delivered {
		t.Errorf("first %+v\nsecond %+v", first, second)
	}
	line.Egress = false
	apply(t, w, c, line)
	if n := attached(t, w.host, "v1"); n != 1 {
		t.Errorf("%d programs with one direction", n)
	}
	remove()
}

func TestStaleLayoutAndSecondAgent(t *testing.T) {
	need(t)
	w := newWorld(t, 1500)
	tool := newToolSide(t)
	dir := testreq.BPFFS(t)
	// Pins of another version, and a directory of ours with a map of another shape.
	for _, path := range []string{"capture-v0", "capture-v1", "flows"} {
		if err := os.Mkdir(filepath.Join(dir, path), 0o700); err != nil {
			t.Fatal(err)
		}
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Pin(filepath.Join(dir, path, "ring")); err != nil {
			t.Fatal(err)
		}
		m.Close()
	}
	c := newCapture(t, dir, tool)
	apply(t, w, c, captureLine("uid/ids", "c1"))
	if _, err := os.Stat(filepath.Join(dir, "capture-v0")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stale layout: %v", err)
	}
	second := newCapture(t, dir, tool)
	w.host.do(t, func() {
		_, err := second.Apply(context.Background(), &wirepb.CaptureSection{Lines: []*wirepb.CaptureLine{captureLine("uid/x", "c1")}}, workloads)
		if err == nil || !strings.Contains(err.Error(), "another agent works there") {
			t.Errorf("second agent: %v", err)
		}
	})
	apply(t, w, c)
	if left := pins(t, dir); len(left) != 1 || filepath.Base(filepath.Dir(left[0])) != "flows" {
		t.Errorf("left: %v", left)
	}
}
