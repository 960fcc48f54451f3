package datapathtest

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// sneakPort is the port that such a call comes from.
const sneakPort = 47_611

// Sneak makes a call, by IPv4, of which a raw socket has sent a segment before
// that looks like the middle of a connection to the caller.
func (s *Site) Sneak(t *testing.T, from, to string, port uint16) Outcome {
	t.Helper()
	target := netip.AddrPortFrom(s.Endpoint(to).IPv4, s.portOf(s.Endpoint(to), port))
	r, err := s.Endpoint(from).process.tell(order{Do: "sneak", Address: target.String(), Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if r.Outcome == "" {
		t.Fatal(r.Error)
	}
	return r.Outcome
}

func sneak(address string, timeout time.Duration) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	d := net.Dialer{Timeout: timeout, LocalAddr: &net.TCPAddr{Port: sneakPort}}
	probe, err := net.Dial("udp4", address) // by which address we go there
	if err != nil {
		return err
	}
	local := probe.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	probe.Close()
	if err := sendAck(local, to); err != nil {
		return err
	}
	c, err := d.Dial("tcp4", address)
	if err != nil {
		return err
	}
	defer c.Close()
	return talk(c, timeout)
}

// sendAck sends a bare acknowledgement, which gets no further than the next router:
// nobody answers that there is no such connection.
func sendAck(from netip.Addr, to netip.AddrPort) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, syscall.IPPROTO_TCP)
	if err != nil {
		return fmt.Errorf("open a raw socket: %w", err)
	}
	defer syscall.Close(fd)
	if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, syscall.IP_TTL, 1); err != nil {
		return err
	}
	m := make([]byte, 20)
	binary.BigEndian.PutUint16(m, sneakPort)
	binary.BigEndian.PutUint16(m[2:], to.Port())
	m[12], m[13] = 5<<4, 0x10
	binary.BigEndian.PutUint16(m[14:], 1000)
	a, b := from.As4(), to.Addr().As4()
	var sum uint32
	for _, part := range [][]byte{a[:], b[:], {0, syscall.IPPROTO_TCP, 0, byte(len(m))}, m} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(m[16:], ^uint16(sum))
	return syscall.Sendto(fd, m, 0, &syscall.SockaddrInet4{Addr: b})
}
