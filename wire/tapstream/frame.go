// Package tapstream is the format in which one agent sends captured frames to
// another. README.md beside this file describes it; here are its encoders and
// decoders. It opens no socket and keeps no clock.
package tapstream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Version is what this package speaks, MinVersion the oldest it understands.
const (
	Version    = 1
	MinVersion = 1
)

// Keepalive: a ping after PingAfter of silence of one's own, the end after
// DeadAfter of the peer's.
const (
	PingAfter = 5 * time.Second
	DeadAfter = 20 * time.Second
)

// Type is what a message is.
type Type uint8

// The types of message.
const (
	TypeHello  Type = 1
	TypeAccept Type = 2
	TypeRefuse Type = 3
	TypeNames  Type = 4
	TypeBatch  Type = 5
	TypeAck    Type = 6
	TypePing   Type = 7
	TypePong   Type = 8
)

// Limits on the length of messages.
const (
	HeaderLen  = 8
	MaxControl = 4 << 10
	MaxNames   = 64 << 10
	MaxBatch   = 512 << 10
)

func (t Type) limit() int {
	switch t {
	case TypeHello, TypeAccept, TypeRefuse, TypeAck, TypePing, TypePong:
		return MaxControl
	case TypeNames:
		return MaxNames
	case TypeBatch:
		return MaxBatch
	}
	return -1
}

// ErrMalformed is wrapped by every error about bytes that are not this format.
var ErrMalformed = errors.New("malformed tap stream")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

var order = binary.BigEndian

// appendHeader begins a message; endMessage writes its length.
func appendHeader(dst []byte, t Type) []byte {
	return append(dst, byte(t), 0, 0, 0, 0, 0, 0, 0)
}

func endMessage(dst []byte, start int) []byte {
	order.PutUint32(dst[start+4:], uint32(len(dst)-start-HeaderLen))
	return dst
}

// Reader reads messages from a stream into one buffer that it reuses.
type Reader struct {
	r      io.Reader
	header [HeaderLen]byte
	buf    []byte
}

// NewReader returns a Reader of r. Wrap r in a bufio.Reader where reads are dear.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next returns the next message; its payload is valid until the next call.
func (r *Reader) Next() (Type, []byte, error) {
	if _, err := io.ReadFull(r.r, r.header[:]); err != nil {
		return 0, nil, err
	}
	t := Type(r.header[0])
	limit, n := t.limit(), order.Uint32(r.header[4:])
	if limit < 0 || r.header[1]|r.header[2]|r.header[3] != 0 {
		return 0, nil, malformed("message type %#x", r.header[:4])
	}
	if uint64(n) > uint64(limit) {
		return 0, nil, malformed("message of type %d is %d bytes long; %d at most", t, n, limit)
	}
	if cap(r.buf) < int(n) {
		r.buf = make([]byte, n, max(int(n), 4096))
	}
	r.buf = r.buf[:n]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return t, r.buf, nil
}

// fields takes numbers and strings off a payload and remembers a shortage.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) take(n int) []byte {
	if len(f.b) < n {
		f.bad, f.b = true, nil
		return nil
	}
	v := f.b[:n]
	f.b = f.b[n:]
	return v
}

func (f *fields) u16() uint16 {
	if v := f.take(2); v != nil {
		return order.Uint16(v)
	}
	return 0
}

func (f *fields) u32() uint32 {
	if v := f.take(4); v != nil {
		return order.Uint32(v)
	}
	return 0
}

func (f *fields) u64() uint64 {
	if v := f.take(8); v != nil {
		return order.Uint64(v)
	}
	return 0
}

func (f *fields) text(limit int) string {
	n := int(f.u16())
	if n > limit {
		f.bad = true
		return ""
	}
	return string(f.take(n))
}

// end checks that everything was there and nothing more.
func (f *fields) end(what string) error {
	if f.bad || len(f.b) != 0 {
		return malformed("%s does not have its length", what)
	}
	return nil
}

func appendText(dst []byte, s string) []byte {
	dst = order.AppendUint16(dst, uint16(len(s)))
	return append(dst, s...)
}
