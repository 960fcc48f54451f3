// Package apitest runs a real API over a real store for tests, with a small
// world of workloads in place of agents.
package apitest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"weft/controller/observe"
	"weft/controller/store"
	"weft/model"
)

// World is an api.Observer whose workloads a test sets.
type World struct {
	store *store.Store

	mu        sync.Mutex
	workloads map[string]*model.Workload
	offline   map[string]time.Time
	ledger    model.Ledger
	talk      []*observe.Conversation
	hits      map[string]uint64 // connections by rule id
	changed   chan struct{}
}

func newWorld(s *store.Store) *World {
	return &World{store: s, workloads: map[string]*model.Workload{}, offline: map[string]time.Time{}, changed: make(chan struct{})}
}

func (w *World) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

// Add puts a workload in the world: name is "HOST" or "HOST:NAME".
func (w *World) Add(name, labels string) error {
	host, _, inner := strings.Cut(name, ":")
	kind := model.WorkloadHost
	if inner {
		kind = model.WorkloadContainer
	}
	l := map[string]string{"workload.kind": string(kind), "host.name": host}
	for pair := range strings.SplitSeq(labels, ",") {
		k, v, ok := strings.Cut(pair, "=")
		if !ok && pair != "" {
			return fmt.Errorf("label %q is not k=v", pair)
		} else if ok {
			l[k] = v
		}
	}
	made := time.Now().UTC().Truncate(time.Second)
	wl := &model.Workload{TypeMeta: model.TypeMeta{APIVersion: model.APIVersion, Kind: model.KindWorkload},
		Metadata: model.Metadata{Name: name, Labels: l, CreationTimestamp: &made},
		Spec:     model.WorkloadSpec{Host: host, Kind: kind, Addresses: []string{fmt.Sprintf("10.0.0.%d", 1+len(name)%250)}, Interfaces: []string{"eth0"}}}
	if inner {
		wl.Spec.Container = &model.Container{ID: strings.Repeat("ab", 32), Name: strings.TrimPrefix(name, host+":"), Image: "nginx:1.27", Runtime: "containerd"}
	}
	w.change(func() { w.workloads[name] = wl })
	return nil
}

// Remove takes a workload out.
func (w *World) Remove(name string) { w.change(func() { delete(w.workloads, name) }) }

// SetOffline says since when a host's agent is away; zero brings it back.
func (w *World) SetOffline(host string, since time.Time) {
	w.change(func() {
		if delete(w.offline, host); !since.IsZero() {
			w.offline[host] = since
		}
	})
}

// SetLedger sets the account of every path.
func (w *World) SetLedger(l model.Ledger) { w.change(func() { w.ledger = l }) }

// Join makes the Host that joining makes.
func (w *World) Join(ctx context.Context, name string) error {
	h := model.MustKind(model.KindHost).New().(*model.Host)
	h.Metadata.Name = name
	h.Metadata.Annotations = map[string]string{"weft/join-token": "lab"}
	return w.store.Create(ctx, store.Change{Actor: "host/" + name}, h, nil)
}

// JoinRelay makes the Relay that joining makes.
func (w *World) JoinRelay(ctx context.Context, name, address string) error {
	r := model.MustKind(model.KindRelay).New().(*model.Relay)
	r.Metadata.Name = name
	r.Spec.Addresses = []string{address}
	return w.store.Create(ctx, store.Change{Actor: "relay/" + name}, r, nil)
}

// InventoryChanged implements flowstore.Inventory.
func (w *World) InventoryChanged() <-chan struct{} { return w.Changed() }

// Changed implements api.Observer, as do the methods below.
func (w *World) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

func (w *World) Workloads() []*model.Workload {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*model.Workload
	for _, name := range slices.Sorted(maps.Keys(w.workloads)) {
		c := *w.workloads[name]
		out = append(out, &c)
	}
	return out
}

// Alerts are of the hosts that are away.
func (w *World) Alerts() []*model.Alert {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*model.Alert
	for _, name := range slices.Sorted(maps.Keys(w.offline)) {
		c := silent(w.offline[name])
		a := model.MustKind(model.KindAlert).New().(*model.Alert)
		a.Metadata = model.Metadata{Name: name + ":" + c.Type, CreationTimestamp: &c.Since,
			Labels: map[string]string{"host.name": name, "alert.type": c.Type, "alert.severity": string(c.Severity)}}
		a.Spec = model.AlertSpec{Host: name, Type: c.Type, Severity: c.Severity, Message: c.Message, Since: c.Since, LastSeen: &c.Since}
		out = append(out, a)
	}
	return out
}

func silent(since time.Time) model.Condition {
	return model.Condition{Type: "AgentSilent", Status: "True", Severity: model.SeverityCritical, Since: since, Message: "the agent has no session"}
}

