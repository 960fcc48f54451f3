package bpf

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"weft/agent/connection"
	"weft/internal/bpfmap"
)

// dropsLink is the pin of the link.
const dropsLink = "drops"

// dropReasons is how many reasons have a number of their own; the last stands for
// all beyond it.
const dropReasons = 256

// The meanings of a reason, as drops.c has them.
const (
	dropNothing = 1
	dropVerdict = 2
)

// dropMeanings are those of reasons that are not simply a loss, by the kernel's
// names.
var dropMeanings = map[string]uint8{
	// No drops.
	"NOT_DROPPED_YET": dropNothing, "CONSUMED": dropNothing, "NOT_SPECIFIED": dropNothing,
	// A frame for another machine, and a copy for somebody who captures.
	"OTHERHOST": dropNothing, "PACKET_SOCK_ERROR": dropNothing,
	// What nobody has read of a socket that is closed: as a rule the other end's FIN,
	// where this end closed first.
	"QUEUE_PURGE": dropNothing,
	// What it says has arrived before.
	"TCP_OLD_DATA": dropNothing, "TCP_OLD_ACK": dropNothing, "TCP_OLD_SEQUENCE": dropNothing, "TCP_OFOMERGE": dropNothing, "DUP_FRAG": dropNothing,
	// What our programs turn down has one of these.
	"SOCKET_FILTER": dropVerdict, "BPF_CGROUP_EGRESS": dropVerdict, "NETFILTER_DROP": dropVerdict, "TC_INGRESS": dropVerdict, "TC_EGRESS": dropVerdict,
}

// drops tells what the kernel has thrown away. All methods may be called where it
// is nil: then that is not known.
type drops struct {
	program *ebpf.Program
	byLine  *ebpf.Map
	sums    *ebpf.Map
	names   [dropReasons]string
	link    link.Link

	// Of the reading under way.
	lines *followed[policyConnKey, dropsDrop]
	have  map[policyConnKey]dropped
	gone  []policyConnKey
}

// dropped is an entry of the reading, and whether its line was seen.
type dropped struct {
	dropsDrop
	seen bool
}

// openDrops makes the program, working on the driver's maps.
func (d *Driver) openDrops() (*drops, error) {
	spec, err := loadDrops()
	if err != nil {
		return nil, fmt.Errorf("read the program for drops: %w", err)
	}
	o := &drops{have: map[policyConnKey]dropped{}}
	receiver, err := o.readReasons()
	if err != nil {
		return nil, err
	}
	var meanings [dropReasons]uint8
	for n, name := range o.names {
		meanings[n] = dropMeanings[name]
	}
	for name, value := range map[string]any{"meanings": meanings, "tells_receiver": receiver} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set up the program for drops: %w", err)
		}
	}
	shared := map[string]*ebpf.Map{"conns": d.objects.Conns, "denied": d.objects.Denied, "entries": d.objects.Entries, "namespaces": d.objects.Namespaces}
	for name, m := range shared {
		spec.Maps[name].MaxEntries = m.MaxEntries()
	}
	for _, name := range []string{"drops", "drop_reasons"} {
		spec.Maps[name].Pinning = ebpf.PinByName
	}
	var objects struct {
		Program *ebpf.Program `ebpf:"weft_drops"`
		Drops   *ebpf.Map     `ebpf:"drops"`
		Sums    *ebpf.Map     `ebpf:"drop_reasons"`
	}
	if err := spec.LoadAndAssign(&objects, &ebpf.CollectionOptions{MapReplacements: shared, Maps: ebpf.MapOptions{PinPath: d.pin("")}}); err != nil {
		return nil, fmt.Errorf("load the program for drops: %w", err)
	}
	o.program, o.byLine, o.sums = objects.Program, objects.Drops, objects.Sums
	o.lines = follow[policyConnKey, dropsDrop](o.byLine)
	return o, nil
}

