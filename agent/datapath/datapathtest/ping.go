package datapathtest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
)

var pings atomic.Uint32

// ping sends one ICMP echo request by a raw socket, and waits for the answer.
func ping(address string, timeout time.Duration) error {
	to, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	family, protocol, kind := syscall.AF_INET, syscall.IPPROTO_ICMP, byte(8)
	var where syscall.Sockaddr
	if to.Is4() {
		where = &syscall.SockaddrInet4{Addr: to.As4()}
	} else {
		family, protocol, kind = syscall.AF_INET6, 58, 128
		where = &syscall.SockaddrInet6{Addr: to.As16()}
	}
	fd, err := syscall.Socket(family, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, protocol)
	if err != nil {
		return fmt.Errorf("open a socket to ping from: %w", err)
	}
	defer syscall.Close(fd)
	id := uint16(syscall.Getpid()) ^ uint16(pings.Add(1)<<8)
	m := []byte{kind, 0, 0, 0, byte(id >> 8), byte(id), 0, 1}
	if family == syscall.AF_INET { // of ICMPv6 the kernel makes the checksum
		var sum uint32
		for i := 0; i < len(m); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(m[i:]))
		}
		binary.BigEndian.PutUint16(m[2:], ^uint16(sum+sum>>16))
	}
	if err := syscall.Sendto(fd, m, 0, where); err != nil {
		return err
	}
	deadline := time.Now().Add(timeout)
	buf := make([]byte, 256)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("ping %s: no answer", address)
		}
		tv := syscall.NsecToTimeval(left.Nanoseconds())
		if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &tv); err != nil {
			return err
		}
		n, _, err := syscall.Recvfrom(fd, buf, 0)
		if err != nil {
			continue
		}
		b := buf[:n]
		if family == syscall.AF_INET && n > 20 { // a raw socket shows the IP header
			b = b[int(b[0]&15)*4:]
		}
		if len(b) >= 8 && (b[0] == 0 || b[0] == 129) && binary.BigEndian.Uint16(b[4:]) == id {
			return nil
		}
	}
}
