package application

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"
)

// readTLS reads the ClientHello, however many records and segments it comes in.
func readTLS(r *Recogniser) verdict {
	b := r.kept[Client]
	if len(b) == 0 {
		return more
	}
	if b[0] != 22 || len(b) > 1 && b[1] != 3 || len(b) > 5 && b[5] != 1 {
		return no
	}
	if len(b) < 6 {
		return more
	}
	hello, v := readHello(b)
	if v == whole {
		r.app.Protocol = TLS
		r.app.hello(hello)
	}
	return v
}

func (a *Application) hello(h *tls.ClientHelloInfo) {
	a.Host = shortened(h.ServerName)
	if len(h.SupportedProtos) > 0 {
		a.ALPN = shortened(h.SupportedProtos[0])
	}
}

var errEnough = errors.New("the ClientHello is read")

// readHello lets the standard library's server read the records.
func readHello(records []byte) (hello *tls.ClientHelloInfo, v verdict) {
	c := &canned{rest: records}
	server := tls.Server(c, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		hello = h
		return nil, errEnough
	}})
	err := server.Handshake() //nolint:noctx // nothing blocks
	switch {
	case hello != nil:
		return hello, whole
	case c.empty && err != nil:
		return nil, more
	}
	return nil, no
}

// canned is a connection on which only so much was ever said.
type canned struct {
	rest  []byte
	empty bool // more was asked for than there is
}

func (c *canned) Read(b []byte) (int, error) {
	if len(c.rest) == 0 {
		c.empty = true
		return 0, io.EOF
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *canned) Write(b []byte) (int, error)      { return len(b), nil }
func (c *canned) Close() error                     { return nil }
func (c *canned) LocalAddr() net.Addr              { return nil }
func (c *canned) RemoteAddr() net.Addr             { return nil }
func (c *canned) SetDeadline(time.Time) error      { return nil }
func (c *canned) SetReadDeadline(time.Time) error  { return nil }
func (c *canned) SetWriteDeadline(time.Time) error { return nil }
