package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/lab/topology"
)

// Topology is the description of a lab; see package topology.
type Topology = topology.Topology

// Publish is a port of the host that leads to a container; see package topology.
type Publish = topology.Publish

// Load reads and checks a topology file.
func Load(path string) (*Topology, error) { return topology.Load(path) }

// Parse reads and checks a topology; name stands for the file in errors.
func Parse(name string, data []byte) (*Topology, error) { return topology.Parse(name, data) }

// Options of a lab. The zero value will do.
type Options struct {
	// Log receives what the lab does; nothing is logged unless given.
	Log *slog.Logger
}

// Lab is a running lab.
type Lab struct {
	ID   string
	Name string

	log    *slog.Logger
	plan   *topology.Plan
	lock   *os.File // nil in a process that does not own the lab
	cgroup string
	// cgroupLock says so to those who do not see the run directory.
	cgroupLock *os.File
	created    time.Time
	owner      struct {
		pid   int
		start uint64
	}
	fabric *fabric
	saving sync.Mutex
	hosts  map[string]*Host
	order  []*Host

	mu      sync.Mutex
	links   map[string]*link
	closers []func() error
	down    bool
}

// Up makes everything a topology says and returns when it is all there. The
// calling process owns the lab: it serves the metadata services and emulates
// the links, so when it ends without Down, these stop and a sweep removes the
// rest. Labs of dead owners are swept first.
func Up(ctx context.Context, t *Topology, opts Options) (*Lab, error) {
	plan, err := t.Plan()
	if err != nil {
		return nil, err
	}
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if swept, err := Sweep(); err != nil {
		log.Warn("sweep left something", "err", err)
	} else if len(swept) > 0 {
		log.Info("swept dead labs", "labs", swept)
	}
	cgroup2, err := cgroupMount()
	if err != nil {
		return nil, err
	}
	id, lock, err := claim()
	if err != nil {
		return nil, fmt.Errorf("claim a lab id (a lab needs root): %w", err)
	}
	l := newLab(id, plan, filepath.Join(cgroup2, cgroupName(id)), log)
	l.lock, l.created = lock, time.Now()
	l.owner.pid, l.owner.start = os.Getpid(), processStart(os.Getpid())
	if err := l.build(ctx, t); err != nil {
		return nil, errors.Join(err, l.Down())
	}
	log.Info("lab up", "lab", id, "nodes", len(l.order), "took", time.Since(l.created).Round(time.Millisecond))
	return l, nil
}

func newLab(id string, plan *topology.Plan, cgroup string, log *slog.Logger) *Lab {
	l := &Lab{ID: id, Name: plan.Name, log: log, plan: plan, cgroup: cgroup, hosts: map[string]*Host{}, links: map[string]*link{}}
	for _, n := range plan.Nodes {
		h := &Host{Name: n.Name, lab: l, node: n}
		l.hosts[n.Name] = h
		l.order = append(l.order, h)
	}
	return l
}

