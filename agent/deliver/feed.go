package deliver

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"weft/model"
	"weft/packet"
	"weft/wire/tapstream"
)

// struct virtio_net_hdr of linux/virtio_net.h, as PACKET_VNET_HDR wants it: in
// the machine's byte order.
const (
	vnetLen       = 10
	vnetNeedsCsum = 1
	vnetTCPv4     = 1
	vnetTCPv6     = 4
	vnetUDPL4     = 5
	vnetECN       = 0x80
)

const (
	burst     = 64        // messages in one sendmmsg
	arenaSize = 512 << 10 // frames that had to be made; a super-frame's worth and more
)

// feed writes frames to the fed end of a landing device. Its buffers are made
// once. One batch at a time.
type feed struct {
	mu  sync.Mutex
	fd  int
	mtu int

	msgs  [burst]mmsghdr
	iov   [burst][2]unix.Iovec
	vnet  [burst][vnetLen]byte
	owner [burst]int // index into fates
	n     int

	arena []byte
	used  int

	fates []fate
	err   error // the last that a write met
	flags ifFlags
	noUSO bool // the kernel does not cut UDP for us (before 6.2)
}

// mmsghdr is struct mmsghdr of sys/socket.h.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// ifFlags is struct ifreq of linux/if.h, as SIOCGIFFLAGS has it.
type ifFlags struct {
	name  [unix.IFNAMSIZ]byte
	flags uint16
	_     [22]byte
}

// fate is what became of one record.
type fate struct {
	sum    model.Count
	failed bool
}

func openFeed(name string, ifindex, mtu int) (*feed, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifindex}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind a packet socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set PACKET_VNET_HDR: %w", err)
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20)
	f := &feed{fd: fd, mtu: mtu, arena: make([]byte, arenaSize), fates: make([]fate, 0, 1024)}
	copy(f.flags.name[:unix.IFNAMSIZ-1], name)
	for i := range f.msgs {
		f.msgs[i].hdr.Iov = &f.iov[i][0]
		f.msgs[i].hdr.SetIovlen(2)
		f.iov[i][0].Base = &f.vnet[i][0]
		f.iov[i][0].SetLen(vnetLen)
	}
	return f, nil
}

func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd >= 0 {
		unix.Close(f.fd)
		f.fd = -1
	}
}

// write feeds all records of an opened batch and returns the sums of those that
// went and those that did not.
func (f *feed) write(d *tapstream.Decoder) (delivered, failed model.Count, deviceErr, formatErr error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fates, f.err = f.fates[:0], nil
	up := f.running()
	if !up {
		f.err = unix.ENETDOWN
	}
	var r tapstream.Record
	for {
		more, err := d.Next(&r)
		if err != nil {
			formatErr = err
			break
		}
		if !more {
			break
		}
		f.fates = append(f.fates, fate{sum: model.Count{Packets: uint64(r.Segments), Bytes: uint64(r.Length)}})
		if up {
			f.record(&r)
		} else {
			f.fail()
		}
	}
	f.flush()
	for i := range f.fates {
		if f.fates[i].failed {
			failed = failed.Add(f.fates[i].sum)
		} else {
			delivered = delivered.Add(f.fates[i].sum)
		}
	}
	return delivered, failed, f.err, formatErr
}

// running says whether the device takes frames. One whose other end is down
// drops them, and 6.1 tells neither the sender nor any counter
// (net/sched/sch_generic.c, noop_enqueue).
func (f *feed) running() bool {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f.fd), unix.SIOCGIFFLAGS, uintptr(unsafe.Pointer(&f.flags)))
	return errno != 0 || f.flags.flags&unix.IFF_RUNNING != 0
}

func (f *feed) fail() { f.fates[len(f.fates)-1].failed = true }

// space returns n bytes that stay until the next flush, or nil.
func (f *feed) space(n int) []byte {
	if n > len(f.arena)-f.used {
		return nil
	}
	b := f.arena[f.used : f.used+n : f.used+n]
	f.used += n
	return b
}

// record queues one record: as it is, for the kernel to cut, or cut here.
func (f *feed) record(r *tapstream.Record) {
	if f.used > arenaSize/4 { // no flush may come between a frame and its pieces
		f.flush()
	}
	frame, length := f.rebuild(r)
	if frame == nil {
		f.fail()
		return
	}
	headers, ok := packet.Parse(frame, packet.Ethernet)
	if !ok {
		f.fail() // not even a link header: no device takes it
		return
	}
	whole := len(frame) == length
	if r.GSOSize == 0 || headers.Payload > 0 && length-headers.Payload <= int(r.GSOSize) {
		if whole { // also a super-frame of one segment, which the kernel would not cut
			packet.CompleteChecksum(frame, headers)
		}
		f.plain(frame)
		return
	}
	if whole && f.kernelCuts(frame, headers, r.GSOSize) {
		return
	}
	super := packet.SuperFrame{Frame: frame, Length: length, Size: int(r.GSOSize)}
	n := super.Segments(headers)
	if n == 0 { // headers cut off by snaplen, or a tunnel: as it is if it can be
		f.plain(frame)
		return
	}
	if n*headers.Payload+len(frame) > len(f.arena)-f.used {
		f.fail() // more headers than payload: nothing a network card would send
		return
	}
	for i := range n {
		segment := super.Segment(f.arena[f.used:], headers, i)
		f.used += len(segment)
		f.plain(segment)
	}
}

