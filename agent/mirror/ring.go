package mirror

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"weft/packet"
)

// ring is a socket on an interface, and the memory in which the kernel puts
// frames (TPACKET_V3, Documentation/networking/packet_mmap.rst).
type ring struct {
	fd     int
	memory []byte
	next   int // block
	link   packet.Link
}

const (
	blockSize = 1 << 20
	blocks    = 16
	// retire is after how many milliseconds a block is handed over that is not full.
	retire = 100
	// kept is how many bytes of a frame are looked at: the headers, and the first
	// that a connection says.
	kept = 2048
)

// Offsets in a block's head and in that of a frame (linux/if_packet.h).
const (
	blockStatus = 8
	blockCount  = 12
	blockFirst  = 16

	frameNext   = 0
	frameSecs   = 4
	frameNanos  = 8
	frameKept   = 12
	frameLength = 16
	frameMAC    = 24
)

// openRing listens to all that an interface hears: it is put into promiscuous
// mode for as long as the ring is open.
func openRing(device string) (_ *ring, err error) {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return nil, fmt.Errorf("find interface %s: %w", device, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	r := &ring{fd: fd}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("listen on %s: %w", device, err), r.close())
		}
	}()
	if len(i.HardwareAddr) == 0 && i.Flags&net.FlagLoopback == 0 {
		r.link = packet.RawIP // as of TUN devices
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return nil, fmt.Errorf("choose TPACKET_V3: %w", err)
	}
	// What this machine sends is its own, and is in its own table. Kernels before
	// 4.20 hand it over too.
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		return nil, fmt.Errorf("leave out what is sent: %w", err)
	}
	cut := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: kept}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &cut}); err != nil {
		return nil, fmt.Errorf("cut frames to %d bytes: %w", kept, err)
	}
	if err := unix.SetsockoptTpacketReq3(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &unix.TpacketReq3{
		Block_size: blockSize, Block_nr: blocks, Frame_size: kept, Frame_nr: blockSize / kept * blocks, Retire_blk_tov: retire}); err != nil {
		return nil, fmt.Errorf("make a ring of %d bytes: %w", blocks*blockSize, err)
	}
	if r.memory, err = unix.Mmap(fd, 0, blocks*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map the ring: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: i.Index}); err != nil {
		return nil, err
	}
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(i.Index), Type: unix.PACKET_MR_PROMISC}); err != nil {
		return nil, fmt.Errorf("set promiscuous mode: %w", err)
	}
	return r, nil
}

func htons(n uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n)) }

func (r *ring) close() error {
	var err error
	if r.memory != nil {
		err = unix.Munmap(r.memory)
	}
	return errors.Join(err, unix.Close(r.fd))
}

// status is a block's: the kernel's until it hands the block over.
func (r *ring) status() *uint32 {
	return (*uint32)(unsafe.Pointer(&r.memory[r.next*blockSize+blockStatus])) //nolint:gosec // the kernel and we take turns by this word, which is aligned
}

// wait returns when there may be frames, or after a while. An error is the
// interface's end.
func (r *ring) wait(patience time.Duration) error {
	if atomic.LoadUint32(r.status())&unix.TP_STATUS_USER != 0 {
		return nil
	}
	fds := []unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN | unix.POLLERR}}
	if _, err := unix.Poll(fds, int(patience.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for frames: %w", err)
	}
	if fds[0].Revents&unix.POLLERR != 0 {
		code, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		if err != nil {
			return fmt.Errorf("wait for frames: %w", err)
		}
	}
	return nil
}

// read hands over the frames of the blocks that are ready, and gives the blocks
// back.
func (r *ring) read(frame func(when time.Time, b []byte, wire int)) {
	for range blocks {
		status := r.status()
		if atomic.LoadUint32(status)&unix.TP_STATUS_USER == 0 {
			return
		}
		block := r.memory[r.next*blockSize:][:blockSize]
		at := int(binary.NativeEndian.Uint32(block[blockFirst:]))
		for range binary.NativeEndian.Uint32(block[blockCount:]) {
			f := block[at:]
			word := func(offset int) int { return int(binary.NativeEndian.Uint32(f[offset:])) }
			start := int(binary.NativeEndian.Uint16(f[frameMAC:]))
			frame(time.Unix(int64(word(frameSecs)), int64(word(frameNanos))), f[start:start+word(frameKept)], word(frameLength))
			at += word(frameNext)
		}
		atomic.StoreUint32(status, unix.TP_STATUS_KERNEL)
		r.next = (r.next + 1) % blocks
	}
}

// dropped is how many frames found no room since it was asked last.
func (r *ring) dropped() uint64 {
	s, err := unix.GetsockoptTpacketStatsV3(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0
	}
	return uint64(s.Drops)
}
