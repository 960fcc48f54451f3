package bpf

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"weft/model"
	"weft/policy"
	"weft/policy/classify"
	"weft/policy/policytest"
)

// What becomes of real frames at a guest's port, and by which rule, equals the
// reference, for random worlds and packets.
func TestGuestEqualsReference(t *testing.T) {
	d := open(t)
	worlds, packets := 150, 100
	if testing.Short() {
		worlds = 20
	}
	compared := map[model.Action]int{}
	for seed := range uint64(worlds) {
		compareGuest(t, d, seed, packets, compared)
		if t.Failed() {
			return
		}
	}
	t.Logf("%v frames compared", compared)
}

// The frames come in by the loopback device, as the kernel has it for programs that
// are only tried.
const (
	triedPort = 1
	triedSlot = 7
	triedBook = 3
)

func compareGuest(t *testing.T, d *Driver, seed uint64, packets int, compared map[model.Action]int) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	g := policytest.New(seed)
	w := g.World()
	set, err := policy.Compile(w)
	must(err)
	d.store.begin(nil)
	slots := map[*policy.Ruleset]policySlot{}
	for _, r := range set.Rulesets() {
		slot := policySlot{Book: triedBook}
		for dir, table := range []*policy.Table{&r.Ingress, &r.Egress} {
			slot.Tables[dir], err = d.store.table(classify.Build(table, w.Identities.Members))
			must(err)
		}
		slots[r] = slot
	}
	must(d.store.write())
	must(d.guestPorts.objects.Guests.Put(uint32(triedPort), guestGuestPort{Slot: triedSlot, Flags: portForwards}))
	for range packets {
		p := g.Packet(w.Identities.All())
		for _, dir := range []policy.Direction{policy.Ingress, policy.Egress} {
			x := p
			subject, peer := x.Ends(dir)
			r := set.For(subject.Identity)
			frame := frameOf(&x, dir)
			if r == nil || frame == nil {
				continue
			}
			// What nobody knows of a guest, nor at its port of anybody else.
			subject.Process, peer.Process, peer.Names = model.PolicyProcess{}, model.PolicyProcess{}, nil
			slot := slots[r]
			slot.Identity = uint32(subject.Identity)
			must(d.objects.Slots.Put(uint32(triedSlot), slot))
			at := addressKey(triedBook, netip.PrefixFrom(peer.Addr.Unmap(), peer.Addr.Unmap().BitLen()))
			must(d.objects.Addresses.Put(at, policyAddress{Identity: uint32(peer.Identity), Entities: uint32(peer.Entities&policy.Special) >> entityShift}))
			prog := d.guestPorts.objects.WeftGuestIngress
			if dir == policy.Egress {
				prog = d.guestPorts.objects.WeftGuestEgress
			}
			result, err := prog.Run(&ebpf.RunOptions{Data: frame})
			must(err)
			v := w.Evaluate(dir, &x)
			if passes := int32(result) == -1; passes != v.Allowed() {
				t.Errorf("seed %d %s %+v: passes %v, the reference says %+v\n%s", seed, dir, x, passes, v, r)
			}
			key, line, table := triedKey(&x, dir), policyConn{}, d.objects.Denied
			if v.Allowed() {
				table = d.objects.Conns
			}
			switch err := table.LookupAndDelete(key, &line); {
			case v.Allowed() && !v.Stateful:
				if err == nil {
					t.Errorf("seed %d %s %+v: tracked, and is stateless", seed, dir, x)
				}
			case err != nil:
				t.Errorf("seed %d %s %+v: no line: %v", seed, dir, x, err)
			case policy.RuleID(line.Rule) != v.ID || action(line.Action) != v.Action:
				t.Errorf("seed %d %s %+v: line %+v, the reference says %+v", seed, dir, x, line, v)
			}
			must(d.objects.Addresses.Delete(at))
			if t.Failed() {
				return
			}
			compared[v.Action]++
		}
	}
	must(d.store.retire())
}

// frameOf is a packet as a frame; nil for one that a wire does not carry or that
// passes a port for the link's sake. The guest's own address is not what rules are
// about.
func frameOf(p *policy.Packet, dir policy.Direction) []byte {
	subject, peer := p.Ends(dir)
	peer.Addr = peer.Addr.Unmap()
	subject.Addr = netip.MustParseAddr("192.0.2.77")
	if peer.Addr.Is6() {
		subject.Addr = netip.MustParseAddr("2001:db8:ffff::77")
	}
	if peer.Addr.IsLoopback() || p.Protocol == 58 && (p.ICMPType >= 130 && p.ICMPType <= 137 || p.ICMPType == 143) ||
		peer.Addr.Is6() && slices.Contains([]uint8{0, 43, 44, 51, 60}, p.Protocol) {
		return nil
	}
	body := make([]byte, 24)
	switch {
	case model.IsICMP(p.Protocol):
		body[0], body[1] = p.ICMPType, p.ICMPCode
	case model.HasPorts(p.Protocol):
		binary.BigEndian.PutUint16(body, p.SourcePort)
		binary.BigEndian.PutUint16(body[2:], p.DestinationPort)
		body[12], body[13] = 5<<4, 2 // SYN
	}
	out := make([]byte, 14, 100)
	if peer.Addr.Is4() {
		out[12], out[13] = 8, 0
		head := make([]byte, 20)
		head[0], head[8], head[9] = 0x45, 64, p.Protocol
		binary.BigEndian.PutUint16(head[2:], uint16(len(head)+len(body)))
		copy(head[12:], p.Source.Addr.AsSlice())
		copy(head[16:], p.Destination.Addr.AsSlice())
		out = append(out, head...)
	} else {
		out[12], out[13] = 0x86, 0xdd
		head := make([]byte, 40)
		head[0], head[6], head[7] = 0x60, p.Protocol, 64
		binary.BigEndian.PutUint16(head[4:], uint16(len(body)))
		copy(head[8:], p.Source.Addr.AsSlice())
		copy(head[24:], p.Destination.Addr.AsSlice())
		out = append(out, head...)
	}
	return append(out, body...)
}

// triedKey names the line of a packet.
func triedKey(p *policy.Packet, dir policy.Direction) policyConnKey {
	subject, peer := p.Ends(dir)
	k := policyConnKey{Protocol: p.Protocol, Netns: 1<<63 | triedSlot}
	k.Family, k.Local = addressBytes(subject.Addr)
	_, k.Remote = addressBytes(peer.Addr)
	if model.HasPorts(p.Protocol) {
		k.LocalPort, k.RemotePort = port(p.SourcePort), port(p.DestinationPort)
		if dir == policy.Ingress {
			k.LocalPort, k.RemotePort = k.RemotePort, k.LocalPort
		}
	}
	return k
}
