package lab

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Everything of a lab carries its id:
//
//	/run/netns/weft-ID-HOST               namespace of a host or router
//	/run/netns/weft-ID-HOST.CONTAINER     namespace of a container
//	/run/netns/weft-ID.fabric             namespace of the switches
//	CGROUP2/weft-lab-ID/HOST/...          cgroups
//	/run/weft/lab/ID/                     a tmpfs: state, logs, a bpffs per host
const (
	netnsDir = "/run/netns"
	runDir   = "/run/weft/lab"
)

// State is what is written down of a running lab, for other processes.
type State struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Created  time.Time `json:"created"`
	OwnerPID int       `json:"ownerPID"`
	// OwnerStart is the owner's start time in clock ticks since boot, so that
	// another process with the same number is not taken for it.
	OwnerStart uint64      `json:"ownerStart"`
	Cgroup     string      `json:"cgroup"`
	Hosts      []HostState `json:"hosts"`
	Links      []LinkState `json:"links"`
}

// HostState is one host or router.
type HostState struct {
	Name       string            `json:"name"`
	Router     bool              `json:"router,omitempty"`
	Up         bool              `json:"up"`
	NetNS      string            `json:"netns"`
	Addresses  []string          `json:"addresses"`
	Labels     map[string]string `json:"labels,omitempty"`
	Containers []ContainerState  `json:"containers,omitempty"`
}

// ContainerState is one container.
type ContainerState struct {
	Name    string            `json:"name"`
	NetNS   string            `json:"netns"`
	Address string            `json:"address"`
	PID     int               `json:"pid"`
	Labels  map[string]string `json:"labels,omitempty"`
	Publish []Publish         `json:"publish,omitempty"`
}

// LinkState is one link; Device is its end in the fabric's namespace.
type LinkState struct {
	Name       string     `json:"name"`
	Device     string     `json:"device"`
	Impairment Impairment `json:"impairment,omitzero"`
	Cut        bool       `json:"cut,omitempty"`
}

func labDir(id string) string     { return filepath.Join(runDir, id) }
func fabricNS(id string) string   { return filepath.Join(netnsDir, "weft-"+id+".fabric") }
func cgroupName(id string) string { return "weft-lab-" + id }

func hostNS(id, host string) string { return filepath.Join(netnsDir, "weft-"+id+"-"+host) }

// processStart is the start time of a process in clock ticks since boot, or 0
// where there is none (proc(5), /proc/PID/stat, field 22).
func processStart(pid int) uint64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The second field is the name in parentheses and may hold anything.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 {
		return 0
	}
	v, _ := strconv.ParseUint(fields[19], 10, 64)
	return v
}

// idRE is the form of an id: a letter, a digit, and three of either. The digit
// keeps names such as weft-agent-1, which others may give, from looking like
// ours to a sweep.
var idRE = regexp.MustCompile(`^[a-z][2-9][a-z2-9]{3}$`)

// newID draws an id that is easy to type.
func newID() string {
	const letters, digits = "abcdefghjkmnpqrstuvwxyz", "23456789"
	b := make([]byte, 5)
	rand.Read(b)
	for i, alphabet := range []string{letters, digits, letters + digits, letters + digits, letters + digits} {
		b[i] = alphabet[int(b[i])%len(alphabet)]
	}
	return string(b)
}

// global serialises the making of labs and the sweeping of dead ones, so that
// a lab which has a directory but no lock yet is never taken for a dead one.
func global() (unlock func(), err error) {
	for range 100 {
		if err := os.MkdirAll(runDir, 0o755); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(filepath.Join(runDir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		// The last one out removes the file: hold only the one that is there.
		var held, there unix.Stat_t
		if unix.Fstat(int(f.Fd()), &held) == nil && unix.Stat(f.Name(), &there) == nil && held.Ino == there.Ino {
			return func() { tidyRunDir(); f.Close() }, nil
		}
		f.Close()
	}
	return nil, errors.New("lock the lab directory: it keeps changing")
}

// tidyRunDir removes the run directories where no lab is left in them.
func tidyRunDir() {
	entries, err := os.ReadDir(runDir)
	if err != nil || len(entries) > 1 || len(entries) == 1 && entries[0].Name() != ".lock" {
		return
	}
	os.Remove(filepath.Join(runDir, ".lock"))
	os.Remove(runDir)
	os.Remove(filepath.Dir(runDir))
}

// claim makes the directory of a new lab and takes its lock, which is held
// until the process ends or closes it.
func claim() (id string, lock *os.File, err error) {
	unlock, err := global()
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	for {
		id = newID()
		if err = os.Mkdir(labDir(id), 0o755); err == nil {
			break
		}
		if !errors.Is(err, os.ErrExist) {
			return "", nil, err
		}
	}
	undo := func() { unix.Unmount(labDir(id), unix.MNT_DETACH); os.Remove(labDir(id)) }
	if err := unix.Mount("weft-lab-"+id, labDir(id), "tmpfs", 0, "mode=0755"); err != nil {
		undo()
		return "", nil, fmt.Errorf("mount run directory: %w", err)
	}
	lock, err = os.OpenFile(filepath.Join(labDir(id), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		undo()
		return "", nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		undo()
		return "", nil, fmt.Errorf("lock lab: %w", err)
	}
	return id, lock, nil
}

// ownerDead says whether nobody holds a lab's lock. A directory without a lock
// has no owner either: claim makes both under the global lock.
func ownerDead(id string) bool {
	if cgroupHeld(id) {
		return false
	}
	f, err := os.OpenFile(filepath.Join(labDir(id), "lock"), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return true
	}
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

func writeState(s *State) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(labDir(s.ID), "state.json")
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func readState(id string) (*State, error) {
	data, err := os.ReadFile(filepath.Join(labDir(id), "state.json"))
	if err != nil {
		return nil, err
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("read state of lab %s: %w", id, err)
	}
	return &s, nil
}
