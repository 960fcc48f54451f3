package discover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// treeWatch hears of cgroups that are made, removed, filled and emptied. The
// kernel tells of the first two as changes of a directory, of the others as
// writes to cgroup.events (Documentation/admin-guide/cgroup-v2.rst).
type treeWatch struct {
	root string
	hear func()
	file *os.File
	err  error

	mu      sync.Mutex
	watches map[string][2]int32 // directory -> watches of it and of its cgroup.events
}

func newTreeWatch(root string, hear func()) *treeWatch {
	t := &treeWatch{root: root, hear: hear, watches: map[string][2]int32{}}
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.err = fmt.Errorf("watch cgroup tree: %w", err)
		return t
	}
	t.file = os.NewFile(uintptr(fd), "inotify") // non-blocking: the runtime polls it
	return t
}

func (t *treeWatch) close() {
	if t.file != nil {
		t.file.Close()
	}
}

// follow sets watches on directories that have none. Those of removed
// directories go by themselves.
func (t *treeWatch) follow(dirs []string) {
	if t.file == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	present := make(map[string]bool, len(dirs))
	added := false
	for _, dir := range dirs {
		present[dir] = true
		if _, ok := t.watches[dir]; ok {
			continue
		}
		w, err := t.add(dir)
		if err != nil {
			if errors.Is(err, unix.ENOSPC) && t.err == nil {
				t.err = errors.New("watch cgroup tree: the user's inotify watches are used up; raise fs.inotify.max_user_watches")
			}
			continue // else it went away
		}
		t.watches[dir] = w
		added = true
	}
	for dir := range t.watches {
		if !present[dir] {
			delete(t.watches, dir)
		}
	}
	if added {
		// Something may have been made in it before the watch was there.
		t.hear()
	}
}

func (t *treeWatch) add(dir string) (w [2]int32, err error) {
	conn, err := t.file.SyscallConn()
	if err != nil {
		return w, err
	}
	cerr := conn.Control(func(fd uintptr) {
		var n int
		n, err = unix.InotifyAddWatch(int(fd), t.root+dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_ATTRIB|unix.IN_ONLYDIR)
		if err != nil {
			return
		}
		w[0] = int32(n)
		if dir == "/" {
			return // the root of the tree has no cgroup.events
		}
		if n, err = unix.InotifyAddWatch(int(fd), t.root+dir+"/cgroup.events", unix.IN_MODIFY); err == nil {
			w[1] = int32(n)
		}
	})
	return w, errors.Join(err, cerr)
}

// run reads events until ctx ends.
func (t *treeWatch) run(ctx context.Context) {
	if t.file == nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { t.file.SetReadDeadline(time.Now()) })
	defer stop()
	b := make([]byte, 64*(unsafe.Sizeof(unix.InotifyEvent{})+unix.NAME_MAX+1))
	for ctx.Err() == nil {
		// What happened does not matter: everything is looked at.
		if _, err := t.file.Read(b); err != nil {
			return
		}
		t.hear()
	}
}

func (s *scanner) watchTree(ctx context.Context) { s.watch.run(ctx) }
