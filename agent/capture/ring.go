package capture

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"weft/agent/capture/bpf"
)

// ring reads the kernel's ring buffer (kernel/bpf/ringbuf.c) in place. It is our own
// rather than the library's because the position read so far lives in the ring's own
// page: together with the counters beside it, it tells a restarted
// agent to the record what its predecessor had taken.
//
//	page 0            consumer position, ours to write
//	page 1            producer position
//	page 2 …          data, mapped twice in a row so that no record wraps
type ring struct {
	epoll    int
	consumer []byte
	producer []byte
	data     []byte
	mask     uint64
}

const (
	ringBusy    = 1 << 31
	ringDiscard = 1 << 30
	ringHeader  = 8
)

func openRing(m *ebpf.Map, wake int) (*ring, error) {
	page, size := os.Getpagesize(), int(m.MaxEntries())
	consumer, err := unix.Mmap(m.FD(), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the ring's position: %w", err)
	}
	producer, err := unix.Mmap(m.FD(), int64(page), page+2*size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		unix.Munmap(consumer)
		return nil, fmt.Errorf("map the ring: %w", err)
	}
	r := &ring{consumer: consumer, producer: producer, data: producer[page:], mask: uint64(size - 1), epoll: -1}
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		r.close()
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	for _, fd := range []int{m.FD(), wake} {
		if err := unix.EpollCtl(r.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)}); err != nil {
			r.close()
			return nil, fmt.Errorf("poll the ring: %w", err)
		}
	}
	return r, nil
}

func (r *ring) close() {
	if r.epoll >= 0 {
		unix.Close(r.epoll)
	}
	unix.Munmap(r.producer)
	unix.Munmap(r.consumer)
}

// wait sleeps until the kernel or the wake descriptor says something, or for
// the milliseconds given.
func (r *ring) wait(milliseconds int) {
	var events [2]unix.EpollEvent
	unix.EpollWait(r.epoll, events[:], milliseconds)
}

func word(b []byte, off int) *uint64 { return (*uint64)(unsafe.Pointer(&b[off])) }

func (r *ring) consumed() uint64 { return atomic.LoadUint64(word(r.consumer, 0)) }
func (r *ring) produced() uint64 { return atomic.LoadUint64(word(r.producer, 0)) }

// peek returns the next finished record, and the position after it. It skips
// what the kernel gave up. nil: there is none.
func (r *ring) peek() (record []byte, next uint64) {
	at := r.consumed()
	for at < r.produced() {
		off := at & r.mask
		head := atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.data[off])))
		if head&ringBusy != 0 {
			return nil, at
		}
		n := uint64(head &^ (ringBusy | ringDiscard))
		after := at + (ringHeader+n+7)&^7
		if head&ringDiscard == 0 {
			return r.data[off+ringHeader : off+ringHeader+n], after
		}
		at = after
		r.advance(at)
	}
	return nil, at
}

func (r *ring) advance(to uint64) { atomic.StoreUint64(word(r.consumer, 0), to) }

// rawRecord is the header of a record as tap.c writes it.
type rawRecord struct {
	bootNS    uint64
	line      uint32
	workload  uint32
	length    uint32
	gsoSize   uint16
	segments  uint16
	vlanTCI   uint16
	vlanProto uint16
	flags     uint8
	data      []byte
}

// parse reads a record of struct record in tap.c.
func (h *rawRecord) parse(b []byte) bool {
	if len(b) < bpf.RecordHeader {
		return false
	}
	n := binary.NativeEndian.Uint32(b[24:])
	if uint64(n) > uint64(len(b)-bpf.RecordHeader) {
		return false
	}
	h.bootNS = binary.NativeEndian.Uint64(b)
	h.line = binary.NativeEndian.Uint32(b[8:])
	h.workload = binary.NativeEndian.Uint32(b[12:])
	h.length = binary.NativeEndian.Uint32(b[20:])
	h.gsoSize = binary.NativeEndian.Uint16(b[28:])
	h.segments = binary.NativeEndian.Uint16(b[30:])
	h.vlanTCI = binary.NativeEndian.Uint16(b[32:])
	h.vlanProto = binary.NativeEndian.Uint16(b[34:])
	h.flags = b[36]
	h.data = b[bpf.RecordHeader : bpf.RecordHeader+n]
	return true
}
