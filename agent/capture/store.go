package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"weft/agent/capture/bpf"
)

// layout names the directory of our pins. A new number for every change of a
// map's or a record's shape: pins of another number are taken away, not read.
const (
	layoutPrefix = "capture-v"
	layout       = layoutPrefix + "2"
)

// store is everything of ours in the kernel: the shared maps, pinned, and what
// they hold. The links are pinned beside them.
type store struct {
	dir     string
	lock    *os.File
	maps    map[string]*ebpf.Map
	user    []byte
	control control
	ring    *ring
	wake    int // eventfd
}

// lineEntry is struct line in tap.c.
type lineEntry struct {
	State  uint32
	IDLen  uint32
	Digest [32]byte
	ID     [344]byte
}

func (e *lineEntry) id() string { return string(e.ID[:min(int(e.IDLen), len(e.ID))]) }

// workloadEntry is struct workload in tap.c.
type workloadEntry struct {
	IDLen uint32
	ID    [252]byte
}

func (e *workloadEntry) id() string { return string(e.ID[:min(int(e.IDLen), len(e.ID))]) }

// portKey and port are the structs of tap.c.
type portKey struct{ Line, Ifindex uint32 }

type port struct{ Workload, Flags uint32 }

const (
	portVeth         = 1
	portEgressTapped = 2
)

// checkBPFFS says whether dir is on a BPF file system.
func checkBPFFS(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the directory of pinned objects: %w; is a BPF file system mounted there? (mount -t bpf bpf /sys/fs/bpf)", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%s is not on a BPF file system: run mount -t bpf bpf %s", dir, dir)
	}
	return nil
}

// lockDir keeps two agents from one directory: both would read one ring.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: another agent works there; stop it or give this one another directory: %w", dir, err)
	}
	return f, nil
}

// openStore takes over what is pinned, or makes it.
func openStore(base string, ringBytes int, log *slog.Logger) (s *store, err error) {
	if err := checkBPFFS(base); err != nil {
		return nil, err
	}
	s = &store{dir: filepath.Join(base, layout), maps: make(map[string]*ebpf.Map), wake: -1}
	if s.lock, err = lockDir(base); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := removeStale(base, log); err != nil {
		return nil, err
	}
	specs, err := bpf.MapSpecs(ringBytes)
	if err != nil {
		return nil, err
	}
	if err := s.load(specs); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			log.Warn("pinned tap is not ours to read, replacing it", "dir", s.dir, "err", err)
		}
		if err := s.create(specs); err != nil {
			return nil, err
		}
	}
	return s, s.mapMemory()
}

// removeStale takes away the pins of other layouts.
func removeStale(base string, log *slog.Logger) error {
	entries, err := os.ReadDir(base)
	if err != nil {
		return fmt.Errorf("list %s: %w", base, err)
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), layoutPrefix) && e.Name() != layout {
			log.Warn("removing a tap of another version", "dir", filepath.Join(base, e.Name()))
			if err := os.RemoveAll(filepath.Join(base, e.Name())); err != nil {
				return fmt.Errorf("remove the tap of another version: %w", err)
			}
		}
	}
	return nil
}

// load opens every pinned map, or none.
func (s *store) load(specs map[string]*ebpf.MapSpec) error {
	for _, name := range bpf.MapNames {
		m, err := ebpf.LoadPinnedMap(filepath.Join(s.dir, name), nil)
		if err != nil {
			s.closeMaps()
			return fmt.Errorf("open pinned map %s: %w", name, err)
		}
		s.maps[name] = m
		spec := specs[name].Copy()
		if name == "ring" {
			spec.MaxEntries = m.MaxEntries() // a new size waits for the next time it is made
		}
		if err := spec.Compatible(m); err != nil {
			s.closeMaps()
			return fmt.Errorf("pinned map %s: %w", name, err)
		}
	}
	return nil
}

func (s *store) create(specs map[string]*ebpf.MapSpec) error {
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove the old tap: %w", err)
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", s.dir, err)
	}
	for _, name := range bpf.MapNames {
		m, err := ebpf.NewMap(specs[name])
		if err != nil {
			return fmt.Errorf("make map %s: %w", name, err)
		}
		s.maps[name] = m
		if err := m.Pin(filepath.Join(s.dir, name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}

func (s *store) mapMemory() error {
	var err error
	if s.user, err = mapArray(s.maps["user_counts"]); err != nil {
		return err
	}
	if s.control.mem, err = mapArray(s.maps["control"]); err != nil {
		return err
	}
	if s.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("make an eventfd: %w", err)
	}
	if s.ring, err = openRing(s.maps["ring"], s.wake); err != nil {
		return err
	}
	s.control.undo(s.ring.consumed(), s)
	return nil
}

func (s *store) counts(slot uint32) counts {
	return counts{(*[32]uint64)(unsafe.Pointer(&s.user[int(slot)*256]))}
}

// poke wakes the reader.
func (s *store) poke() {
	unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

func (s *store) closeMaps() {
	for name, m := range s.maps {
		m.Close()
		delete(s.maps, name)
	}
}

// close lets go; what is pinned works on.
func (s *store) close() {
	if s.ring != nil {
		s.ring.close()
	}
	if s.wake >= 0 {
		unix.Close(s.wake)
	}
	for _, mem := range [][]byte{s.user, s.control.mem} {
		if mem != nil {
			unix.Munmap(mem)
		}
	}
	s.closeMaps()
	if s.lock != nil {
		s.lock.Close()
	}
}

// remove takes the maps, and what is left beside them, out of the kernel. What
// is attached goes before.
func (s *store) remove() error {
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove %s: %w", s.dir, err)
	}
	return nil
}
