package store

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrFull says that the embedded store's disk has too little space left to take
// another write. Reads go on.
var ErrFull = errors.New("the disk is full")

// reserve is what must be free for a write: etcd allocates its log 64 MiB ahead
// and grows its database by 16 MiB, and it can do nothing but end the whole
// program where either fails. Refusing early keeps it, and those who read, alive.
const reserve = 96 << 20

// room refuses a write for which the disk has too little space left. A
// cluster's disks are the cluster's affair.
func (s *Store) room() error {
	if s.dir == "" {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return fmt.Errorf("look for free space in %s: %w", s.dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < reserve {
		return fmt.Errorf("%w: %s has %d MiB free and a write needs %d; nothing was changed, agents work on: free space there and repeat", ErrFull, s.dir, free>>20, reserve>>20)
	}
	return nil
}
