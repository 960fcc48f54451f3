package nft_test

import (
	"slices"
	"testing"
	"time"

	"weft/agent/datapath"
	"weft/model"
)

// A cgroup that becomes a subject takes over the connections that its sockets
// have, from the machine or from a cgroup above.
func TestSubjectsAppear(t *testing.T) {
	s := newSite(t)
	d := newDriver(t, s)
	w := newWorld(parsePolicy(t, "name=inner", func(p *model.PolicySpec) { p.Egress = []model.PolicyRule{} }))
	for name, id := range w.ids {
		if name != "inner" {
			w.Modes[id] = model.ModeObserve
		}
	}
	whole := w.state(t, s)
	only := func(names ...string) *datapath.State {
		out := &datapath.State{Addresses: whole.Addresses}
		for _, x := range whole.Subjects {
			if slices.Contains(names, x.Workload) {
				out.Subjects = append(out.Subjects, x)
			}
		}
		return out
	}
	for i, before := range [][]string{{"host"}, {"host", "unit"}} {
		addr := s.outside.addr(i == 0, 80)
		apply(t, d, only(before...))
		if got := s.inner.do("keep", "tcp", addr, time.Second); got != "ok" {
			t.Fatal(got)
		}
		if got := s.inner.do("send", "", addr, time.Second); got != "ok" {
			t.Errorf("%v: %s", before, got)
		}
		apply(t, d, only("host", "unit", "inner"))
		if got := s.inner.do("send", "", addr, wait); got != "dropped" {
			t.Errorf("%v and inner: %s", before, got)
		}
		want(t, s.unit, "tcp", addr, "ok")
		want(t, s.inner, "tcp", addr, "dropped")
		apply(t, d, only(before...))
		if got := s.inner.do("send", "", addr, 3*time.Second); got != "ok" {
			t.Errorf("%v without inner: %s", before, got)
		}
	}
}
