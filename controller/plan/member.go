package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"weft/model"
	"weft/wire/wirepb"
)

// hostPart is what a host's sections of policy are made of.
type hostPart struct {
	name    string
	members []*member // by id
	own     map[netip.Addr]holders
	// What is written of it.
	subjects []*wirepb.PolicySubject
	digest   [32]byte // of the subjects
	pack     *pack
	caller   caller
}

func (h *hostPart) find(id string) (int, bool) {
	return slices.BinarySearchFunc(h.members, id, func(m *member, id string) int { return cmp.Compare(m.id, id) })
}

// leave takes out a workload that has gone.
func (s *segments) leave(w *model.Workload) {
	h := s.hosts[w.Spec.Host]
	i, _ := h.find(WorkloadID(w))
	for i < len(h.members) && h.members[i].Workload != w {
		i++
	}
	m := h.members[i]
	h.members = slices.Delete(h.members, i, i+1)
	s.unclaim(h, m)
	s.touched[h] = true
	s.callers.touch(h, nil)
	s.workloads.delete(w.Metadata.Name)
	x := m.who
	x.count--
	x.where.add(h.name, -1)
	for _, e := range x.entries {
		e.target.add(h.name, -1)
		s.retarget[e.target] = true
	}
	for _, d := range s.drafts {
		if d.selector.Matches(w.Metadata.Labels) {
			d.target.add(h.name, -1)
			s.retarget[d.target] = true
		}
	}
	if x.count == 0 {
		s.idle[x] = true
	}
}

// enter takes in a workload that has come.
func (s *segments) enter(w *model.Workload, x *who) {
	h := s.hosts[w.Spec.Host]
	m := &member{Workload: w, who: x, id: WorkloadID(w)}
	i, _ := h.find(m.id)
	h.members = slices.Insert(h.members, i, m)
	s.claim(h, m)
	s.touched[h] = true
	s.callers.touch(h, nil)
	s.workloads.set(w.Metadata.Name, x.id)
	x.count++
	x.where.add(h.name, 1)
	for _, e := range x.entries {
		e.target.add(h.name, 1)
		s.retarget[e.target] = true
	}
	for _, d := range s.drafts {
		if d.selector.Matches(w.Metadata.Labels) {
			d.target.add(h.name, 1)
			s.retarget[d.target] = true
		}
	}
	delete(s.idle, x)
}
