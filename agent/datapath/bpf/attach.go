package bpf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// hook is one program and where it goes.
type hook struct {
	name    string
	attach  ebpf.AttachType
	program *ebpf.Program
}

// id is the number that the kernel has given a hook's program. It is asked once:
// asking costs as much as all the rest of looking at a hook.
func (d *Driver) id(h hook) (ebpf.ProgramID, error) {
	if id, known := d.programs[h.name]; known {
		return id, nil
	}
	info, err := h.program.Info()
	if err != nil {
		return 0, fmt.Errorf("look at the program %s: %w", h.name, err)
	}
	id, _ := info.ID()
	d.programs[h.name] = id
	return id, nil
}

// hooks are in the order of their attachment: who is at a socket is noted before
// anything is judged by it.
func (d *Driver) hooks() []hook {
	o := &d.objects
	return []hook{
		{"create", ebpf.AttachCGroupInetSockCreate, o.WeftCreate},
		{"bind4", ebpf.AttachCGroupInet4PostBind, o.WeftBind4},
		{"bind6", ebpf.AttachCGroupInet6PostBind, o.WeftBind6},
		{"connect4", ebpf.AttachCGroupInet4Connect, o.WeftConnect4},
		{"connect6", ebpf.AttachCGroupInet6Connect, o.WeftConnect6},
		{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, o.WeftSendmsg4},
		{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg, o.WeftSendmsg6},
		{"tcp", ebpf.AttachCGroupSockOps, o.WeftTcp},
		{"ingress", ebpf.AttachCGroupInetIngress, o.WeftIngress},
		{"egress", ebpf.AttachCGroupInetEgress, o.WeftEgress},
	}
}

// attach puts every program to work, or swaps it in where an older one is at
// work: there is no instant without one.
func (d *Driver) attach(namespaces []string) error {
	for _, h := range d.hooks() {
		if d.carrying && h.name == carrier {
			continue
		}
		if err := d.attachOne(h); err != nil {
			return fmt.Errorf("attach %s: %w", h.name, err)
		}
	}
	if err := d.drops.attach(d.pin(filepath.Join("links", dropsLink))); err != nil {
		return err
	}
	return d.noteSockets(namespaces)
}

// carrier is the hook that says who calls.
const carrier = "tcp"

// carry leaves that one alone at work.
func (d *Driver) carry() error {
	for _, h := range d.hooks() {
		if h.name == carrier {
			if d.carrying {
				continue
			}
			if err := d.attachOne(h); err != nil {
				return fmt.Errorf("attach %s: %w", h.name, err)
			}
			d.carrying = true
			continue
		}
		if l := d.links[h.name]; l != nil {
			l.Close()
			delete(d.links, h.name)
		}
		l, err := link.LoadPinnedLink(d.pin(filepath.Join("links", h.name)), nil)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = errors.Join(l.Unpin(), l.Close())
		}
		if err != nil {
			return fmt.Errorf("take down %s: %w", h.name, err)
		}
	}
	d.attached = false
	if err := d.drops.detach(d.pin(filepath.Join("links", dropsLink))); err != nil {
		return err
	}
	if err := d.guestPorts.attach(nil, d); err != nil {
		return err
	}
	if d.edge != nil {
		return d.edge.attach(d.pin("links"), nil)
	}
	return nil
}

// noteSockets tells the programs who is at each socket that they have not seen
// being made. iter/tcp lists those of one network namespace only, so that it is
// run in each that has a subject.
func (d *Driver) noteSockets(namespaces []string) error {
	if err := iterate(link.IterOptions{Program: d.objects.WeftSockets}); err != nil {
		return fmt.Errorf("note who is at open sockets: %w", err)
	}
	for _, path := range append([]string{""}, namespaces...) {
		if err := inNamespace(path, func() error { return iterate(link.IterOptions{Program: d.objects.WeftSubflows}) }); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("note who is at open sockets: %w", err)
		}
	}
	return nil
}

// iterate runs a program over all it iterates over.
func iterate(over link.IterOptions) error {
	it, err := link.AttachIter(over)
	if err != nil {
		return err
	}
	defer it.Close()
	r, err := it.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

// attachOne puts one program to work. The link is held, so that a pin that is
// deleted takes nothing down while this program runs.
func (d *Driver) attachOne(h hook) error {
	pin := d.pin(filepath.Join("links", h.name))
	l, err := link.LoadPinnedLink(pin, nil)
	switch {
	case err == nil && d.isOurs(l):
		if err := l.Update(h.program); err != nil {
			l.Close()
			return err
		}
		d.hold(h.name, l)
		return nil
	case err == nil: // somebody has detached it
		l.Close()
		if err := os.Remove(pin); err != nil {
			return fmt.Errorf("remove the pin of a dead link: %w", err)
		}
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("open the pinned link: %w", err)
	}
	l, err = link.AttachCgroup(link.CgroupOptions{Path: d.cfg.CgroupRoot, Attach: h.attach, Program: h.program})
	if err != nil {
		return err
	}
	if err := l.Pin(pin); err != nil {
		l.Close()
		return fmt.Errorf("pin the link: %w", err)
	}
	d.hold(h.name, l)
	return nil
}

func (d *Driver) hold(name string, l link.Link) {
	if old := d.links[name]; old != nil {
		old.Close()
	}
	d.links[name] = l
}

// isOurs says whether a link is at work on our cgroup.
func (d *Driver) isOurs(l link.Link) bool {
	root, err := findCgroup(d.cfg.CgroupRoot)
	return err == nil && infoAt(l, root) != nil
}

// infoAt is what a link says of itself; nil unless it is at work on that cgroup.
func infoAt(l link.Link, root cgroup) *link.Info {
	if l == nil {
		return nil
	}
	info, err := l.Info()
	if err != nil || info.Cgroup() == nil || info.Cgroup().CgroupId != root.id {
		return nil
	}
	return info
}

// verifyHooks repairs links that somebody has detached, given another program or
// unpinned.
func (d *Driver) verifyHooks() (found []string, err error) {
	root, err := findCgroup(d.cfg.CgroupRoot)
	if err != nil {
		return nil, err
	}
	for _, h := range d.hooks() {
		l, pin := d.links[h.name], d.pin(filepath.Join("links", h.name))
		info := infoAt(l, root)
		if info == nil {
			found = append(found, "the program "+h.name+" was detached")
			os.Remove(pin)
			if err := d.attachOne(h); err != nil {
				return found, fmt.Errorf("attach %s again: %w", h.name, err)
			}
			continue
		}
		ours, err := d.id(h)
		if err != nil {
			return found, err
		}
		if ours != info.Program {
			found = append(found, "the link "+h.name+" was given another program")
			if err := l.Update(h.program); err != nil {
				return found, fmt.Errorf("put the program %s back: %w", h.name, err)
			}
		}
		if _, err := os.Stat(pin); errors.Is(err, os.ErrNotExist) {
			found = append(found, "the pin of the link "+h.name+" was removed")
			// The held link does not know that its pin is gone.
			fresh, err := link.AttachCgroup(link.CgroupOptions{Path: d.cfg.CgroupRoot, Attach: h.attach, Program: h.program})
			if err != nil {
				return found, fmt.Errorf("attach %s again: %w", h.name, err)
			}
			if err := fresh.Pin(pin); err != nil {
				fresh.Close()
				return found, fmt.Errorf("pin %s again: %w", h.name, err)
			}
			d.hold(h.name, fresh)
		}
	}
	return found, nil
}
