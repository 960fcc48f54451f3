package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

const (
	magic       = "weftring"
	version     = 1
	headLength  = 16
	blockHeader = 24
	// MaxBlock is the longest payload of a block.
	MaxBlock = 1 << 20
)

var (
	order = binary.BigEndian
	table = crc32.MakeTable(crc32.Castagnoli)
)

// Block is what is kept as one.
type Block struct {
	First, Last int64 // times of its packets; 0: it has none
	Payload     []byte
}

func head() []byte {
	b := append(make([]byte, 0, headLength), magic...)
	return order.AppendUint64(b, version<<32)
}

// appendBlock appends a block as it stands in a segment.
func appendBlock(dst []byte, b Block) []byte {
	start := len(dst)
	dst = order.AppendUint32(dst, uint32(len(b.Payload)))
	dst = order.AppendUint32(dst, 0)
	dst = order.AppendUint64(dst, uint64(b.First))
	dst = order.AppendUint64(dst, uint64(b.Last))
	dst = append(dst, b.Payload...)
	order.PutUint32(dst[start+4:], crc32.Checksum(dst[start+8:], table))
	return dst
}

// errDamaged is of bytes that are no block.
var errDamaged = errors.New("the segment is damaged")

// checkHead reads the head of a segment.
func checkHead(r io.ReaderAt) error {
	var b [headLength]byte
	if _, err := r.ReadAt(b[:], 0); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	if string(b[:8]) != magic || order.Uint64(b[8:]) != version<<32 {
		return fmt.Errorf("%w: it begins with %q", errDamaged, b[:])
	}
	return nil
}

// readBlock reads the block at an offset of a segment that is so long, into buf
// where that has room. io.EOF: there is none.
func readBlock(r io.ReaderAt, at, size int64, buf []byte) (b Block, next int64, err error) {
	b, n, h, err := readHeader(r, at, size)
	if err != nil {
		return b, at, err
	}
	if int64(cap(buf)) < n {
		buf = make([]byte, n)
	}
	b.Payload = buf[:n]
	if _, err := r.ReadAt(b.Payload, at+blockHeader); err != nil {
		return b, at, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if crc32.Update(crc32.Checksum(h[8:], table), table, b.Payload) != order.Uint32(h[4:]) {
		return b, at, errDamaged
	}
	return b, at + blockHeader + n, nil
}

// readHeader reads what is before the payload, and how long that is.
func readHeader(r io.ReaderAt, at, size int64) (b Block, n int64, h [blockHeader]byte, err error) {
	if at >= size {
		return b, 0, h, io.EOF
	}
	if size-at < blockHeader {
		return b, 0, h, errDamaged
	}
	if _, err := r.ReadAt(h[:], at); err != nil {
		return b, 0, h, fmt.Errorf("%w: %w", errDamaged, err)
	}
	n, b.First, b.Last = int64(order.Uint32(h[:])), int64(order.Uint64(h[8:])), int64(order.Uint64(h[16:]))
	if n > MaxBlock || n > size-at-blockHeader || b.First > b.Last {
		return b, 0, h, errDamaged
	}
	return b, n, h, nil
}

// span finds out what times a segment that another process wrote is of, by the
// headers alone: payloads may be many.
func span(f *os.File) (first, last, size int64, err error) {
	if err := checkHead(f); err != nil {
		return 0, 0, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, 0, 0, err
	}
	for at := int64(headLength); ; {
		b, n, _, err := readHeader(f, at, info.Size())
		if err != nil {
			return first, last, info.Size(), nil //nolint:nilerr // it is read so far
		}
		at += blockHeader + n
		if b.First == 0 {
			continue
		}
		if first == 0 || b.First < first {
			first = b.First
		}
		last = max(last, b.Last)
	}
}
