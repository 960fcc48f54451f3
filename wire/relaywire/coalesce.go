package relaywire

import (
	"encoding/binary"
	"net"
)

// coalescer joins each yamux frame's header with its body, so that TLS makes
// one record and the kernel one call of the two. yamux writes a header of 12
// bytes and then, where the header says so, the body, always from the same
// goroutine:
//
//	| version 0 | type | flags (16) | stream (32) | length (32) |
//
// A data header (type 0) with a length is held until its body comes; all else
// goes out at once.
type coalescer struct {
	net.Conn
	buf  []byte
	held bool
}

const muxHeader = 12

func newCoalescer(conn net.Conn) *coalescer {
	return &coalescer{Conn: conn, buf: make([]byte, 0, muxHeader+Chunk)}
}

func (c *coalescer) Write(p []byte) (int, error) {
	if !c.held {
		if len(p) == muxHeader && p[1] == 0 && binary.BigEndian.Uint32(p[8:]) > 0 {
			c.buf = append(c.buf[:0], p...)
			c.held = true
			return len(p), nil
		}
		return c.Conn.Write(p)
	}
	c.held = false
	if len(p) > Chunk { // not ours, but allowed: do not keep so large a buffer
		if _, err := c.Conn.Write(c.buf); err != nil {
			return 0, err
		}
		return c.Conn.Write(p)
	}
	c.buf = append(c.buf, p...)
	if _, err := c.Conn.Write(c.buf); err != nil {
		return 0, err
	}
	return len(p), nil
}
