package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"weft/lab/netns"
)

// frames sends UDP datagrams of 60 bytes with the Ethernet header from the
// sender's eth0, past its own IP stack: every address is its own, each datagram
// may be a connection of its own, and only the receiver's firewall judges them.
type frames struct {
	fd   int
	b    *batch
	flow int // the last new one
}

const (
	frameLength   = 60
	framesAtOnce  = 32
	firstFlowPort = 1024
	flowPorts     = 64000
)

// standing is the flow that does not change.
const standing = 0

// standingDestination is the receiver's own address, which answers come from.
var standingDestination = netip.AddrFrom4([4]byte{192, 0, 2, 2})

func newFrames(namespace string) (*frames, error) {
	f := &frames{fd: -1, b: newBatch(framesAtOnce, frameLength)}
	err := netns.Do(namespace, func() (err error) {
		device, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if f.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.SetsockoptInt(f.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
			return err
		}
		return unix.Bind(f.fd, &unix.SockaddrLinklayer{Ifindex: device.Index})
	})
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	for _, frame := range f.b.buffers {
		copy(frame[0:], receiverMAC)
		copy(frame[6:], senderMAC)
		binary.BigEndian.PutUint16(frame[12:], unix.ETH_P_IP)
		ip := frame[14:]
		ip[0], ip[8], ip[9] = 0x45, 64, protocolUDP // RFC 791: version and header length, TTL, protocol
		binary.BigEndian.PutUint16(ip[2:], frameLength-14)
		binary.BigEndian.PutUint16(ip[24:], frameLength-14-20) // RFC 768; no checksum
	}
	return f, nil
}

func (f *frames) close() error { return unix.Close(f.fd) }

// write makes a buffer a datagram of a flow to what a rule names.
func (f *frames) write(i int, to rule, flow int) {
	ip := f.b.buffers[i][14:34]
	source, destination := to.source.As4(), standingDestination.As4()
	if flow != standing {
		destination = [4]byte{198, 18 + byte(flow/flowPorts>>16), byte(flow / flowPorts >> 8), byte(flow / flowPorts)}
	}
	copy(ip[12:], source[:])
	copy(ip[16:], destination[:])
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	udp := f.b.buffers[i][34:]
	binary.BigEndian.PutUint16(udp[0:], uint16(firstFlowPort+flow%flowPorts))
	binary.BigEndian.PutUint16(udp[2:], to.port)
}

// checksum is RFC 1071's, over an even number of bytes.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// send sends so many, each of a new flow or all of the standing one, until the
// deadline, as fast as the receiver takes them, and says how many went.
func (f *frames) send(to rule, fresh bool, limit int, deadline time.Time) (sent int, err error) {
	for sent < limit && time.Now().Before(deadline) {
		n := min(limit-sent, framesAtOnce)
		for i := range n {
			flow := standing
			if fresh {
				f.flow++
				flow = f.flow
			}
			f.write(i, to, flow)
		}
		for done := 0; done < n; {
			k, err := f.b.send(f.fd, done, n)
			if errors.Is(err, unix.ENOBUFS) { // the receiver's queue is full
				time.Sleep(50 * time.Microsecond)
				continue
			}
			if err != nil {
				return sent, fmt.Errorf("send frames: %w", err)
			}
			done += k
		}
		sent += n
	}
	return sent, nil
}