// readReasons learns from the kernel's own description how it names its reasons,
// and whether it says for which socket a packet was.
func (o *drops) readReasons() (receiver uint32, err error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return 0, fmt.Errorf("read the kernel's types: %w", err)
	}
	var reasons *btf.Enum
	if err := kernel.TypeByName("skb_drop_reason", &reasons); err != nil {
		return 0, fmt.Errorf("find the reasons why the kernel drops packets: %w", err)
	}
	for _, v := range reasons.Values {
		if v.Value < dropReasons-1 {
			o.names[v.Value] = strings.TrimPrefix(strings.TrimPrefix(v.Name, "SKB_"), "DROP_REASON_")
		}
	}
	o.names[dropReasons-1] = "OTHER"
	var trace *btf.Typedef
	if err := kernel.TypeByName("btf_trace_kfree_skb", &trace); err != nil {
		return 0, fmt.Errorf("find the tracepoint of dropped packets: %w", err)
	}
	if p, ok := btf.UnderlyingType(trace).(*btf.Pointer); ok {
		// The first of its parameters is the tracer's own.
		if f, ok := p.Target.(*btf.FuncProto); ok && len(f.Params) >= 5 {
			return 1, nil
		}
	}
	return 0, nil
}

func (o *drops) name(reason uint32) string {
	if reason < dropReasons && o.names[reason] != "" {
		return o.names[reason]
	}
	return o.names[dropReasons-1]
}

// attach puts the program to work. A link of this kind cannot be given another
// program: that of an earlier process goes first, so that nothing is counted twice.
func (o *drops) attach(pin string) error {
	if o == nil || o.link != nil {
		return nil
	}
	if err := o.detach(pin); err != nil {
		return err
	}
	l, err := link.AttachTracing(link.TracingOptions{Program: o.program})
	if err != nil {
		return fmt.Errorf("attach to the tracepoint of dropped packets: %w", err)
	}
	if err := l.Pin(pin); err != nil {
		return errors.Join(fmt.Errorf("pin the link %s: %w", dropsLink, err), l.Close())
	}
	o.link = l
	return nil
}

func (o *drops) detach(pin string) error {
	if o == nil {
		return nil
	}
	if o.link != nil {
		l := o.link
		if o.link = nil; l.Close() != nil {
			return fmt.Errorf("let go of the link %s", dropsLink)
		}
	}
	if err := os.Remove(pin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the pin of the link %s: %w", dropsLink, err)
	}
	return nil
}

func (o *drops) close() error {
	if o == nil {
		return nil
	}
	var held error
	if o.link != nil {
		held = o.link.Close()
	}
	return errors.Join(held, o.program.Close(), o.byLine.Close(), o.sums.Close())
}

// read takes all that is there, once for a reading of the connection table: it is
// of few connections, as a rule of none.
func (o *drops) read(came uint64, anew bool) error {
	if o == nil {
		return nil
	}
	clear(o.have)
	_, _, err := o.lines.visit(came, anew, func(k *policyConnKey, x *dropsDrop) bool {
		o.have[*k] = dropped{dropsDrop: *x}
		return true
	})
	if err != nil {
		return fmt.Errorf("read what was dropped: %w", err)
	}
	return nil
}

// join adds to a line what was thrown away of its connection.
func (o *drops) join(k *policyConnKey, c *policyConn, out *connection.Line) {
	if o == nil || len(o.have) == 0 {
		return
	}
	x, ok := o.have[*k]
	if !ok || x.FirstNs != c.FirstNs {
		return
	}
	out.Drops, out.DropReason = x.Packets, o.name(x.Reason)
	if !x.seen {
		x.seen = true
		o.have[*k] = x
	}
}

// forget takes out what belongs to no line any more, after a visit of the whole
// table. A line was there before its entry, and entries were read before lines.
func (o *drops) forget() error {
	if o == nil {
		return nil
	}
	o.gone = o.gone[:0]
	for k, x := range o.have {
		if !x.seen {
			o.gone = append(o.gone, k)
		}
	}
	if err := bpfmap.Delete(o.byLine, o.gone); err != nil {
		return fmt.Errorf("forget what was dropped: %w", err)
	}
	return nil
}

// Drops counts the packets that the kernel has thrown away, of all connections of
// the machine's network namespaces with a workload, by its name for the reason;
// nil where it does not say.
func (d *Driver) Drops() (map[string]uint64, error) {
	o := d.drops
	if o == nil {
		return nil, nil
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count the CPUs: %w", err)
	}
	var cursor ebpf.MapBatchCursor
	reasons, perCPU := make([]uint32, dropReasons), make([]uint64, dropReasons*cpus)
	n, err := o.sums.BatchLookup(&cursor, reasons, perCPU, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("read what was dropped: %w", err)
	}
	out := map[string]uint64{}
	for i, packets := range perCPU[:n*cpus] {
		if packets > 0 {
			out[o.name(reasons[i/cpus])] += packets
		}
	}
	return out, nil
}