func (l *Lab) build(ctx context.Context, t *Topology) error {
	if err := t.Save(filepath.Join(labDir(l.ID), "topology.json")); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(labDir(l.ID), "resolv.conf"), []byte(noResolver), 0o644); err != nil {
		return err
	}
	if err := os.Mkdir(l.cgroup, 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	var err error
	if l.cgroupLock, err = holdCgroup(l.cgroup); err != nil {
		return err
	}
	if err := l.writeViews(); err != nil {
		return err
	}
	if l.fabric, err = newFabric(l.ID, l.plan); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4) // the kernel makes devices one at a time
	for _, h := range l.order {
		if h.node.Host != nil && h.node.Host.Later {
			continue
		}
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := h.start(); err != nil {
				return fmt.Errorf("start %q: %w", h.Name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := l.fabric.settle(); err != nil {
		return err
	}
	if err := l.serveControl(); err != nil {
		return err
	}
	return l.save()
}

// Host returns the host or router of that name, or nil.
func (l *Lab) Host(name string) *Host { return l.hosts[name] }

// Hosts lists routers and hosts in the order of the file.
func (l *Lab) Hosts() []*Host { return l.order }

// Dir is the lab's run directory. It is a tmpfs and goes with the lab.
func (l *Lab) Dir() string { return labDir(l.ID) }

// StartHost starts a host that the topology says comes later. Starting a
// running host does nothing.
func (l *Lab) StartHost(name string) error {
	h := l.hosts[name]
	if h == nil {
		return fmt.Errorf("lab %s has no host %q", l.ID, name)
	}
	if l.remote() {
		return errors.Join(l.call("POST", "/hosts/"+name+"/start", nil), l.refresh())
	}
	if err := h.start(); err != nil {
		return fmt.Errorf("start %q: %w", name, err)
	}
	var devices []string
	for _, name := range h.Links() {
		if k, err := l.link(name); err == nil {
			devices = append(devices, k.bridgePort())
		}
	}
	return errors.Join(l.fabric.settle(devices...), l.save())
}

// owned refuses what only the process that owns the lab can do.
func (l *Lab) owned(what string) error {
	if l.lock == nil {
		return fmt.Errorf("%s: this process does not own lab %s", what, l.ID)
	}
	return nil
}

func (l *Lab) onDown(f func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closers = append(l.closers, f)
}

// Down ends everything that runs in the lab and removes everything of it. Safe
// to repeat.
func (l *Lab) Down() error {
	if err := l.owned("take a lab down"); err != nil {
		return err
	}
	l.mu.Lock()
	if l.down {
		l.mu.Unlock()
		return nil
	}
	l.down = true
	closers := l.closers
	l.mu.Unlock()
	began := time.Now()
	var errs []error
	for _, f := range closers {
		errs = append(errs, f())
	}
	errs = append(errs, l.closeEmulators())
	if l.fabric != nil {
		l.fabric.close()
	}
	errs = append(errs, destroy(l.ID), l.lock.Close())
	if l.cgroupLock != nil {
		l.cgroupLock.Close() // of a directory that is gone
	}
	if unlock, err := global(); err == nil {
		unlock() // tidies up after the last lab
	}
	l.log.Info("lab down", "lab", l.ID, "took", time.Since(began).Round(time.Millisecond))
	return errors.Join(errs...)
}

// State is what other processes can know of the lab.
func (l *Lab) State() *State {
	s := &State{
		ID: l.ID, Name: l.Name, Created: l.created.UTC(), Cgroup: l.cgroup,
		OwnerPID: l.owner.pid, OwnerStart: l.owner.start,
	}
	for _, h := range l.order {
		hs := HostState{Name: h.Name, Router: h.IsRouter(), Up: h.Up(), NetNS: h.NetNS(), Labels: h.Labels()}
		for _, a := range h.Addresses() {
			hs.Addresses = append(hs.Addresses, a.String())
		}
		for _, c := range h.Containers() {
			hs.Containers = append(hs.Containers, ContainerState{
				Name: c.Name, NetNS: c.NetNS(), Address: c.address.String(), PID: c.pid, Labels: c.spec.Labels, Publish: c.spec.Publish,
			})
		}
		s.Hosts = append(s.Hosts, hs)
	}
	s.Links = l.linkStates()
	return s
}

// save writes the state down for other processes.
func (l *Lab) save() error {
	l.mu.Lock()
	down := l.down
	l.mu.Unlock()
	if down {
		return nil
	}
	l.saving.Lock()
	defer l.saving.Unlock()
	return writeState(l.State())
}

// Find resolves "HOST", "HOST/CONTAINER" or "HOST:CONTAINER" to where a command
// can run.
func (l *Lab) Find(where string) (Runner, error) {
	host, container, inside := strings.Cut(strings.Replace(where, ":", "/", 1), "/")
	h := l.hosts[host]
	if h == nil {
		return nil, fmt.Errorf("lab %s has no host %q; weft lab ls shows them", l.ID, host)
	}
	if !h.Up() {
		return nil, fmt.Errorf("host %q is not started yet; start it: weft lab start %s", host, host)
	}
	if !inside {
		return h, nil
	}
	if c := h.Container(container); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("host %q has no container %q", host, container)
}

// Runner is a host or a container.
type Runner interface {
	Command(ctx context.Context, argv ...string) *Cmd
	NetNS() string
	CgroupDir() string
	place() place
}
