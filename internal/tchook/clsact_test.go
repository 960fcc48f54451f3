package tchook

import (
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/internal/testreq"
)

// alone moves the test's thread into a fresh network namespace. The goroutine
// stays locked, so the thread and the namespace end with the test.
func alone(t testing.TB) {
	t.Helper()
	testreq.Need(t, testreq.Root, testreq.NetNS, testreq.BPF)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

const lo = 1

func scan(t testing.TB) *Table {
	t.Helper()
	table, err := Scan("weft:x:")
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// names are those of the hook's filters as the kernel runs them.
func names(t testing.TB, h Hook) (out string) {
	t.Helper()
	for _, f := range scan(t).filters[h] {
		if f.Name == "" {
			f.Name = f.Kind
		}
		out += f.Name + " "
	}
	return out
}

func TestSupport(t *testing.T) {
	testreq.Need(t, testreq.Root, testreq.NetNS, testreq.BPF)
	before, _ := os.Readlink("/proc/self/ns/net")
	for range 20 { // on whichever thread, the process stays where it was
		if got := Clsact(); !got.Yes() || got.No() || got.String() != "yes" {
			t.Fatal(got)
		}
	}
	if after, _ := os.Readlink("/proc/self/ns/net"); before != after {
		t.Errorf("the process has moved from %s to %s", before, after)
	}
	if got := TCX(); got.Yes() == got.No() {
		t.Error(got)
	}
	var s Support
	if s.Yes() || s.No() {
		t.Error("the zero value is to be neither yes nor no")
	}
}

// Others' filters keep their place behind ours; their qdisc and they stay.
func TestOthersAreLeftAlone(t *testing.T) {
	alone(t)
	prog, err := pass()
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	in, out := Hook{lo, false}, Hook{lo, true}
	add := func(h Hook, name string, priority uint16, handle uint32) {
		t.Helper()
		if err := netlink.FilterAdd((Filter{Hook: h, Name: name, Priority: priority, Handle: handle}).netlink(prog)); err != nil {
			t.Fatal(err)
		}
	}
	if err := addQdisc(lo); err != nil {
		t.Fatal(err)
	}
	add(in, "theirs", 1, 1)
	add(in, "weft:another agent:0", 1, firstHandle)
	u32 := &netlink.U32{FilterAttrs: netlink.FilterAttrs{LinkIndex: lo, Parent: out.parent(), Priority: 1, Protocol: unix.ETH_P_IP}}
	if err := netlink.FilterAdd(u32); err != nil {
		t.Fatal(err)
	}

	table := scan(t)
	for _, name := range []string{"weft:x:0", "weft:x:1"} {
		for _, h := range []Hook{in, out} {
			if made, err := table.Add(h, name, table.First(h), prog); err != nil || made {
				t.Fatal(made, err)
			}
		}
	}
	if got := names(t, in); got != "weft:x:1 weft:x:0 weft:another agent:0 theirs " {
		t.Error(got)
	}
	if got := names(t, out); got != "u32 weft:x:1 weft:x:0 " { // no second kind fits into priority 1
		t.Error(got)
	}
	for _, f := range table.Own() {
		if table.Behind(f) {
			t.Errorf("%+v is behind another's", f)
		}
		if err := table.Swap(f, prog); err != nil {
			t.Error(err)
		}
	}
	// Somebody comes and goes: ours can be first again.
	add(in, "newcomer", 1, 7)
	if err := netlink.FilterDel(u32); err != nil {
		t.Fatal(err)
	}
	table = scan(t)
	for _, f := range table.Own() {
		if !table.Behind(f) {
			t.Errorf("%+v is not behind another's", f)
		}
	}
	if len(table.Own()) != 4 {
		t.Errorf("%+v", table.Own())
	}
	for _, f := range table.Own() {
		for range 2 { // the second time there is none
			if err := table.Delete(f); err != nil {
				t.Error(err)
			}
		}
	}
	if err := table.DeleteEmpty(lo); err != nil {
		t.Error(err)
	}
	if got := names(t, in) + names(t, out); got != "newcomer weft:another agent:0 theirs " {
		t.Error(got)
	}
}

func TestQdiscs(t *testing.T) {
	alone(t)
	prog, err := pass()
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	table := scan(t)
	made, err := table.Add(Hook{lo, true}, "weft:x:0", 1, prog)
	if !made || err != nil {
		t.Fatal(made, err)
	}
	table = scan(t)
	if err := table.DeleteEmpty(lo); err != nil || !scan(t).HasClsact(lo) {
		t.Error("a qdisc with a filter was deleted", err)
	}
	f, _ := table.Find(Hook{lo, true}, "weft:x:0")
	if err := table.Delete(f); err != nil {
		t.Error(err)
	}
	if err := table.DeleteEmpty(lo); err != nil || scan(t).HasClsact(lo) {
		t.Error("an empty qdisc is left", err)
	}

	// An old ingress qdisc serves one direction.
	ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: lo, Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0)}}
	if err := netlink.QdiscAdd(ingress); err != nil {
		t.Fatal(err)
	}
	table = scan(t)
	if made, err := table.Add(Hook{lo, false}, "weft:x:0", 1, prog); made || err != nil {
		t.Error(made, err)
	}
	if _, err := table.Add(Hook{lo, true}, "weft:x:0", 1, prog); err == nil {
		t.Error("an ingress qdisc has an egress hook")
	}
	if got := names(t, Hook{lo, false}); got != "weft:x:0 " {
		t.Error(got)
	}
}