// rebuild puts back what the source's kernel holds beside the frame, and gives
// a frame without a link header one.
func (f *feed) rebuild(r *tapstream.Record) (frame []byte, length int) {
	length = int(r.Length)
	switch {
	case r.Flags&tapstream.FlagRaw != 0:
		b := f.space(14 + len(r.Data))
		if b == nil || len(r.Data) == 0 {
			return nil, 0
		}
		clear(b[:12])
		proto := uint16(packet.EtherTypeIPv4)
		if r.Data[0]>>4 == 6 {
			proto = packet.EtherTypeIPv6
		}
		binary.BigEndian.PutUint16(b[12:], proto)
		copy(b[14:], r.Data)
		return b, length + 14
	case r.Flags&tapstream.FlagVLAN != 0 && len(r.Data) >= 12:
		b := f.space(4 + len(r.Data))
		if b == nil {
			return nil, 0
		}
		copy(b, r.Data[:12])
		binary.BigEndian.PutUint16(b[12:], r.VLANProto)
		binary.BigEndian.PutUint16(b[14:], r.VLANTCI)
		copy(b[16:], r.Data[12:])
		return b, length + 4
	}
	return r.Data, length
}

// kernelCuts queues a whole super-frame for the kernel to cut, where it can:
// TCP, and UDP on kernels that have it; no tags, no extension headers.
func (f *feed) kernelCuts(frame []byte, h packet.Headers, size uint16) bool {
	if h.Tags > 0 || h.Payload == 0 || h.Fragment || len(frame) <= h.Payload || len(frame)-h.L3 > 65535 {
		return false
	}
	if int(size)+h.Payload-h.L3 > f.mtu {
		return false
	}
	kind, offset := byte(0), 16
	switch {
	case h.Proto == packet.ProtoTCP && h.Type == packet.EtherTypeIPv4:
		kind = vnetTCPv4
	case h.Proto == packet.ProtoTCP && h.Type == packet.EtherTypeIPv6 && h.L4 == h.L3+40:
		kind = vnetTCPv6
	case h.Proto == packet.ProtoUDP && !f.noUSO && (h.Type == packet.EtherTypeIPv4 || h.L4 == h.L3+40):
		if frame[h.L4+6] == 0 && frame[h.L4+7] == 0 {
			return false
		}
		kind, offset = vnetUDPL4, 6
	default:
		return false
	}
	if h.IPLen != len(frame)-h.L3 {
		return false
	}
	if h.Proto == packet.ProtoTCP && frame[h.L4+13]&packet.TCPCwr != 0 {
		kind |= vnetECN
	}
	packet.SetPartialChecksum(frame, h, len(frame)-h.L4)
	v := f.next(frame)
	v[0], v[1] = vnetNeedsCsum, kind
	binary.NativeEndian.PutUint16(v[2:], uint16(h.Payload))
	binary.NativeEndian.PutUint16(v[4:], size)
	binary.NativeEndian.PutUint16(v[6:], uint16(h.L4))
	binary.NativeEndian.PutUint16(v[8:], uint16(offset))
	return true
}

// plain queues a frame that is what the wire carries.
func (f *feed) plain(frame []byte) {
	*f.next(frame) = [vnetLen]byte{}
}

// next queues a frame and returns its virtio header to fill.
func (f *feed) next(frame []byte) *[vnetLen]byte {
	if f.n == burst {
		f.send()
	}
	i := f.n
	f.n++
	f.iov[i][1].Base = unsafe.SliceData(frame)
	f.iov[i][1].SetLen(len(frame))
	f.owner[i] = len(f.fates) - 1
	return &f.vnet[i]
}

// send gives the queued messages to the kernel. A message that is refused
// marks its record; those behind it still go.
func (f *feed) send() {
	for at := 0; at < f.n; {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(f.fd), uintptr(unsafe.Pointer(&f.msgs[at])), uintptr(f.n-at), 0, 0, 0)
		switch {
		case errno == unix.EINTR || errno == unix.EAGAIN:
		case errno != 0:
			if errno == unix.EINVAL && f.vnet[at][1] == vnetUDPL4 {
				f.noUSO = true // from the next one on, cut before
				errno = f.cut(at)
			}
			if errno != 0 {
				f.err = errno
				f.fates[f.owner[at]].failed = true
			}
			at++
		default:
			at += int(n)
		}
	}
	runtime.KeepAlive(f.arena)
	f.n = 0
}

// cut sends a queued UDP super-frame that the kernel would not cut, piece by
// piece. That happens to what is queued when the first is refused, then never again.
func (f *feed) cut(at int) unix.Errno {
	frame := unsafe.Slice(f.iov[at][1].Base, f.iov[at][1].Len)
	size := binary.NativeEndian.Uint16(f.vnet[at][4:])
	headers, _ := packet.Parse(frame, packet.Ethernet)
	super := packet.SuperFrame{Frame: frame, Length: len(frame), Size: int(size)}
	piece := make([]byte, vnetLen+headers.Payload+int(size))
	for i := range super.Segments(headers) {
		n := vnetLen + len(super.Segment(piece[vnetLen:], headers, i))
		for {
			_, err := unix.Write(f.fd, piece[:n])
			if err == nil {
				break
			}
			if errno, ok := err.(unix.Errno); ok && errno != unix.EINTR && errno != unix.EAGAIN {
				return errno
			}
		}
	}
	return 0
}

// flush sends what is queued, after which made frames may be overwritten.
func (f *feed) flush() {
	f.send()
	f.used = 0
}
