package transport

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// ErrBetterPath is the reason why a relayed connection was closed: a direct
// path is proven, and the next Dial will take it.
var ErrBetterPath = errors.New("a direct path is proven: dial again")

// The kinds of paths.
const (
	PathDirect = "direct"
	PathRelay  = "relay"
)

// Path is how a connection travels.
type Path struct {
	Kind   string // PathDirect or PathRelay
	Relay  string // the relay's name, when relayed
	Remote string // "ADDRESS:PORT" of the peer, or of the relay
}

// Conn is a TLS connection between two agents. Read and Write return an error
// that wraps ErrBetterPath after the transport closed it for that reason.
type Conn struct {
	*tls.Conn
	path    Path
	cause   atomic.Pointer[error]
	onClose func(err error) // once; err is the first that was seen, nil after a plain Close
	once    sync.Once
	first   atomic.Pointer[error]
	goodbye atomic.Bool // the peer ended it, whatever failed before or after
}

// Path says how the connection travels. It never changes.
func (c *Conn) Path() Path { return c.path }

// Read is that of net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		err = c.explain(err)
	}
	return n, err
}

// Write is that of net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		err = c.explain(err)
	}
	return n, err
}

func (c *Conn) explain(err error) error {
	if cause := c.cause.Load(); cause != nil {
		return *cause
	}
	// No fault of the path: a deadline of the user's, and a peer that has ended
	// the connection (crypto/tls gives io.EOF for close_notify, and for an end
	// between two records).
	var timeout net.Error
	switch {
	case err == io.EOF:
		c.goodbye.Store(true)
	case !errors.As(err, &timeout) || !timeout.Timeout():
		c.first.CompareAndSwap(nil, &err)
	}
	return err
}

// Close ends the connection and tells the peer.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		if c.onClose == nil {
			return
		}
		if first := c.first.Load(); first != nil && !c.goodbye.Load() {
			c.onClose(*first)
		} else {
			c.onClose(nil)
		}
	})
	return err
}

// closeFor closes the connection for a reason that its user will see.
func (c *Conn) closeFor(reason error) {
	c.cause.CompareAndSwap(nil, &reason)
	c.Close()
}
