package ring

import (
	"errors"
	"io"
	"os"
)

// Cursor reads a ring from a time on, while that is written to and shortened.
type Cursor struct {
	ring   *Ring
	from   int64
	number uint64 // of the segment that is read
	file   *os.File
	at     int64
	buf    []byte
	// Damaged counts segments that were not read to their end.
	Damaged int
}

// Read begins with the first segment that has packets of a time or later.
func (r *Ring) Read(from int64) *Cursor { return &Cursor{ring: r, from: from} }

// Close ends the reading.
func (c *Cursor) Close() {
	if c.file != nil {
		c.file.Close()
		c.file = nil
	}
}

// Next returns the next block; its payload is valid until the next call. io.EOF says
// that there is none now, and may be later.
func (c *Cursor) Next() (Block, error) {
	for {
		if c.file == nil && !c.open() {
			return Block{}, io.EOF
		}
		size, last := c.size()
		b, next, err := readBlock(c.file, c.at, size, c.buf)
		switch {
		case err == nil:
			c.at, c.buf = next, b.Payload[:0]
			return b, nil
		case errors.Is(err, io.EOF) && last:
			return b, io.EOF
		case !errors.Is(err, io.EOF):
			c.Damaged++
			if last { // what is written behind it begins there
				c.at = size
				continue
			}
		}
		c.Close()
	}
}

// open opens the first segment behind the one that was read.
func (c *Cursor) open() bool {
	c.ring.mu.Lock()
	defer c.ring.mu.Unlock()
	for _, s := range c.ring.segments {
		if s.number <= c.number || s.last < c.from && s.last != 0 {
			continue
		}
		f, err := os.Open(c.ring.path(s.number))
		if err != nil {
			continue
		}
		if checkHead(f) != nil {
			c.Damaged++
			f.Close()
			continue
		}
		c.file, c.number, c.at = f, s.number, headLength
		return true
	}
	return false
}

// size is how much of the segment may be read, and whether it is the last.
func (c *Cursor) size() (size int64, last bool) {
	c.ring.mu.Lock()
	defer c.ring.mu.Unlock()
	for i, s := range c.ring.segments {
		if s.number == c.number {
			return s.size, i == len(c.ring.segments)-1
		}
	}
	// It has gone meanwhile, and is read to its end all the same.
	if info, err := c.file.Stat(); err == nil {
		size = info.Size()
	}
	return size, false
}
