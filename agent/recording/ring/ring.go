// Package ring keeps blocks of packets in files of bounded size and age. README.md
// beside it has the format. It knows nothing of what is in a block but of when.
package ring

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// parts is how many segments a ring has about: so much of it goes at a time.
	parts = 16
	// leastFree is how much of a file system is left to others, as its part.
	leastFree = 20
)

// Limits bound what is kept.
type Limits struct {
	Bytes uint64
	Age   time.Duration
}

// Ring is one; it is safe for concurrent use.
type Ring struct {
	dir string
	now func() time.Time

	mu       sync.Mutex
	limits   Limits
	segments []segment // the oldest first
	total    int64     // their sizes
	file     *os.File  // of the last, where this process has begun it
	began    time.Time // when it did
	buf      []byte
}

type segment struct {
	number      uint64
	size        int64
	first, last int64 // of packets; 0: none
}

// Open takes up what is in a directory, which is made.
func Open(dir string, limits Limits, now func() time.Time) (*Ring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of a ring: %w", err)
	}
	entries, err := os.ReadDir(dir) // by name, which is by number
	if err != nil {
		return nil, fmt.Errorf("read a ring: %w", err)
	}
	r := &Ring{dir: dir, now: now, limits: limits}
	for _, e := range entries {
		n, err := strconv.ParseUint(e.Name(), 16, 64)
		if err != nil || len(e.Name()) != 16 {
			continue // nobody's business of ours
		}
		s, err := r.measure(n)
		if err != nil {
			if err := os.Remove(r.path(n)); err != nil {
				return nil, fmt.Errorf("remove a damaged segment: %w", err)
			}
			continue
		}
		r.segments, r.total = append(r.segments, s), r.total+s.size
	}
	return r, r.Expire()
}

func (r *Ring) path(n uint64) string { return filepath.Join(r.dir, fmt.Sprintf("%016x", n)) }

func (r *Ring) measure(n uint64) (segment, error) {
	f, err := os.Open(r.path(n))
	if err != nil {
		return segment{}, err
	}
	defer f.Close()
	first, last, size, err := span(f)
	if err == nil && first == 0 {
		err = errDamaged // of no use
	}
	return segment{n, size, first, last}, err
}

// Limit changes the limits.
func (r *Ring) Limit(l Limits) error {
	r.mu.Lock()
	r.limits = l
	r.mu.Unlock()
	return r.Expire()
}

// Expire removes what is too old, or too much.
func (r *Ring) Expire() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.now().Add(-r.limits.Age).UnixNano()
	for len(r.segments) > 0 && (r.segments[0].last < before && r.segments[0].last > 0 || r.total > int64(r.limits.Bytes)) {
		if err := r.drop(); err != nil {
			return err
		}
	}
	return nil
}

// drop removes the oldest segment.
func (r *Ring) drop() error {
	s := r.segments[0]
	if len(r.segments) == 1 && r.file != nil {
		r.close()
	}
	if err := os.Remove(r.path(s.number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what a ring has kept: %w", err)
	}
	r.segments, r.total = r.segments[1:], r.total-s.size
	return nil
}

// Turn makes sure that a block with so long a payload has room, and says whether it
// is the first of a segment.
func (r *Ring) Turn(payload int) (fresh bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := int64(payload) + blockHeader
	if payload > MaxBlock {
		return false, fmt.Errorf("a block of %d bytes", payload)
	}
	part := max(int64(r.limits.Bytes)/parts, MaxBlock+headLength+blockHeader)
	full := r.file != nil && (r.segments[len(r.segments)-1].size+n > part || r.now().Sub(r.began) > r.limits.Age/parts)
	for len(r.segments) > 0 && r.total+n+headLength > int64(r.limits.Bytes) {
		if err := r.drop(); err != nil {
			return false, err
		}
	}
	if r.file != nil && !full {
		return false, nil
	}
	r.close()
	for {
		err := r.begin()
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, unix.ENOSPC) || len(r.segments) == 0 {
			return false, err
		}
		if err := r.drop(); err != nil {
			return false, err
		}
	}
}

// begin makes a new segment.
func (r *Ring) begin() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(r.dir, &fs); err == nil && fs.Bavail < fs.Blocks/leastFree {
		return fmt.Errorf("begin a segment of a ring: less than a %dth of the disk is free: %w", leastFree, unix.ENOSPC)
	}
	n := uint64(1)
	if len(r.segments) > 0 {
		n = r.segments[len(r.segments)-1].number + 1
	}
	f, err := os.OpenFile(r.path(n), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("begin a segment of a ring: %w", err)
	}
	if _, err := f.Write(head()); err != nil {
		f.Close()
		os.Remove(r.path(n))
		return fmt.Errorf("begin a segment of a ring: %w", err)
	}
	r.file, r.began = f, r.now()
	r.segments, r.total = append(r.segments, segment{number: n, size: headLength}), r.total+headLength
	return nil
}

// Append keeps a block, for which Turn has made room. What is there of one that
// failed is taken away again.
func (r *Ring) Append(b Block) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return errors.New("the ring is closed")
	}
	s := &r.segments[len(r.segments)-1]
	r.buf = appendBlock(r.buf[:0], b)
	for {
		_, err := r.file.WriteAt(r.buf, s.size)
		if err == nil {
			break
		}
		if err := r.file.Truncate(s.size); err != nil {
			r.close() // the next begins another
		}
		if !errors.Is(err, unix.ENOSPC) || len(r.segments) < 2 || r.file == nil {
			return fmt.Errorf("write to a ring: %w", err)
		}
		if err := r.drop(); err != nil {
			return err
		}
		s = &r.segments[len(r.segments)-1]
	}
	s.size, r.total = s.size+int64(len(r.buf)), r.total+int64(len(r.buf))
	if b.First == 0 {
		return nil
	}
	if s.first == 0 || b.First < s.first {
		s.first = b.First
	}
	s.last = max(s.last, b.Last)
	return nil
}

func (r *Ring) close() {
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}

// Close ends the writing; what is there stays.
func (r *Ring) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.close()
}

// Remove takes all of it away.
func (r *Ring) Remove() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.close()
	r.segments, r.total = nil, 0
	return os.RemoveAll(r.dir)
}

// Span is what is kept: times of the first and the last packet, 0 where there is
// none, and bytes.
func (r *Ring) Span() (first, last int64, bytes uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.segments {
		if s.first != 0 && (first == 0 || s.first < first) {
			first = s.first
		}
		last = max(last, s.last)
	}
	return first, last, uint64(max(r.total, 0))
}
