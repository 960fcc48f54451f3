package monitor

import (
	"errors"

	"golang.org/x/sys/unix"
)

// maxFile bounds what is read of one file. The largest that there is is
// /proc/stat of a machine with a thousand processors.
const maxFile = 4 << 20

// reader reads small files of /proc and /sys into one buffer.
type reader struct {
	buf  []byte
	path []byte
}

// at opens below a directory and reads; what it returns lasts until the next call.
// An error is that of the system, without a path: what it is about comes and goes.
// A file that the kernel writes as one record is read with one call, others to
// their end: a file of many gives a page at a time.
func (r *reader) at(dir int, path []byte, record bool) ([]byte, error) {
	if r.buf == nil {
		r.buf = make([]byte, 16<<10)
	}
	fd, err := openat(dir, path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	n := 0
	for {
		m, err := unix.Read(fd, r.buf[n:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		case m <= 0:
			return r.buf[:n], nil
		}
		if n += m; n < len(r.buf) {
			if record {
				return r.buf[:n], nil
			}
			continue
		}
		if n >= maxFile {
			return r.buf[:n], nil
		}
		r.buf = append(r.buf, make([]byte, len(r.buf))...)
	}
}

// file reads a file by its whole path.
func (r *reader) file(path string) ([]byte, error) {
	r.path = append(append(r.path[:0], path...), 0)
	return r.at(unix.AT_FDCWD, r.path, false)
}
