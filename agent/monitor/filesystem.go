package monitor

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"weft/model"
)

// Limits on file systems: how many, how often they are asked, and how long the
// first sample waits for them. One that hangs keeps the figures as they were.
const (
	maxFilesystems   = 256
	filesystemsEvery = 10 * time.Second
	filesystemsWait  = time.Second
)

// remote are types whose server may be away, and then so is who asks.
var remote = []string{"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "lustre", "afs", "beegfs", "autofs"}

// without are types that hold no files of anybody's.
var without = []string{"proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "bpf", "tracefs", "debugfs", "securityfs", "pstore", "mqueue", "hugetlbfs", "configfs", "fusectl",
	"binfmt_misc", "rpc_pipefs", "nsfs", "efivarfs", "selinuxfs", "overlay", "squashfs", "ramfs", "iso9660", "erofs", "fuse.lxcfs", "fuse.gvfsd-fuse", "fuse.portal"}

// mount is a file system as mountinfo names it.
type mount struct{ id, dir, device, kind string }

// filesystems asks how full they are, in a goroutine of its own: statfs(2) waits
// for a disk, or for ever.
type filesystems struct {
	proc   string
	asked  time.Time
	answer chan []model.FilesystemUse // nil while nobody asks
	last   []model.FilesystemUse
}

func (f *filesystems) sample(s *model.Sample, now time.Time) {
	if f.answer == nil && now.Sub(f.asked) >= filesystemsEvery {
		f.asked, f.answer = now, make(chan []model.FilesystemUse, 1)
		go func(answer chan<- []model.FilesystemUse) { answer <- f.ask() }(f.answer)
		if f.last == nil {
			select {
			case f.last = <-f.answer:
				f.answer = nil
			case <-time.After(filesystemsWait):
			}
		}
	}
	select {
	case f.last = <-f.answer:
		f.answer = nil
	default:
	}
	s.Filesystems = append(s.Filesystems[:0], f.last...)
}

// ask looks from where the machine's first process stands: this program may be
// shown less of it.
func (f *filesystems) ask() []model.FilesystemUse {
	in := &reader{}
	root := f.proc + "/1/root"
	b, err := in.file(f.proc + "/1/mountinfo")
	var st unix.Statfs_t
	if err != nil || unix.Statfs(root+"/", &st) != nil {
		root = ""
		if b, err = in.file(f.proc + "/self/mountinfo"); err != nil {
			return []model.FilesystemUse{}
		}
	}
	out := []model.FilesystemUse{}
	for _, m := range parseMounts(b) {
		var at unix.Stat_t
		if err := unix.Statfs(root+m.dir, &st); err != nil || st.Blocks == 0 {
			continue
		}
		if err := unix.Stat(root+m.dir, &at); err != nil || at.Mode&unix.S_IFMT != unix.S_IFDIR { // a file that is mounted over another
			continue
		}
		block := uint64(st.Frsize)
		out = append(out, model.FilesystemUse{Mount: m.dir, Device: m.device, Type: m.kind, Size: st.Blocks * block, Used: (st.Blocks - min(st.Bfree, st.Blocks)) * block,
			Available: st.Bavail * block, Inodes: st.Files, InodesFree: st.Ffree})
	}
	return out
}

// parseMounts reads the file systems out of mountinfo, each once, at the shortest
// of the places that it is mounted at.
func parseMounts(b []byte) []mount {
	var out []mount
	at := map[string]int{}
	for len(b) > 0 {
		var l []byte
		l, b = line(b)
		front, back, found := bytes.Cut(l, []byte(" - "))
		if !found {
			continue
		}
		id, front := word(skip(front, 2))
		_, front = word(front) // of the tree that is mounted
		dir, _ := word(front)
		kind, back := word(back)
		device, _ := word(back)
		m := mount{string(id), unescape(dir), unescape(device), string(kind)}
		if slices.Contains(remote, m.kind) || slices.Contains(without, m.kind) || !strings.HasPrefix(m.dir, "/") {
			continue
		}
		if i, known := at[m.id]; known {
			if len(m.dir) < len(out[i].dir) {
				out[i] = m
			}
		} else if len(out) < maxFilesystems {
			at[m.id] = len(out)
			out = append(out, m)
		}
	}
	// What is mounted over another hides it.
	slices.Reverse(out)
	slices.SortStableFunc(out, func(a, b mount) int { return strings.Compare(a.dir, b.dir) })
	return slices.CompactFunc(out, func(a, b mount) bool { return a.dir == b.dir })
}
