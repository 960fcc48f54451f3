package main

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"weft/bench/offload"
	"weft/lab/netns"
)

// cubic makes a socket use the congestion control that most of the world uses,
// whatever the machine's default is.
func cubic(_, _ string, raw syscall.RawConn) (err error) {
	raw.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic") })
	return err
}

// stream is one TCP connection to what a rule allows, as fast as it goes; it
// returns bits of payload.
func (s *site) stream(to rule, length time.Duration) (bits float64, took time.Duration, err error) {
	var conn net.Conn
	// A literal address: the dialer looks nothing up and stays on this thread.
	err = netns.Do(s.sender, func() error {
		dialer := net.Dialer{Control: cubic, Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: to.source.AsSlice()}}
		conn, err = dialer.Dial("tcp4", net.JoinHostPort(standingDestination.String(), strconv.Itoa(int(to.port))))
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	chunk := make([]byte, 128<<10)
	for i := range chunk {
		chunk[i] = askBulk
	}
	began, written := time.Now(), 0
	for time.Since(began) < length {
		n, err := conn.Write(chunk)
		if err != nil {
			return 0, 0, err
		}
		written += n
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, 0, err
	}
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(chunk); err != io.EOF { // the sink has all of it
		return 0, 0, fmt.Errorf("end a stream: %w", err)
	}
	return float64(written) * 8, time.Since(began), nil
}

// streams measures one stream with offloads and one without.
func (b *bench) streams(x *subject, offloads bool) error {
	how := "off"
	if offloads {
		how = "on"
	}
	name := fmt.Sprintf("one TCP stream, last of %s rules, offloads %s", grouped(x.n), how)
	for _, namespace := range []string{x.site.sender, x.site.receiver} {
		if err := offload.Set(namespace, "eth0", offloads); err != nil {
			return err
		}
	}
	type streamed struct {
		bits float64
		took time.Duration
	}
	out, cost, err := quietest(b, func() (s streamed, err error) {
		s.bits, s.took, err = x.site.stream(lastTCP(x.n), b.length)
		return s, err
	}, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b.add("S1", name+": rate", x, "Gbit/s", out.bits/out.took.Seconds()/1e9)
	b.add("S1", name+": CPU for each Gbit", x, "CPU-s", cost/out.bits*1e9)
	return nil
}
