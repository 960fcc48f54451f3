package observe

import (
	"bytes"
	"maps"
	"slices"
	"unsafe"

	"weft/controller/plan"
	"weft/model"
)

// inventory is the resources that follow from what hosts have reported. Each host
// is described again where its report or its resource has changed, so that one
// report of ten thousand costs what it says.
type inventory struct {
	byHost     map[string]*described // by UID
	reported   map[string]bool       // UIDs of those whose report has changed
	stale      bool                  // hosts may be others
	workloads  []*model.Workload     // by name; replaced, never changed
	interfaces map[string][]model.Interface
	callerKeys map[string][]byte // as interfaces: replaced, never changed
}

type described struct {
	host       *model.Host
	workloads  []*model.Workload
	interfaces []model.Interface
	known      bool // the host has reported interfaces
	callerKey  []byte
}

func (v *inventory) dirty(uid string) {
	if v.reported == nil {
		v.reported = map[string]bool{}
	}
	v.reported[uid] = true
}

// takeStock brings the inventory up to date; the lock is held.
func (o *Observer) takeStock() {
	v := &o.inventoried
	first := v.byHost == nil
	if !first && !v.stale && len(v.reported) == 0 {
		return
	}
	if first {
		v.byHost = map[string]*described{}
	}
	var gone, come []*model.Workload
	rewired, rekeyed := first, first
	replace := func(uid string, next *described) {
		last := v.byHost[uid]
		if last != nil {
			gone = append(gone, last.workloads...)
		}
		delete(v.byHost, uid)
		if next != nil {
			come = append(come, next.workloads...)
			v.byHost[uid] = next
		}
		rewired = rewired || !last.wiredAs(next)
		rekeyed = rekeyed || !last.keyedAs(next)
	}
	if first || v.stale {
		there := make(map[string]bool, len(o.intent.Hosts))
		for _, h := range o.intent.Hosts {
			uid := h.Metadata.UID
			there[uid] = true
			if last := v.byHost[uid]; last == nil || last.host != h || v.reported[uid] {
				replace(uid, o.describe(h, last))
			}
		}
		for uid := range v.byHost {
			if !there[uid] {
				replace(uid, nil)
			}
		}
	} else {
		for uid := range v.reported {
			if last := v.byHost[uid]; last != nil { // others belong to nothing that is stored
				replace(uid, o.describe(last.host, last))
			}
		}
	}
	if len(gone)+len(come) > 0 || first {
		v.workloads = plan.Splice(v.workloads, gone, come)
	}
	if rewired {
		v.interfaces = map[string][]model.Interface{}
		for _, d := range v.byHost {
			if d.known {
				v.interfaces[d.host.Metadata.Name] = d.interfaces
			}
		}
	}
	if rekeyed {
		v.callerKeys = map[string][]byte{}
		for _, d := range v.byHost {
			if len(d.callerKey) > 0 {
				v.callerKeys[d.host.Metadata.Name] = d.callerKey
			}
		}
	}
	v.stale = false
	clear(v.reported)
}

// wiredAs says whether both have the same interfaces; nil has none.
func (d *described) wiredAs(o *described) bool {
	if d == nil || o == nil {
		return !(d != nil && d.known) && !(o != nil && o.known)
	}
	return d.known == o.known && len(d.interfaces) == len(o.interfaces) && unsafe.SliceData(d.interfaces) == unsafe.SliceData(o.interfaces)
}

// keyedAs says whether both have the same key; nil has none.
func (d *described) keyedAs(o *described) bool {
	var a, b []byte
	if d != nil {
		a = d.callerKey
	}
	if o != nil {
		b = o.callerKey
	}
	return bytes.Equal(a, b)
}

// describe makes what is known of a host, with what has not changed since last.
func (o *Observer) describe(h *model.Host, last *described) *described {
	out := &described{host: h}
	seen := o.hosts[h.Metadata.UID]
	if seen == nil {
		return out
	}
	if !h.Spec.Revoked {
		out.workloads = seen.describe(h, o.claims(h))
	}
	if seen.facts != nil {
		out.known, out.interfaces, out.callerKey = true, interfaces(seen.facts), seen.facts.CallerKey
	}
	if last == nil {
		return out
	}
	byName := map[string]*model.Workload{}
	for _, w := range last.workloads {
		byName[w.Metadata.Name] = w
	}
	for i, w := range out.workloads {
		if old := byName[w.Metadata.Name]; old != nil && sameWorkload(old, w) {
			out.workloads[i] = old
		}
	}
	if slices.EqualFunc(last.interfaces, out.interfaces, func(a, b model.Interface) bool {
		return a.Name == b.Name && a.MAC == b.MAC && a.MTU == b.MTU && a.Uplink == b.Uplink && slices.Equal(a.Addresses, b.Addresses)
	}) {
		out.interfaces = last.interfaces
	}
	return out
}

func sameWorkload(a, b *model.Workload) bool {
	if (a.Spec.Container == nil) != (b.Spec.Container == nil) || a.Spec.Container != nil && *a.Spec.Container != *b.Spec.Container {
		return false
	}
	return a.Metadata.UID == b.Metadata.UID && maps.Equal(a.Metadata.Labels, b.Metadata.Labels) && a.Spec.Host == b.Spec.Host && a.Spec.Kind == b.Spec.Kind &&
		a.Spec.Cgroup == b.Spec.Cgroup && slices.Equal(a.Spec.Addresses, b.Spec.Addresses) && slices.Equal(a.Spec.Interfaces, b.Spec.Interfaces)
}

// Interfaces returns those of every host that reported any, by host name. They
// are shared: change nothing.
func (o *Observer) Interfaces() map[string][]model.Interface {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.interfaces()
}

// CallerKeys returns the public keys by which hosts tell one another who calls,
// by host name. They are shared: change nothing.
func (o *Observer) CallerKeys() map[string][]byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.takeStock()
	return o.inventoried.callerKeys
}

func (o *Observer) interfaces() map[string][]model.Interface {
	o.takeStock()
	return o.inventoried.interfaces
}
