package netns_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"weft/internal/testreq"
	"weft/lab/netns"
)

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestNoThreadIsLeftInAnotherNamespace(t *testing.T) {
	testreq.Need(t, testreq.Root, testreq.NetNS)
	home := inode(t, "/proc/self/ns/net")
	path := filepath.Join(t.TempDir(), "ns")
	var made uint64
	if err := netns.Create(path, func() error { made = inode(t, "/proc/thread-self/ns/net"); return nil }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Remove(path); err != nil {
			t.Error(err)
		}
	})
	if made == home || made != inode(t, path) {
		t.Errorf("inside %d, outside %d, bound %d", made, home, inode(t, path))
	}
	boom := errors.New("boom")
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			err := netns.Do(path, func() error {
				if got := inode(t, "/proc/thread-self/ns/net"); got != made {
					return fmt.Errorf("in %d", got)
				}
				if i%2 == 0 {
					return boom
				}
				return nil
			})
			if (i%2 == 0) != errors.Is(err, boom) || i%2 == 1 && err != nil {
				t.Errorf("do: %v", err)
			}
			netns.Sacrifice(func() error { return unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWUTS) })
		})
	}
	wg.Wait()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		var st unix.Stat_t
		if unix.Stat("/proc/self/task/"+task.Name()+"/ns/net", &st) == nil && st.Ino == made {
			t.Errorf("thread %s is still inside", task.Name())
		}
	}
	if got := inode(t, "/proc/self/ns/net"); got != home {
		t.Errorf("the process is in %d, was in %d", got, home)
	}
}

func TestCreateLeavesNothingWhereItFails(t *testing.T) {
	testreq.Need(t, testreq.Root, testreq.NetNS)
	path := filepath.Join(t.TempDir(), "ns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := netns.Create(path, nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("over another's file: %v", err)
	}
	if err := netns.Do(filepath.Join(t.TempDir(), "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("into nothing: %v", err)
	}
}
