package lab

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"weft/lab/netns"
	"weft/lab/topology"
)

// List returns the labs on this machine, dead ones too.
func List() ([]Listed, error) {
	var out []Listed
	for _, id := range knownIDs() {
		s, err := readState(id)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if s == nil {
			s = &State{ID: id}
		}
		out = append(out, Listed{*s, !ownerDead(id)})
	}
	return out, nil
}

// Listed is a lab as another process sees it. One that is not alive waits to
// be swept.
type Listed struct {
	State
	Alive bool `json:"alive"`
}

// Open returns a lab that another process owns, by its id or the name of its
// topology; "" stands for the only one there is. Commands can be run in it and
// its state be read.
func Open(which string) (*Lab, error) {
	labs, err := List()
	if err != nil {
		return nil, err
	}
	var fit []Listed
	var names []string
	for _, s := range labs {
		if !s.Alive {
			continue
		}
		names = append(names, fmt.Sprintf("%s (%s)", s.ID, s.Name))
		if which == "" || s.ID == which || s.Name == which {
			fit = append(fit, s)
		}
	}
	switch {
	case len(fit) == 1:
		return open(fit[0].State)
	case len(fit) > 1:
		return nil, fmt.Errorf("%d labs are up: %s; choose one with -l", len(fit), strings.Join(names, ", "))
	case which == "" || len(names) == 0:
		return nil, errors.New("no lab is up; start one: weft lab up FILE")
	}
	return nil, fmt.Errorf("no lab %q is up; there are %s", which, strings.Join(names, ", "))
}

func open(s State) (*Lab, error) {
	t, err := topology.LoadSaved(filepath.Join(labDir(s.ID), "topology.json"))
	if err != nil {
		return nil, err
	}
	plan, err := t.Plan()
	if err != nil {
		return nil, err
	}
	l := newLab(s.ID, plan, s.Cgroup, slog.New(slog.DiscardHandler))
	l.created = s.Created
	l.owner.pid, l.owner.start = s.OwnerPID, s.OwnerStart
	l.learn(s)
	return l, nil
}

// refresh reads again what the owner has written down.
func (l *Lab) refresh() error {
	s, err := readState(l.ID)
	if err != nil {
		return err
	}
	l.learn(*s)
	return nil
}

func (l *Lab) learn(s State) {
	for _, hs := range s.Hosts {
		h := l.hosts[hs.Name]
		if h == nil {
			continue
		}
		h.mu.Lock()
		h.up, h.containers = hs.Up, nil
		for _, cs := range hs.Containers {
			a, _ := netip.ParseAddr(cs.Address)
			h.containers = append(h.containers, &Container{
				Name: cs.Name, host: h, address: a, pid: cs.PID, spec: topology.Container{Name: cs.Name, Labels: cs.Labels, Publish: cs.Publish},
			})
		}
		h.mu.Unlock()
	}
	ports := map[string]*topology.Port{}
	owners := map[string]*Host{}
	for _, h := range l.order {
		for _, p := range h.node.Ports {
			ports[p.Link], owners[p.Link] = p, h
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range s.Links {
		if port := ports[k.Name]; port != nil {
			l.links[k.Name] = &link{host: owners[k.Name], port: port, device: k.Device, cut: k.Cut, now: k.Impairment}
		}
	}
}

// Exec replaces the calling process by a command in a host or container. It
// returns only on error.
func Exec(r Runner, argv []string) error { return r.place().exec(argv) }

// ExecIn replaces the calling process by a command in a network namespace,
// with everything else as it is. It returns only on error.
func ExecIn(ns string, argv []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return netns.Do(ns, func() error {
		return &os.PathError{Op: "exec", Path: path, Err: unix.Exec(path, argv, os.Environ())}
	})
}

// Tap names the namespace and device on which everything that crosses a link
// can be captured. A link is "NODE@SWITCH", or "NODE" for its first one.
func (l *Lab) Tap(name string) (ns, device string, err error) {
	k, err := l.link(name)
	if err != nil {
		return "", "", err
	}
	return fabricNS(l.ID), k.device, nil
}

// Stop makes the owner of a lab take it down, and removes what is left where
// the owner does not or is dead.
func Stop(id string, patience time.Duration) error {
	s, err := readState(id)
	if err == nil && !ownerDead(id) && processStart(s.OwnerPID) == s.OwnerStart {
		if err := unix.Kill(s.OwnerPID, unix.SIGTERM); err != nil {
			return fmt.Errorf("ask the owner of lab %s to stop: %w", id, err)
		}
		for deadline := time.Now().Add(patience); exists(labDir(id)) && !ownerDead(id); time.Sleep(10 * time.Millisecond) {
			if time.Now().Before(deadline) {
				continue
			}
			if processStart(s.OwnerPID) == s.OwnerStart {
				unix.Kill(s.OwnerPID, unix.SIGKILL)
			}
			break
		}
	}
	for range 100 {
		if _, err = Sweep(); err != nil {
			return err
		}
		if len(Leftovers(id)) == 0 {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("lab %s is still there: %s", id, strings.Join(Leftovers(id), ", "))
}
