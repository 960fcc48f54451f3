package capture

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"weft/agent/capture/bpf"
	"weft/wire/wirepb"
)

// place is one interface as a line taps it.
type place struct {
	workload string
	name     string
	ifindex  int
	raw      bool
	sense    Sense
}

type workloadResult struct {
	workload string
	err      error
}

// resolve finds the interfaces of the line's workloads.
func (c *Capture) resolve(want *wirepb.CaptureLine, known map[string]Workload) (places []place, items []*workloadResult) {
	taken := make(map[int]bool)
	for _, id := range want.GetWorkloads() {
		result := &workloadResult{workload: id}
		items = append(items, result)
		w, ok := known[id]
		switch {
		case !ok:
			result.err = errors.New("the workload is not on this host")
			continue
		case len(w.Interfaces) == 0:
			result.err = errors.New(cmp.Or(w.Untappable, "the workload has no interface that can be tapped"))
			continue
		}
		for _, name := range w.Interfaces {
			dev, err := netlink.LinkByName(name)
			if err != nil {
				result.err = fmt.Errorf("find interface %s: %w", name, err)
				continue
			}
			attrs := dev.Attrs()
			if taken[attrs.Index] {
				continue // containers that share a namespace: their frames are tapped, once
			}
			taken[attrs.Index] = true
			raw := attrs.EncapType != "ether" && attrs.EncapType != "loopback"
			if raw && len(want.GetFilterEthernet()) > 0 && len(want.GetFilterRaw()) == 0 {
				result.err = fmt.Errorf("interface %s has no Ethernet headers and the filter needs them", name)
				continue
			}
			places = append(places, place{workload: id, name: name, ifindex: attrs.Index, raw: raw, sense: w.Sense})
		}
	}
	return places, items
}

// programs loads a line's pairs, each when it is first asked for.
type programs struct {
	c     *Capture
	slot  uint32
	want  *wirepb.CaptureLine
	pairs [2]*bpf.Pair
}

func (p *programs) pick(raw, out bool) (*ebpf.Program, error) {
	i, filter := 0, p.want.GetFilterEthernet()
	if raw {
		i, filter = 1, p.want.GetFilterRaw()
	}
	if p.pairs[i] == nil {
		line := bpf.Line{Slot: p.slot, Snaplen: p.want.GetSnaplen(), Raw: raw}
		for _, ins := range filter {
			if ins.GetOp() > 0xffff || ins.GetJt() > 0xff || ins.GetJf() > 0xff {
				return nil, fmt.Errorf("filter %q: an instruction is out of range", p.want.GetFilter())
			}
			line.Filter = append(line.Filter, bpf.Instruction{Op: uint16(ins.GetOp()), Jt: uint8(ins.GetJt()), Jf: uint8(ins.GetJf()), K: ins.GetK()})
		}
		pair, err := bpf.Load(line, p.c.store.maps)
		if err != nil {
			return nil, err
		}
		p.pairs[i] = pair
	}
	if out {
		return p.pairs[i].Out, nil
	}
	return p.pairs[i].In, nil
}

func (p *programs) close() {
	for _, pair := range p.pairs {
		if pair != nil {
			pair.Close()
		}
	}
}

// pin is one program of one line on one hook of an interface. As a tcx link it
// is pinned by this name: link-SLOT-IFINDEX-HOOK.
type pin struct {
	slot    uint32
	ifindex int
	out     bool // the tc egress hook
}

func (p pin) String() string {
	hook := "in"
	if p.out {
		hook = "out"
	}
	return fmt.Sprintf("link-%d-%d-%s", p.slot, p.ifindex, hook)
}

// parsePin reads the name of a pin.
func parsePin(name string) (p pin, ok bool) {
	var hook string
	if _, err := fmt.Sscanf(name, "link-%d-%d-%s", &p.slot, &p.ifindex, &hook); err != nil {
		return pin{}, false
	}
	p.out = hook == "out"
	return p, p.String() == name
}

// sides says where a place is tapped. On our end of a veth, what comes in is
// what the workload has sent.
func sides(p place, want *wirepb.CaptureLine) (in, out bool) {
	if p.sense == Veth {
		return want.GetEgress(), want.GetIngress()
	}
	return want.GetIngress(), want.GetEgress()
}

