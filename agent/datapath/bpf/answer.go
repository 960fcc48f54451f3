package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"weft/agent/datapath/bpf/refuse"
)

// answersPerSecond bounds what is said to senders, so that a flood that is
// rejected makes no flood.
const answersPerSecond = 1000

// answerer tells senders that their packets were rejected. Programs at a socket
// can drop a packet but send none.
type answerer struct {
	events    *ringbuf.Reader
	answerers *ebpf.Map
	done      chan struct{}
	log       *slog.Logger

	mu      sync.Mutex
	sockets map[uint64]*rawSockets // by the cookie of their network namespace
	second  time.Time
	said    int
}

// rawSockets send packets in one network namespace.
type rawSockets struct {
	v4, v6 int
}

func newAnswerer(events, answerers *ebpf.Map, log *slog.Logger) (*answerer, error) {
	r, err := ringbuf.NewReader(events)
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	a := &answerer{events: r, answerers: answerers, done: make(chan struct{}), log: log, sockets: map[uint64]*rawSockets{}}
	go func() {
		defer close(a.done)
		followRing(a.events, int(unsafe.Sizeof(policyEvent{})), 0, a.answer)
	}()
	return a, nil
}

func (a *answerer) close() {
	a.events.Close()
	<-a.done
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.sockets {
		s.close()
	}
}

// know learns which namespaces there are, and opens sockets in each.
func (a *answerer) know(paths []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := map[uint64]*rawSockets{}
	for _, path := range paths {
		err := inNamespace(path, func() error {
			cookie, err := netnsCookie()
			if err != nil {
				return err
			}
			if next[cookie] = a.sockets[cookie]; next[cookie] == nil {
				next[cookie], err = a.openBoth()
			}
			return err
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			a.log.Warn("open sockets to tell rejected senders", "netns", path, "error", err)
		}
	}
	for cookie, s := range a.sockets {
		if next[cookie] == nil {
			s.close()
		}
	}
	a.sockets = next
}

// The offsets of struct event.
const (
	eventNetNS  = 0
	eventLength = 8
	eventHead   = int(unsafe.Offsetof(policyEvent{}.Head))
	eventEnd    = eventHead + int(unsafe.Sizeof(policyEvent{}.Head))
)

func (a *answerer) answer(raw []byte) {
	cookie := binary.NativeEndian.Uint64(raw[eventNetNS:])
	length := int(binary.NativeEndian.Uint32(raw[eventLength:]))
	head := raw[eventHead:min(eventEnd, eventHead+max(length, 0))]
	out, to, ok := refuse.Answer(head, length)
	if !ok || !a.mayTalk() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.sockets[cookie]; s != nil { // or the namespace is gone, and nobody is left to be told from there
		s.send(out, to)
	}
}

func (a *answerer) mayTalk() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); now.Sub(a.second) > time.Second {
		a.second, a.said = now, 0
	}
	a.said++
	return a.said <= answersPerSecond
}

// openBoth opens the sockets of this thread's namespace.
func (a *answerer) openBoth() (*rawSockets, error) {
	s := &rawSockets{v4: -1, v6: -1}
	var err error
	if s.v4, err = a.open(unix.AF_INET); err == nil {
		s.v6, err = a.open(unix.AF_INET6)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// open makes a raw socket whose packets no policy judges.
func (a *answerer) open(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if err != nil {
		return -1, err
	}
	if family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_HDRINCL, 1)
	}
	cookie, cookieErr := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err = errors.Join(err, cookieErr); err == nil {
		err = a.answerers.Put(cookie, uint8(1))
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (s *rawSockets) send(packet []byte, to netip.Addr) {
	if to.Is4() {
		unix.Sendto(s.v4, packet, 0, &unix.SockaddrInet4{Addr: to.As4()})
		return
	}
	unix.Sendto(s.v6, packet, 0, &unix.SockaddrInet6{Addr: to.As16()})
}

func (s *rawSockets) close() {
	for _, fd := range []int{s.v4, s.v6} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}
