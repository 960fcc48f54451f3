package bpf

import (
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"

	"weft/agent/connection"
)

// hearer reads the first bytes of connections that the programs hand over.
type hearer struct {
	driver *Driver
	pieces *ringbuf.Reader
	done   chan struct{}
	hello  connection.Hello
}

func (d *Driver) helloWanted() uint32 {
	if d.hellos == nil {
		return 0
	}
	return 1
}

func newHearer(d *Driver) (*hearer, error) {
	r, err := ringbuf.NewReader(d.objects.Hellos)
	if err != nil {
		return nil, fmt.Errorf("read the first bytes of connections: %w", err)
	}
	h := &hearer{driver: d, pieces: r, done: make(chan struct{})}
	go func() {
		defer close(h.done)
		followRing(h.pieces, helloHead, gatherHellos, h.hear)
	}()
	return h, nil
}

func (h *hearer) close() {
	h.pieces.Close()
	<-h.done
}

// gatherHellos is how long pieces wait for more: nobody is in a hurry to know what a
// connection is used for, and the ring holds what comes meanwhile.
const gatherHellos = 20 * time.Millisecond

// helloHead is where the bytes begin in struct hello.
const helloHead = int(unsafe.Offsetof(policyHello{}.Bytes))

// hear takes one piece.
func (h *hearer) hear(raw []byte) {
	x := (*policyHello)(unsafe.Pointer(unsafe.SliceData(raw))) // of which the bytes may be fewer
	text := raw[helloHead:]
	if int(x.Length) > len(text) {
		return
	}
	k := &x.Key
	h.hello = connection.Hello{
		Key: connection.Key{
			Local:    netip.AddrPortFrom(readAddress(k.Family, k.Local), port(k.LocalPort)),
			Remote:   netip.AddrPortFrom(readAddress(k.Family, k.Remote), port(k.RemotePort)),
			Protocol: k.Protocol, NetNS: k.Netns,
		},
		Began: x.FirstNs, When: h.driver.clock.at(x.NowNs), Seq: x.Seq, Called: x.Called != 0, Bytes: text[:x.Length],
	}
	h.driver.hellos.Hear(&h.hello)
}
