package observe

import (
	"maps"
	"time"

	"weft/controller/plan"
	"weft/model"
	"weft/wire/wirepb"
)

// maxSkew is how far a clock may be off before a condition says so. Half of a
// slow round trip is mistaken for skew, so it is not smaller.
const maxSkew = 5 * time.Second

// ConditionClockSkew is set where the host's clock is off by more than that.
const ConditionClockSkew = "ClockSkew"

func skewed(d time.Duration) bool { return d.Abs() > maxSkew }

// HostStatus says what is known of a host.
func (o *Observer) HostStatus(h *model.Host) model.HostStatus {
	o.mu.Lock()
	defer o.mu.Unlock()
	st := model.HostStatus{State: model.HostOffline, Claims: o.claims(h)}
	seen := o.hosts[h.Metadata.UID]
	if seen != nil {
		seen.fill(&st)
		st.RefusedLabels = seen.refused(h, st.Claims)
		if f := seen.facts; f != nil {
			st.Labels = map[string]string{}
			copyClaimed(st.Labels, f.Labels, st.Claims)
		}
	}
	st.Conditions = o.conditions(h, seen)
	if h.Spec.Revoked {
		st.State = model.HostRevoked
		return st
	}
	if o.plan == nil || o.plan.Hosts.Get(h.Metadata.Name) == nil {
		return st
	}
	for _, name := range plan.Sections {
		s := model.SectionStatus{Name: name, Desired: o.plan.Hosts.Get(h.Metadata.Name).Sections[name].GetDigest()}
		if seen != nil {
			s.Applied, s.Error = seen.sections[name].GetDigest(), seen.sections[name].GetError()
		}
		st.Sections = append(st.Sections, s)
	}
	return st
}

func (h *host) fill(st *model.HostStatus) {
	if h.online {
		st.State = model.HostOnline
	}
	st.LastSeen = stamp(h.lastSeen)
	st.AgentVersion, st.BootID, st.RemoteAddress = h.peer.Version, h.peer.BootID, h.peer.Remote
	st.Workloads, st.Rings, st.Drops = len(h.workloads), h.ringStatuses(), maps.Clone(h.drops)
	if f := h.facts; f != nil {
		st.OS, st.Kernel, st.Arch, st.CPUs, st.MemoryBytes = f.Os, f.Kernel, f.Arch, int(f.Cpus), int64(f.MemoryBytes)
		st.Interfaces, st.Capabilities = interfaces(f), maps.Clone(f.Capabilities)
		if f.CertificateExpires != 0 {
			st.CertificateExpires = stamp(time.Unix(f.CertificateExpires, 0))
		}
	}
}

func stamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

// RelayStatus says what is known of a relay.
func (o *Observer) RelayStatus(r *model.Relay) model.RelayStatus {
	o.mu.Lock()
	defer o.mu.Unlock()
	st := model.RelayStatus{State: model.HostOffline}
	if seen := o.relays[r.Metadata.UID]; seen != nil {
		if seen.online {
			st.State = model.HostOnline
		}
		st.LastSeen, st.Version = stamp(seen.lastSeen), seen.peer.Version
		st.Sessions, st.Streams, st.Bytes = int(seen.report.GetSessions()), int(seen.report.GetStreams()), seen.report.GetBytes()
	}
	if r.Spec.Revoked {
		st.State = model.HostRevoked
	}
	return st
}

// GroupStatus counts a group's members.
func (o *Observer) GroupStatus(g *model.Group) model.GroupStatus {
	members, err := o.Members(g.Spec)
	if err != nil {
		return model.GroupStatus{}
	}
	hosts := map[string]bool{}
	for _, w := range members {
		hosts[w.Spec.Host] = true
	}
	return model.GroupStatus{Members: len(members), Hosts: len(hosts)}
}

// byName finds the reports of a host by its name; nil where there are none.
func (o *Observer) byName(name string) *host { return o.hosts[o.uids[name]] }

// applied says how far a host is with the section that is planned for it:
// ready to be asked about items, or else the state and why.
func (o *Observer) applied(name, section string) (h *host, state, message string) {
	h = o.byName(name)
	switch {
	case h == nil:
		return nil, "Offline", "the agent has not reported yet"
	case !h.online:
		return nil, "Offline", "the agent has no session since " + h.lastSeen.UTC().Format(time.RFC3339)
	}
	st := h.sections[section]
	if o.plan == nil || o.plan.Hosts.Get(name) == nil || st.GetDigest() != o.plan.Hosts.Get(name).Sections[section].GetDigest() {
		return nil, "Pending", "not applied yet"
	}
	return h, "", ""
}

// item finds the status of one part of an applied section. A section that
// holds as a whole vouches for the parts it does not list.
func item(st *wirepb.SectionStatus, name string) (state, message string) {
	for _, i := range st.GetItems() {
		if i.Item == name {
			return i.State, i.Message
		}
	}
	if st.GetError() != "" {
		return "Error", st.GetError()
	}
	return "", ""
}
