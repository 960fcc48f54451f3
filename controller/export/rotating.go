package export

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

const (
	minFile  = 64 << 10
	maxFiles = 1000
)

// rotating is a file that is moved away when it is large: FILE.1 is the youngest of
// those before.
type rotating struct {
	path string
	size int64
	keep int
	f    *os.File
	at   int64
}

func newRotating(path string, size int64, keep int) *rotating {
	if size == 0 {
		size = 100 << 20
	}
	if keep == 0 {
		keep = 5
	}
	return &rotating{path: path, size: size, keep: keep}
}

// write appends and syncs. What was written of lines that did not all fit, as on a
// full disk, is taken back.
func (r *rotating) write(_ context.Context, b []byte) error {
	if r.f != nil && !r.current() {
		r.close()
	}
	if r.f != nil && r.at > 0 && r.at+int64(len(b)) > r.size {
		if err := r.turn(); err != nil {
			return err
		}
	}
	if r.f == nil {
		if err := r.open(); err != nil {
			return err
		}
	}
	_, err := r.f.Write(b)
	if err == nil {
		err = r.f.Sync()
	}
	if err != nil {
		err = errors.Join(err, r.f.Truncate(r.at))
		r.close()
		return fmt.Errorf("write flows to a file: %w", err)
	}
	r.at += int64(len(b))
	return nil
}

// current says whether the file is still where it was opened: somebody may have
// moved or removed it.
func (r *rotating) current() bool {
	there, err := os.Stat(r.path)
	mine, mineErr := r.f.Stat()
	return err == nil && mineErr == nil && os.SameFile(there, mine)
}

// open opens the file at its end, without the part of a line that a crash has left
// there.
func (r *rotating) open() error {
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("open a file for flows: %w", err)
	}
	at, err := wholeLines(f)
	if err == nil {
		err = f.Truncate(at)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("read a file of flows: %w", err), f.Close())
	}
	r.f, r.at = f, at
	return nil
}

// wholeLines is where the last whole line of a file ends.
func wholeLines(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, errors.New("it is no regular file")
	}
	at, b := info.Size(), make([]byte, 4096)
	for at > 0 {
		n := min(int64(len(b)), at)
		if _, err := f.ReadAt(b[:n], at-n); err != nil {
			return 0, err
		}
		for i := n - 1; i >= 0; i-- {
			if b[i] == '\n' {
				return at - n + i + 1, nil
			}
		}
		at -= n
	}
	return 0, nil
}

// turn moves files on by one; the oldest goes.
func (r *rotating) turn() error {
	r.close()
	name := func(n int) string { return fmt.Sprintf("%s.%d", r.path, n) }
	for n := r.keep - 1; n > 0; n-- {
		if err := os.Rename(name(n), name(n+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("move a file of flows: %w", err)
		}
	}
	if err := os.Rename(r.path, name(1)); err != nil {
		return fmt.Errorf("move a file of flows: %w", err)
	}
	return nil
}

func (r *rotating) close() {
	if r.f != nil {
		r.f.Close()
		r.f = nil
	}
}
