package tchook

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Hook is one of an interface's two: where frames come in, or go out.
type Hook struct {
	Ifindex int
	Egress  bool
}

func (h Hook) parent() uint32 {
	if h.Egress {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

// Filter is one filter on a hook, as net/sched/cls_api.c has it. Filters run by
// ascending Priority, those of one priority in the order of a dump.
type Filter struct {
	Hook
	Chain    uint32
	Priority uint16
	Protocol uint16
	Handle   uint32
	Kind     string // "bpf", "u32", …
	Name     string // of a BPF filter
}

func (f Filter) netlink(prog *ebpf.Program) *netlink.BpfFilter {
	n := &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: f.Ifindex, Parent: f.parent(), Handle: f.Handle,
		Priority: f.Priority, Protocol: unix.ETH_P_ALL}, Fd: -1, Name: f.Name, DirectAction: true}
	if prog != nil {
		n.Fd = prog.FD()
	}
	return n
}

// firstHandle is where our handles begin, out of the way of those who take 1.
const firstHandle = 0x77650000

// Table is what is attached by clsact in one network namespace, as it was when
// it was read and as this Table's own calls have changed it since.
type Table struct {
	prefix  string
	qdiscs  map[int]string // interface -> "clsact" or "ingress"
	filters map[Hook][]Filter
}

// Scan reads the table of the calling thread's network namespace. Filters whose
// name begins with prefix are ours, all others somebody else's.
func Scan(prefix string) (*Table, error) {
	t := &Table{prefix: prefix, qdiscs: make(map[int]string), filters: make(map[Hook][]Filter)}
	qdiscs, err := dump(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(nil) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return t, nil // no traffic control in this kernel, so nothing of anybody's
	}
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	for _, q := range qdiscs {
		if kind := q.Type(); kind == "clsact" || kind == "ingress" {
			t.qdiscs[q.Attrs().LinkIndex] = kind
		}
	}
	for ifindex := range t.qdiscs {
		if err := t.read(ifindex); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// dump repeats a dump that changed under the kernel's hands.
func dump[T any](list func() ([]T, error)) (out []T, err error) {
	for range 5 {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}

// device is as much of a link as a filter dump asks for.
func device(ifindex int) netlink.Link {
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
}

func (t *Table) read(ifindex int) error {
	for _, h := range []Hook{{ifindex, false}, {ifindex, true}} {
		delete(t.filters, h)
		if h.Egress && t.qdiscs[ifindex] == "ingress" {
			continue
		}
		list, err := dump(func() ([]netlink.Filter, error) { return netlink.FilterList(device(ifindex), h.parent()) })
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
			continue // interface or qdisc went meanwhile
		}
		if err != nil {
			return fmt.Errorf("list filters: %w", err)
		}
		for _, n := range list {
			a := n.Attrs()
			f := Filter{Hook: h, Priority: a.Priority, Protocol: a.Protocol, Handle: a.Handle, Kind: n.Type()}
			if a.Chain != nil {
				f.Chain = *a.Chain
			}
			if b, ok := n.(*netlink.BpfFilter); ok {
				f.Name = b.Name
			}
			t.filters[h] = append(t.filters[h], f)
		}
	}
	return nil
}

func (t *Table) own(f Filter) bool { return f.Kind == "bpf" && strings.HasPrefix(f.Name, t.prefix) }

// Own returns our filters.
func (t *Table) Own() (out []Filter) {
	for _, list := range t.filters {
		for _, f := range list {
			if t.own(f) {
				out = append(out, f)
			}
		}
	}
	return out
}

// Find returns our filter of this name on the hook.
func (t *Table) Find(h Hook, name string) (Filter, bool) {
	for _, f := range t.filters[h] {
		if t.own(f) && f.Name == name {
			return f, true
		}
	}
	return Filter{}, false
}

// First returns the priority that runs before as many foreign filters on the hook as
// the kernel allows: 1, unless a filter of another kind or for one protocol only
// has it, because the kernel wants one kind and protocol for a priority; then
// the lowest that is free.
func (t *Table) First(h Hook) uint16 {
	taken := make(map[uint16]bool)
	for _, f := range t.filters[h] {
		if f.Chain == 0 && (f.Kind != "bpf" || f.Protocol != unix.ETH_P_ALL) {
			taken[f.Priority] = true
		}
	}
	priority := uint16(1)
	for taken[priority] && priority < 0xffff {
		priority++
	}
	return priority
}

// Behind says whether a foreign filter runs before this one of ours that need
// not: somebody came after us and chose our priority, or one that is free again.
// Another of weft's may: it ends the chain for no frame that is to pass.
func (t *Table) Behind(f Filter) bool {
	first := t.First(f.Hook)
	if first < f.Priority {
		return true
	}
	for _, other := range t.filters[f.Hook] {
		switch {
		case other.Handle == f.Handle && other.Priority == f.Priority && other.Chain == f.Chain:
			return false
		case other.Chain == 0 && other.Priority == f.Priority && !t.own(other) && !strings.HasPrefix(other.Name, "weft:"):
			return true
		}
	}
	return false
}

// Add attaches prog under the name at this priority and returns whether it had
// to make the clsact qdisc. In one priority the newest runs first.
func (t *Table) Add(h Hook, name string, priority uint16, prog *ebpf.Program) (made bool, err error) {
	switch t.qdiscs[h.Ifindex] {
	case "":
		err := addQdisc(h.Ifindex)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return false, fmt.Errorf("add a clsact qdisc: %w", err)
		}
		made = err == nil
		t.qdiscs[h.Ifindex] = "clsact"
	case "ingress":
		if h.Egress {
			return false, errors.New("an ingress qdisc is there that is not weft's, and what goes out needs a clsact qdisc in its place: " +
				"tc qdisc del dev DEVICE ingress; tc qdisc add dev DEVICE clsact")
		}
	}
	used := make(map[uint32]bool)
	for _, f := range t.filters[h] {
		used[f.Handle] = true
	}
	f := Filter{Hook: h, Priority: priority, Protocol: unix.ETH_P_ALL, Handle: firstHandle, Kind: "bpf", Name: name}
	for {
		for used[f.Handle] {
			f.Handle++
		}
		err := netlink.FilterAdd(f.netlink(prog)) // never over another's
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EEXIST) || f.Handle-firstHandle > 0xffff {
			return made, fmt.Errorf("add a filter: %w", err)
		}
		f.Handle++
	}
	t.insert(f)
	return made, nil
}

