package emulate

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// MaxMTU of an emulated link. Super-frames do not cross, see OpenPort.
const MaxMTU = 9216

// Port is a packet socket on one device.
type Port struct {
	file *os.File
}

// OpenPort opens a device of the network namespace that the calling thread is
// in. The device that feeds it must have checksum and segmentation offload
// off: a link carries whole frames and each has its own fate.
func OpenPort(index int) (*Port, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	// Bound to a protocol only after this, so that nothing we send comes back.
	err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20)
	}
	if err == nil {
		// The queueing discipline would hold frames a second time.
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: index})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set packet socket up: %w", err)
	}
	return &Port{os.NewFile(uintptr(fd), "packet")}, nil
}

func bigEndian(v uint16) uint16 { return v<<8 | v>>8 }

// Close stops a link's use of the port.
func (p *Port) Close() error { return p.file.Close() }

// Counters of one direction, in frames.
type Counters struct {
	In, Out uint64
	// Lost were drawn, Full had no room, TooBig exceeded the MTU, Failed were
	// refused by the device.
	Lost, Full, TooBig, Failed uint64
}

type direction struct {
	from, to *Port
	ready    chan struct{}

	mu    sync.Mutex
	rules schedule
	queue queue
	ended bool

	in, out, lost, full, tooBig, failed atomic.Uint64
}

// Link carries frames between two ports until it is closed.
type Link struct {
	a, b   *Port
	ab, ba *direction
	wait   sync.WaitGroup
}

// Start begins to carry frames. The link owns the ports from now on.
func Start(a, b *Port, i Impairment) *Link {
	mtu := i.MTU
	if mtu == 0 {
		mtu = MaxMTU
	}
	// One byte more than fits shows a frame that is too long.
	frames := queue{size: mtu + etherLen + 1}
	l := &Link{a: a, b: b,
		ab: &direction{from: a, to: b, ready: make(chan struct{}, 1), rules: newSchedule(i, 0), queue: frames},
		ba: &direction{from: b, to: a, ready: make(chan struct{}, 1), rules: newSchedule(i, 1), queue: frames},
	}
	for _, d := range []*direction{l.ab, l.ba} {
		l.wait.Go(d.receive)
		l.wait.Go(d.deliver)
	}
	return l
}

// Set changes the impairment, all but the MTU. Frames on their way keep their time; the draws
// begin anew.
func (l *Link) Set(i Impairment) {
	for n, d := range []*direction{l.ab, l.ba} {
		d.mu.Lock()
		last := d.rules.last
		d.rules = newSchedule(i, uint64(n))
		if d.queue.len() > 0 {
			d.rules.last = last
		}
		d.mu.Unlock()
	}
}

// Counters returns those of the way from port a to b, and back.
func (l *Link) Counters() (ab, ba Counters) { return l.ab.counters(), l.ba.counters() }

// Close ends the link and drops what is on its way.
func (l *Link) Close() error {
	err := errors.Join(l.a.Close(), l.b.Close())
	l.wait.Wait()
	return err
}

func (d *direction) counters() Counters {
	return Counters{
		In: d.in.Load(), Out: d.out.Load(), Lost: d.lost.Load(), Full: d.full.Load(), TooBig: d.tooBig.Load(), Failed: d.failed.Load(),
	}
}

// receive takes frames off the one port and gives each its time.
func (d *direction) receive() {
	defer func() {
		d.mu.Lock()
		d.ended = true
		d.mu.Unlock()
		d.wake()
	}()
	d.mu.Lock()
	buf := d.queue.buffer()
	d.mu.Unlock()
	for {
		n, err := d.from.file.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil || n == 0 {
			// ENETDOWN while the device is down: it comes back.
			if err != nil && !errors.Is(err, unix.ENETDOWN) {
				return
			}
			continue
		}
		d.in.Add(1)
		d.mu.Lock()
		at, what := d.rules.next(time.Now(), n)
		if what == pass && d.queue.len() >= maxQueue {
			what = full
		}
		if what == pass {
			d.queue.push(at, buf[:n])
			buf = d.queue.buffer()
		}
		d.mu.Unlock()
		switch what {
		case pass:
			d.wake()
		case lost:
			d.lost.Add(1)
		case full:
			d.full.Add(1)
		case tooBig:
			d.tooBig.Add(1)
		}
	}
}

func (d *direction) wake() {
	select {
	case d.ready <- struct{}{}:
	default:
	}
}

// deliver gives frames to the other port when their time has come.
func (d *direction) deliver() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		d.mu.Lock()
		if d.ended {
			d.mu.Unlock()
			return
		}
		wait := time.Hour
		var data []byte
		if d.queue.len() > 0 {
			if wait = time.Until(d.queue.heap[0].at); wait <= 0 {
				data = d.queue.pop()
			}
		}
		d.mu.Unlock()
		if data == nil {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-d.ready:
			}
			continue
		}
		if _, err := d.to.file.Write(data); err != nil {
			d.failed.Add(1)
		} else {
			d.out.Add(1)
		}
		d.mu.Lock()
		d.queue.release(data)
		d.mu.Unlock()
	}
}
