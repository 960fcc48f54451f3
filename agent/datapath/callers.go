package datapath

import (
	"context"
	"path/filepath"

	"weft/model"
	"weft/policy"
	"weft/wire/policywire"
	"weft/wire/wirepb"
)

// callers adds to a state who tells whom who calls.
func (d *Datapath) callers(s *State, byID map[string]*wirepb.Workload) {
	s.Host = d.identity.GetHost()
	if d.cfg.CallerKey == nil || s.Host == 0 {
		s.Host = 0
		return
	}
	d.term = TermOf(d.cfg.Now())
	for _, m := range d.identity.GetHosts() {
		h := PeerHost{Number: m.GetNumber()}
		var err error
		if h.Call, h.Accept, err = d.cfg.CallerKey.secrets(s.Host, caller{m.GetNumber(), m.GetCallerKey()}, d.term); err != nil {
			d.deps.Log.Warn("a machine cannot tell who calls from there; its addresses decide", "host", m.GetNumber(), "error", err)
			continue
		}
		for _, raw := range m.GetAddresses() {
			if a, err := policywire.DecodeAddress(raw); err == nil {
				h.Addresses = append(h.Addresses, a)
			}
		}
		for _, id := range m.GetIdentities() {
			h.Identities = append(h.Identities, policy.Identity(id))
		}
		s.Hosts = append(s.Hosts, h)
	}
	for _, b := range d.identity.GetBearers() {
		w := byID[b.GetWorkload()]
		switch {
		case w == nil:
		case model.WorkloadKind(w.Kind) == model.WorkloadHost:
			s.Bearers = append(s.Bearers, Bearer{b.Workload, policy.Identity(b.Identity), d.cfg.CgroupRoot})
		case w.Cgroup != "":
			s.Bearers = append(s.Bearers, Bearer{b.Workload, policy.Identity(b.Identity), filepath.Join(d.cfg.CgroupRoot, w.Cgroup)})
		}
	}
}

// renew applies the state again with the secrets of another term, once that has
// begun.
func (d *Datapath) renew(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.driver == nil || d.state == nil || len(d.state.Hosts) == 0 || d.term == TermOf(d.cfg.Now()) {
		return nil
	}
	_, err := d.apply(ctx)
	return err
}
