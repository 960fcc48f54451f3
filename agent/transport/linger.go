package transport

import (
	"io"
	"net"
	"sync"
	"time"
)

// lingerFor bounds how long a peer may take to hear that a connection is over.
const lingerFor = time.Second

// lingering is an accepted TCP connection whose Close lets the peer hear the
// goodbye. To close a socket that holds unread bytes, as those of busy streams
// do, is to reset it (RFC 2525, 2.17), which is what a broken path looks like:
// the peer would leave a good path alone. So Close ends our half, and what still
// comes is thrown away until the peer closes too, or lingerFor is over.
type lingering struct {
	net.Conn
	half  func() error  // ends what we send
	ended chan struct{} // closed when nothing is left of the connection

	reading sync.Mutex // held by whoever reads
	mu      sync.Mutex // guards closed, and deadlines against being set after
	closed  bool
}

func newLingering(conn net.Conn, half func() error) *lingering {
	return &lingering{Conn: conn, half: half, ended: make(chan struct{})}
}

// Close returns at once, and wakes whoever reads or writes.
func (l *lingering) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	l.closed = true
	l.Conn.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // fails where the connection has, and half says so too
	err := l.half()
	go l.drain()
	return err
}

func (l *lingering) drain() {
	defer close(l.ended)
	defer l.Conn.Close()
	l.reading.Lock()
	defer l.reading.Unlock()
	if l.Conn.SetReadDeadline(time.Now().Add(lingerFor)) == nil {
		io.Copy(io.Discard, l.Conn) //nolint:errcheck // that it ends is all we want
	}
}

func (l *lingering) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// Read is that of net.Conn.
func (l *lingering) Read(p []byte) (int, error) {
	l.reading.Lock()
	defer l.reading.Unlock()
	if l.isClosed() {
		return 0, net.ErrClosed
	}
	n, err := l.Conn.Read(p)
	if err != nil && l.isClosed() {
		err = net.ErrClosed // not the deadline that woke us
	}
	return n, err
}

// Write is that of net.Conn.
func (l *lingering) Write(p []byte) (int, error) {
	n, err := l.Conn.Write(p)
	if err != nil && l.isClosed() {
		err = net.ErrClosed
	}
	return n, err
}

// SetDeadline is that of net.Conn.
func (l *lingering) SetDeadline(at time.Time) error { return l.unlessClosed(l.Conn.SetDeadline, at) }

// SetReadDeadline is that of net.Conn.
func (l *lingering) SetReadDeadline(at time.Time) error {
	return l.unlessClosed(l.Conn.SetReadDeadline, at)
}

// SetWriteDeadline is that of net.Conn.
func (l *lingering) SetWriteDeadline(at time.Time) error {
	return l.unlessClosed(l.Conn.SetWriteDeadline, at)
}

func (l *lingering) unlessClosed(set func(time.Time) error, at time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	return set(at)
}