// insert puts f where the kernel has put it: first of its priority.
func (t *Table) insert(f Filter) {
	list := t.filters[f.Hook]
	at := 0
	for at < len(list) && list[at].Chain == 0 && list[at].Priority < f.Priority {
		at++
	}
	t.filters[f.Hook] = append(list[:at:at], append([]Filter{f}, list[at:]...)...)
}

// Swap gives a filter of ours another program, in place: no frame meets both or
// neither.
func (t *Table) Swap(f Filter, prog *ebpf.Program) error {
	if err := netlink.FilterReplace(f.netlink(prog)); err != nil {
		return fmt.Errorf("replace a filter: %w", err)
	}
	return nil
}

// Delete takes a filter of ours away. One that is gone is no error.
func (t *Table) Delete(f Filter) error {
	err := netlink.FilterDel(f.netlink(nil))
	list := t.filters[f.Hook]
	if err != nil { // gone by itself, with its interface or its qdisc?
		if again := t.read(f.Ifindex); again != nil {
			return fmt.Errorf("delete a filter: %w", err)
		}
		for _, other := range t.filters[f.Hook] {
			if other.Handle == f.Handle && other.Priority == f.Priority && other.Name == f.Name {
				return fmt.Errorf("delete a filter: %w", err)
			}
		}
		return nil
	}
	for i := range list {
		if list[i].Handle == f.Handle && list[i].Priority == f.Priority && list[i].Name == f.Name {
			t.filters[f.Hook] = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	return nil
}

// HasClsact says whether the interface has a clsact qdisc.
func (t *Table) HasClsact(ifindex int) bool { return t.qdiscs[ifindex] == "clsact" }

// DeleteEmpty takes the interface's clsact qdisc away, unless a filter of anybody's is on it.
func (t *Table) DeleteEmpty(ifindex int) error {
	if !t.HasClsact(ifindex) {
		return nil
	}
	if err := t.read(ifindex); err != nil { // somebody may have come since
		return err
	}
	if len(t.filters[Hook{ifindex, false}])+len(t.filters[Hook{ifindex, true}]) > 0 {
		return nil
	}
	if err := netlink.QdiscDel(qdisc(ifindex)); err != nil && !gone(err) {
		return fmt.Errorf("delete the clsact qdisc: %w", err)
	}
	delete(t.qdiscs, ifindex)
	return nil
}

// gone says that there was no such interface or qdisc.
func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)
}

func qdisc(ifindex int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0)}}
}

func addQdisc(ifindex int) error { return netlink.QdiscAdd(qdisc(ifindex)) }
