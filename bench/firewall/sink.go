package main

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Sink takes what reaches the receiver. It is a program of its own, because a
// socket belongs to the cgroup of the process that makes it; site calls its
// methods by net/rpc over standard input and output.
type Sink struct {
	ports map[rule]*arrivals
}

// arrivals are those at one port.
type arrivals struct {
	fd             int
	packets, bytes atomic.Int64
	first          atomic.Int64
}

// Arrivals is what has come to a port so far.
type Arrivals struct {
	Packets, Bytes int
	First          int64 // when the first came, by CLOCK_MONOTONIC, in nanoseconds
}

// Port names one of the sink's.
type Port struct {
	Protocol uint8
	Number   uint16
}

const sinkBuffer = 128 << 20 // bytes: all datagrams of one measurement

// acceptors are so many threads that take connections.
const acceptors = 32

// Open begins to take what comes to a port.
func (s *Sink) Open(p Port, _ *struct{}) error {
	key := rule{protocol: p.Protocol, port: p.Number}
	if s.ports[key] != nil {
		return nil
	}
	kind := unix.SOCK_DGRAM
	if p.Protocol == protocolTCP {
		kind = unix.SOCK_STREAM
	}
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	a := &arrivals{fd: fd}
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, &unix.SockaddrInet4{Port: int(p.Number)})); err != nil {
		return fmt.Errorf("open port %d: %w", p.Number, err)
	}
	s.ports[key] = a
	if p.Protocol == protocolUDP {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, sinkBuffer); err != nil {
			return err
		}
		go a.receive()
		return nil
	}
	if err := errors.Join(unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic"), unix.Listen(fd, 1024)); err != nil {
		return err
	}
	for range acceptors {
		go a.accept()
	}
	return nil
}

// Read says what has come to a port.
func (s *Sink) Read(p Port, out *Arrivals) error {
	a := s.ports[rule{protocol: p.Protocol, port: p.Number}]
	if a == nil {
		return fmt.Errorf("port %d is not open", p.Number)
	}
	*out = Arrivals{int(a.packets.Load()), int(a.bytes.Load()), a.first.Load()}
	return nil
}

// Reset forgets what has come to a port.
func (s *Sink) Reset(p Port, _ *struct{}) error {
	a := s.ports[rule{protocol: p.Protocol, port: p.Number}]
	if a == nil {
		return fmt.Errorf("port %d is not open", p.Number)
	}
	a.packets.Store(0)
	a.bytes.Store(0)
	a.first.Store(0)
	return nil
}

// Answer is a datagram from a port.
type Answer struct {
	Port uint16
	To   netip.AddrPort
}

// Answer sends one.
func (s *Sink) Answer(x Answer, _ *struct{}) error {
	a := s.ports[rule{protocol: protocolUDP, port: x.Port}]
	if a == nil {
		return fmt.Errorf("port %d is not open", x.Port)
	}
	return unix.Sendto(a.fd, []byte("answer"), 0, &unix.SockaddrInet4{Addr: x.To.Addr().As4(), Port: int(x.To.Port())})
}

func (a *arrivals) receive() {
	b := newBatch(64, 64)
	for {
		n, err := b.receive(a.fd)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		if a.packets.Add(int64(n)) == int64(n) {
			a.first.Store(monotonic())
		}
	}
}

// The first byte of a connection says what it is for.
const (
	askBulk = 'b' // take all that comes
	askByte = '1' // answer with a byte and close
)

func (a *arrivals) accept() {
	buffer := make([]byte, 256<<10)
	for {
		fd, _, err := unix.Accept4(a.fd, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
			continue
		}
		if err != nil {
			return
		}
		n, err := unix.Read(fd, buffer[:1])
		if err == nil && n == 1 && buffer[0] == askBulk {
			for n > 0 && err == nil {
				n, err = unix.Read(fd, buffer)
				a.bytes.Add(int64(max(n, 0)))
			}
		} else if n == 1 {
			unix.Write(fd, buffer[:1])
			a.packets.Add(1)
		}
		unix.Close(fd)
	}
}

func monotonic() int64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0
	}
	return ts.Nano()
}