// link makes the line's links what they should be. It returns what failed, by
// workload.
func (c *Capture) link(l *line, want *wirepb.CaptureLine, places []place) (map[string]error, error) {
	digest := digestLine(want)
	renew := digest != l.digest
	progs := &programs{c: c, slot: l.slot, want: want}
	defer progs.close()
	if renew { // a filter that does not load fails the line as a whole, before anything is changed
		if _, err := progs.pick(false, false); err != nil {
			return nil, err
		}
	}
	keep := make(map[pin]bool)
	for _, p := range places {
		in, out := sides(p, want)
		if in {
			keep[pin{l.slot, p.ifindex, false}] = true
		}
		if out {
			keep[pin{l.slot, p.ifindex, true}] = true
		}
	}
	if err := c.unlink(l.slot, keep); err != nil {
		return nil, err
	}
	failed := make(map[string]error)
	for _, p := range places {
		if err := c.linkPlace(l, want, p, progs, renew); err != nil {
			failed[p.workload] = fmt.Errorf("tap interface %s: %w", p.name, err)
		}
	}
	if renew && len(failed) == 0 {
		l.digest = digest
		if err := c.writeLine(l.slot, 1, l.id, digest); err != nil {
			return failed, err
		}
	}
	return failed, nil
}

func (c *Capture) linkPlace(l *line, want *wirepb.CaptureLine, p place, progs *programs, renew bool) error {
	number, ok := c.numbers.find(p.workload)
	if !ok {
		return errors.New("the workload has no number")
	}
	key, value := portKey{l.slot, uint32(p.ifindex)}, port{Workload: number}
	if p.sense == Veth {
		value.Flags |= portVeth
	}
	in, out := sides(p, want)
	var old port
	tapped := c.store.maps["ports"].Lookup(key, &old) == nil && old.Flags&portEgressTapped != 0
	if tapped && want.GetEgress() && old.Workload == number {
		value.Flags |= portEgressTapped // stays so while links are swapped
	}
	if err := c.store.maps["ports"].Put(key, value); err != nil {
		return fmt.Errorf("write port: %w", err)
	}
	if in {
		if err := c.attach(pin{l.slot, p.ifindex, false}, progs, p.raw, renew); err != nil {
			return err
		}
	}
	if out {
		if err := c.attach(pin{l.slot, p.ifindex, true}, progs, p.raw, renew); err != nil {
			return err
		}
	}
	if want.GetEgress() { // only now may the other side keep silent
		value.Flags |= portEgressTapped
	}
	if err := c.store.maps["ports"].Put(key, value); err != nil {
		return fmt.Errorf("write port: %w", err)
	}
	return nil
}

// attach makes sure of one pin.
func (c *Capture) attach(p pin, progs *programs, raw, renew bool) error {
	if err := c.hooks.attach(p, renew, func() (*ebpf.Program, error) { return progs.pick(raw, p.out) }); err != nil {
		return err
	}
	c.there[p] = true
	return nil
}

// unlink takes away the pins and ports of a line that are not to be kept. The
// port's word that egress is tapped goes before the program does.
func (c *Capture) unlink(slot uint32, keep map[pin]bool) error {
	kept := make(map[int]bool)
	var doomed []pin
	for p := range c.there {
		switch {
		case p.slot != slot:
		case keep[p]:
			kept[p.ifindex] = true
		default:
			doomed = append(doomed, p)
		}
	}
	for _, p := range doomed {
		if err := c.hush(portKey{slot, uint32(p.ifindex)}, p.out, !kept[p.ifindex]); err != nil {
			return err
		}
		if err := c.hooks.detach(p); err != nil {
			return err
		}
		delete(c.there, p)
	}
	return nil
}

// hush forgets that a port's egress is tapped if that hook is going, and the
// port itself where nothing taps it any more.
func (c *Capture) hush(key portKey, out, last bool) error {
	var v port
	if err := c.store.maps["ports"].Lookup(key, &v); err != nil {
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		return fmt.Errorf("read port: %w", err)
	}
	if last {
		if err := c.store.maps["ports"].Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete port: %w", err)
		}
		return nil
	}
	if egress := out != (v.Flags&portVeth != 0); egress {
		v.Flags &^= portEgressTapped
		if err := c.store.maps["ports"].Put(key, v); err != nil {
			return fmt.Errorf("write port: %w", err)
		}
	}
	return nil
}

// forgetPorts takes away the ports on which nothing is attached any more, such
// as those of interfaces that have gone.
func (c *Capture) forgetPorts() error {
	var key portKey
	var value port
	var gone []portKey
	entries := c.store.maps["ports"].Iterate()
	for entries.Next(&key, &value) {
		p := pin{slot: key.Line, ifindex: int(key.Ifindex)}
		in := c.there[p]
		if p.out = true; !in && !c.there[p] {
			gone = append(gone, key)
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("list ports: %w", err)
	}
	for _, key := range gone {
		if err := c.store.maps["ports"].Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete port: %w", err)
		}
	}
	return nil
}
