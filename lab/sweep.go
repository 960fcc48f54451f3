package lab

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/lab/netns"
)

// Sweep removes what labs whose owner is dead have left, and nothing else. It
// returns the ids it removed.
func Sweep() ([]string, error) {
	unlock, err := global()
	if err != nil {
		return nil, err
	}
	defer unlock()
	var swept []string
	var errs []error
	for _, id := range knownIDs() {
		if !ownerDead(id) {
			continue
		}
		if err := destroy(id); err != nil {
			errs = append(errs, fmt.Errorf("sweep lab %s: %w", id, err))
			continue
		}
		swept = append(swept, id)
	}
	return swept, errors.Join(errs...)
}

// knownIDs finds every lab of which anything is left.
func knownIDs() []string {
	var ids []string
	add := func(id string) {
		if idRE.MatchString(id) {
			ids = append(ids, id)
		}
	}
	entries, _ := os.ReadDir(runDir)
	for _, e := range entries {
		add(e.Name())
	}
	entries, _ = os.ReadDir(netnsDir)
	for _, e := range entries {
		if rest, ours := strings.CutPrefix(e.Name(), "weft-"); ours {
			if i := strings.IndexAny(rest, "-."); i > 0 {
				add(rest[:i])
			}
		}
	}
	if mount, err := cgroupMount(); err == nil {
		entries, _ = os.ReadDir(mount)
		for _, e := range entries {
			if id, ours := strings.CutPrefix(e.Name(), "weft-lab-"); ours {
				add(id)
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// destroy removes everything that carries a lab's id, by what is there and not
// by what anybody remembers. Safe to repeat.
func destroy(id string) error {
	var errs []error
	if mount, err := cgroupMount(); err != nil {
		errs = append(errs, err)
	} else if err := removeCgroup(filepath.Join(mount, cgroupName(id))); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, removeNamespaces(id))
	// Everything below goes with the tmpfs, the bpffs of each host included.
	if err := unix.Unmount(labDir(id), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		errs = append(errs, fmt.Errorf("unmount %s: %w", labDir(id), err))
	}
	if err := os.RemoveAll(labDir(id)); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func namespaceFiles(id string) []string {
	var paths []string
	for _, sep := range []string{"-", "."} {
		more, _ := filepath.Glob(filepath.Join(netnsDir, "weft-"+id+sep+"*"))
		paths = append(paths, more...)
	}
	return paths
}

// removeNamespaces unbinds in parallel: each waits for an RCU grace period,
// and those that wait together share one.
func removeNamespaces(id string) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	work := make(chan string)
	for range 16 {
		wg.Go(func() {
			for path := range work {
				if err := netns.Remove(path); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	for _, path := range namespaceFiles(id) {
		work <- path
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}

// Leftovers lists whatever on this machine still carries a lab's id:
// namespaces, mounts, cgroups, processes in them, devices and files.
func Leftovers(id string) []string {
	var found []string
	files := namespaceFiles(id)
	for _, path := range files {
		found = append(found, "namespace "+path)
	}
	if f, err := os.Open("/proc/self/mountinfo"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			fields := strings.Fields(s.Text())
			if len(fields) > 4 && (fields[4] == labDir(id) || strings.HasPrefix(fields[4], labDir(id)+"/") || slices.Contains(files, fields[4])) {
				found = append(found, "mount "+fields[4])
			}
		}
	}
	if mount, err := cgroupMount(); err == nil {
		if dir := filepath.Join(mount, cgroupName(id)); exists(dir) {
			found = append(found, "cgroup "+dir)
		}
	}
	if exists(labDir(id)) {
		found = append(found, "directory "+labDir(id))
	}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			data, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cgroup"))
			if strings.Contains(string(data), "/"+cgroupName(id)) && !zombie(pid) {
				found = append(found, fmt.Sprintf("process %d", pid))
			}
		}
	}
	links, _ := netlink.LinkList()
	for _, l := range links {
		if strings.Contains(l.Attrs().Name, id) || strings.Contains(l.Attrs().Alias, id) {
			found = append(found, "device "+l.Attrs().Name)
		}
	}
	return found
}

// zombie says whether a process has ended and waits for its parent to notice.
func zombie(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	rest := string(data[strings.LastIndexByte(string(data), ')')+1:])
	return strings.HasPrefix(rest, " Z") || strings.HasPrefix(rest, " X")
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
