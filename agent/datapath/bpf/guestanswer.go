package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/agent/datapath/bpf/refuse"
)

// guestAnswerer tells senders that their frames were rejected at a guest's port:
// by a frame out of the port it came in by, where that is on the same bridge, and
// else by a packet that the machine routes. While no agent runs, and where the
// machine has no way to the sender, Reject is Deny.
type guestAnswerer struct {
	events *ringbuf.Reader
	links  *netlink.Handle // in the machine's namespace
	socket int             // AF_PACKET, sends only
	cookie uint64          // of the machine's namespace
	routed *answerer
	done   chan struct{}
}

// newGuestAnswerer begins, in the namespace of the calling thread.
func newGuestAnswerer(events *ebpf.Map, d *Driver) (a *guestAnswerer, err error) {
	a = &guestAnswerer{routed: d.answers, socket: -1, done: make(chan struct{})}
	if a.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("ask for interfaces: %w", err)
	}
	defer func() {
		if err != nil {
			a.release()
		}
	}()
	if a.cookie, err = netnsCookie(); err != nil {
		return nil, err
	}
	if a.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return nil, fmt.Errorf("open a socket to tell rejected senders: %w", err)
	}
	cookie, err := unix.GetsockoptUint64(a.socket, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return nil, fmt.Errorf("ask for a socket's cookie: %w", err)
	}
	if err := d.objects.Answerers.Put(cookie, uint8(1)); err != nil {
		return nil, fmt.Errorf("note a socket to tell rejected senders: %w", err)
	}
	if a.events, err = ringbuf.NewReader(events); err != nil {
		return nil, fmt.Errorf("read events of ports: %w", err)
	}
	go func() {
		defer close(a.done)
		followRing(a.events, int(unsafe.Sizeof(guestGuestEvent{})), 0, a.answer)
	}()
	return a, nil
}

func (a *guestAnswerer) close() {
	a.events.Close()
	<-a.done
	a.release()
}

func (a *guestAnswerer) release() {
	if a.socket >= 0 {
		unix.Close(a.socket)
	}
	a.links.Close()
}

func (a *guestAnswerer) answer(raw []byte) {
	var e guestGuestEvent
	for _, f := range []struct {
		offset uintptr
		to     *uint32
	}{{unsafe.Offsetof(e.Port), &e.Port}, {unsafe.Offsetof(e.From), &e.From}, {unsafe.Offsetof(e.Length), &e.Length}} {
		*f.to = binary.NativeEndian.Uint32(raw[f.offset:])
	}
	e.Vlan = binary.NativeEndian.Uint16(raw[unsafe.Offsetof(e.Vlan):])
	e.Egress = raw[unsafe.Offsetof(e.Egress)]
	copy(e.Macs[:], raw[unsafe.Offsetof(e.Macs):])
	copy(e.Head[:], raw[unsafe.Offsetof(e.Head):])
	out, to, ok := refuse.Answer(e.Head[:min(len(e.Head), int(e.Length))], int(e.Length))
	if !ok || !a.routed.mayTalk() {
		return
	}
	at := e.Port
	if e.Egress == 0 {
		if !a.sameBridge(e.Port, e.From) {
			a.routed.sendIn(a.cookie, out, to)
			return
		}
		at = e.From
	}
	frame := append(swapMACs(make([]byte, 0, 18+len(out)), e.Macs, e.Vlan, to.Is6()), out...)
	unix.Sendto(a.socket, frame, 0, &unix.SockaddrLinklayer{Ifindex: int(at), Halen: 6})
}

// sameBridge says whether two interfaces are ports of one bridge.
func (a *guestAnswerer) sameBridge(x, y uint32) bool {
	if x == 0 || y == 0 {
		return false
	}
	one, err := a.links.LinkByIndex(int(x))
	if err != nil || one.Attrs().MasterIndex == 0 {
		return false
	}
	other, err := a.links.LinkByIndex(int(y))
	return err == nil && other.Attrs().MasterIndex == one.Attrs().MasterIndex
}

// sendIn sends a packet in the namespace with this cookie, if it is known.
func (a *answerer) sendIn(cookie uint64, packet []byte, to netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.sockets[cookie]; s != nil {
		s.send(packet, to)
	}
}