func (w *World) HostStatus(h *model.Host) model.HostStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := model.HostStatus{State: model.HostOnline, AgentVersion: "1.0.0", OS: "Debian 12", Kernel: "6.18.0", Arch: "amd64", CPUs: 2, MemoryBytes: 4 << 30,
		RemoteAddress: "192.0.2.7:41234", Capabilities: map[string]string{"tap.tcx": "yes"},
		Interfaces: []model.Interface{{Name: "eth0", MTU: 1500, Addresses: []string{"10.0.0.2/24"}, Uplink: true}}}
	if since, off := w.offline[h.Metadata.Name]; off {
		s.State, s.LastSeen = model.HostOffline, &since
		s.Conditions = []model.Condition{silent(since)}
	}
	if h.Spec.Revoked {
		s.State = model.HostRevoked
	}
	for _, wl := range w.workloads {
		if wl.Spec.Host == h.Metadata.Name {
			s.Workloads++
		}
		if wl.Metadata.Name == h.Metadata.Name {
			s.Labels = maps.Clone(wl.Metadata.Labels)
		}
	}
	return s
}

func (w *World) RelayStatus(*model.Relay) model.RelayStatus {
	return model.RelayStatus{State: model.HostOnline, Version: "1.0.0", Sessions: 3, Streams: 2, Bytes: 12345678}
}

func (w *World) Members(spec model.GroupSpec) ([]*model.Workload, error) {
	found := map[string]*model.Workload{}
	if err := w.collect(spec, found, map[string]bool{}); err != nil {
		return nil, err
	}
	var out []*model.Workload
	for _, name := range slices.Sorted(maps.Keys(found)) {
		out = append(out, found[name])
	}
	return out, nil
}

func (w *World) collect(spec model.GroupSpec, found map[string]*model.Workload, been map[string]bool) error {
	for _, wl := range w.Workloads() {
		if spec.Selector != nil && spec.Selector.Matches(wl.Metadata.Labels) {
			found[wl.Metadata.Name] = wl
		}
	}
	for _, name := range spec.Groups {
		if been[name] {
			return fmt.Errorf("group %q contains itself", name)
		}
		r, err := w.store.Get(context.Background(), model.KindGroup, name)
		if err != nil {
			return fmt.Errorf("no group %q; weft get groups lists them", name)
		}
		been[name] = true
		if err := w.collect(r.(*model.Group).Spec, found, been); err != nil {
			return err
		}
		delete(been, name)
	}
	return nil
}

func (w *World) GroupStatus(g *model.Group) model.GroupStatus {
	members, _ := w.Members(g.Spec)
	hosts := map[string]bool{}
	for _, m := range members {
		hosts[m.Spec.Host] = true
	}
	return model.GroupStatus{Members: len(members), Hosts: len(hosts)}
}

func (w *World) ends(e model.Endpoints) ([]*model.Workload, error) {
	if e.Group != "" {
		return w.Members(model.GroupSpec{Groups: []string{e.Group}})
	}
	return w.Members(model.GroupSpec{Selector: e.Selector})
}

func (w *World) PreviewTap(spec model.TapSpec) (sources, tools []*model.Workload, err error) {
	if sources, err = w.ends(spec.From); err != nil {
		return nil, nil, err
	}
	to, err := w.ends(spec.To)
	for _, t := range to {
		if t.Spec.Kind == model.WorkloadHost {
			tools = append(tools, t)
		}
	}
	return sources, tools, err
}

func (w *World) TapStatus(t *model.Tap) model.TapStatus {
	sources, tools, err := w.PreviewTap(t.Spec)
	if err != nil {
		return model.TapStatus{State: model.TapPending, Message: err.Error()}
	}
	s := model.TapStatus{State: model.TapActive}
	if len(sources) == 0 || len(tools) == 0 {
		s.State, s.Message = model.TapPending, "no source or no tool"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	hosts := map[string]bool{}
	for _, wl := range sources {
		s.Sources = append(s.Sources, model.TapSource{Workload: wl.Metadata.Name, Host: wl.Spec.Host, State: "Capturing"})
		hosts[wl.Spec.Host] = true
	}
	for _, wl := range tools {
		s.Tools = append(s.Tools, model.TapTool{Host: wl.Spec.Host, Device: model.DefaultDevice, State: "Ready"})
		for _, h := range slices.Sorted(maps.Keys(hosts)) {
			s.Paths = append(s.Paths, model.TapPath{Host: h, Tool: wl.Spec.Host, State: "Connected", Path: "relay", Relay: "relay-1", Remote: "203.0.113.5:443", Ledger: w.ledger})
			s.Ledger = s.Ledger.Add(w.ledger)
		}
	}
	return s
}
