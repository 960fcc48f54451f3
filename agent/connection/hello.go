package connection

import "time"

// Hello is a piece of the first bytes that an end of a connection says.
type Hello struct {
	Key
	Began  uint64 // as of Line
	When   time.Time
	Seq    uint32 // of TCP: of the first byte
	Called bool   // said by who was called
	Bytes  []byte
}
