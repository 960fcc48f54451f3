// Package tcp holds what every socket of ours that faces the network gets: dead
// peers are found within half a minute, and one address cannot connect faster
// than it may.
package tcp

import (
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// KeepAlive finds a peer that is gone while nothing is being sent.
var KeepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 2}

// UserTimeout is how long sent data may stay unacknowledged before the kernel
// gives the connection up (TCP_USER_TIMEOUT, tcp(7)).
const UserTimeout = 15 * time.Second

// Control is for net.Dialer and net.ListenConfig, whose accepted sockets
// inherit it: it sets UserTimeout.
func Control(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(UserTimeout/time.Millisecond))
	})
	if err != nil {
		return err
	}
	return set
}

// SourceLimiter bounds how fast one address connects. It remembers a bounded
// number of addresses: a flood from more than that is bounded by the number of
// pending handshakes instead.
type SourceLimiter struct {
	rate float64

	mu   sync.Mutex
	seen map[netip.Addr]*rate.Limiter
}

const maxSources = 8192

// NewSourceLimiter allows so many connections a second from one address (IPv6:
// from one /64), after a burst of four times as many.
func NewSourceLimiter(perSecond float64) *SourceLimiter {
	return &SourceLimiter{rate: perSecond, seen: map[netip.Addr]*rate.Limiter{}}
}

// Allow counts one connection and says whether it may go on.
func (s *SourceLimiter) Allow(remote net.Addr) bool {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok {
		return true
	}
	addr := tcp.AddrPort().Addr().Unmap()
	if addr.Is6() { // one subscriber has a whole /64
		if prefix, err := addr.Prefix(64); err == nil {
			addr = prefix.Addr()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.seen[addr]
	if l == nil {
		burst := int(4*s.rate) + 1
		if len(s.seen) >= maxSources {
			for old, l := range s.seen { // whoever has been quiet is as good as new
				if l.Tokens() >= float64(burst) {
					delete(s.seen, old)
				}
			}
			if len(s.seen) >= maxSources {
				return true
			}
		}
		l = rate.NewLimiter(rate.Limit(s.rate), burst)
		s.seen[addr] = l
	}
	return l.Allow()
}
