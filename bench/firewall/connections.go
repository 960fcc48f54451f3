package main

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"weft/lab/netns"
)

// ipBindAddressNoPort leaves the port to connect (linux/in.h), which may then
// take one that another destination has.
const ipBindAddressNoPort = 24

// connect opens connections to what a rule allows from so many threads: one byte
// there, one byte back, and the sink closes first. It says how many were made.
func (s *site) connect(to rule, workers int, length time.Duration) (made int, took time.Duration, err error) {
	counts, errs := make([]int, workers), make([]error, workers)
	var group sync.WaitGroup
	began := time.Now()
	for i := range workers {
		group.Go(func() {
			errs[i] = netns.Do(s.sender, func() error {
				for time.Since(began) < length {
					if err := exchange(to); err != nil {
						return err
					}
					counts[i]++
				}
				return nil
			})
		})
	}
	group.Wait()
	took = time.Since(began)
	for _, n := range counts {
		made += n
	}
	return made, took, errors.Join(errs...)
}

// exchange is one connection, made on a thread in the sender's namespace.
func exchange(to rule) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	patience := unix.Timeval{Sec: 5}
	err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, ipBindAddressNoPort, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: to.source.As4()}))
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	far := unix.SockaddrInet4{Addr: standingDestination.As4(), Port: int(to.port)}
	if err := again(func() error { return unix.Connect(fd, &far) }); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	buffer := [1]byte{askByte}
	if err := again(func() error { _, err := unix.Write(fd, buffer[:]); return err }); err != nil {
		return fmt.Errorf("send a byte: %w", err)
	}
	for _, want := range []int{1, 0} { // a byte, and the end
		n := 0
		if err := again(func() (err error) { n, err = unix.Read(fd, buffer[:]); return err }); err != nil || n != want {
			return fmt.Errorf("receive a byte: %d came: %w", n, err)
		}
	}
	return nil
}

// again repeats what a signal has interrupted; Go's scheduler sends some.
func again(f func() error) error {
	for {
		err := f()
		switch {
		case errors.Is(err, unix.EISCONN):
			return nil
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EALREADY):
			return err
		}
	}
}

// connections measures S2 at one site.
func (b *bench) connections(x *subject, workers int) error {
	name := fmt.Sprintf("connections, %d at a time, last of %s rules", workers, grouped(x.n))
	type connected struct {
		made int
		took time.Duration
	}
	out, cost, err := quietest(b, func() (c connected, err error) {
		c.made, c.took, err = x.site.connect(lastTCP(x.n), workers, b.length)
		return c, err
	}, x.forget)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b.add("S2", name+": rate", x, "connections/s", float64(out.made)/out.took.Seconds())
	b.add("S2", name+": CPU for each connection", x, "µs", cost/float64(out.made)*1e6)
	return nil
}
