package datapath

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"weft/model"
	"weft/policy"
	"weft/policy/classify"
	"weft/wire/wirepb"
)

// build puts the sections together with what is found here. A subject that is
// not here (any more) is left out, with its item.
func (d *Datapath) build() (*State, []*wirepb.ItemStatus) {
	facts, workloads := d.deps.Inventory()
	byID := map[string]*wirepb.Workload{}
	for _, w := range workloads {
		byID[w.Id] = w
	}
	s, items := &State{}, []*wirepb.ItemStatus{}
	known := map[netip.Addr]Address{}
	note := func(a netip.Addr, id policy.Identity, set policy.EntitySet) {
		a = a.Unmap()
		x := known[a]
		x.Prefix = netip.PrefixFrom(a, a.BitLen())
		if id != 0 {
			x.Identity = id
		}
		x.Entities |= set
		known[a] = x
	}
	for a, id := range d.fleet.addresses {
		note(a, id, 0)
	}
	for _, x := range d.identity.GetSubjects() {
		w := byID[x.GetWorkload()]
		if w == nil {
			items = append(items, &wirepb.ItemStatus{Item: x.GetWorkload(), State: "Gone", Message: "no such workload is here"})
			continue
		}
		subject := d.subject(x, w)
		s.Subjects = append(s.Subjects, subject)
		items = append(items, &wirepb.ItemStatus{Item: x.GetWorkload(), State: "Enforced"})
		if subject.Kind == model.WorkloadUnit {
			continue // its machine's addresses
		}
		for _, a := range subject.Addresses {
			note(a, subject.Identity, 0)
		}
	}
	d.metered(s, workloads)
	d.unnamed(s)
	host := policy.EntityBit(model.EntityHost)
	for _, a := range interfaceAddresses(facts) {
		note(a, hostIdentity(s), host)
	}
	for a, set := range d.deps.Known() {
		note(a, 0, set)
	}
	d.callers(s, byID)
	for _, x := range known {
		s.Addresses = append(s.Addresses, x)
	}
	s.Sort()
	return s, items
}

// unjudged is the ruleset of workloads whose connections are only metered.
var unjudged = &Ruleset{Key: "unjudged", Mode: model.ModeObserve, Ingress: allowAll(), Egress: allowAll()}

func allowAll() *classify.Table {
	return classify.Build(&policy.Table{Defaults: []policy.Default{{Action: model.ActionAllow}}}, nil)
}

// metered adds the workloads that no policy is about and whose connections are to
// be metered. To others they are whom their addresses say, and themselves tell
// what they would without that.
func (d *Datapath) metered(s *State, workloads []*wirepb.Workload) {
	if !d.flow.GetMeter() || d.driver != nil && !d.meters {
		return
	}
	left := map[string]bool{}
	for _, id := range d.flow.GetExempt() {
		left[id] = true
	}
	for i := range s.Subjects {
		left[s.Subjects[i].Workload] = true
	}
	for _, w := range workloads {
		if left[w.GetId()] {
			continue
		}
		x := d.subject(&wirepb.PolicySubject{}, w)
		x.Ruleset = unjudged
		s.Subjects = append(s.Subjects, x)
	}
}

// unnamed marks the subjects of whose connections nothing is to be read but headers.
func (d *Datapath) unnamed(s *State) {
	quiet := map[string]bool{}
	for _, list := range [][]string{d.flow.GetExempt(), d.flow.GetUnnamed()} {
		for _, id := range list {
			quiet[id] = true
		}
	}
	for i := range s.Subjects {
		x := &s.Subjects[i]
		x.Unnamed = !d.flow.GetMeter() || quiet[x.Workload]
	}
}

func (d *Datapath) subject(x *wirepb.PolicySubject, w *wirepb.Workload) Subject {
	out := Subject{Workload: w.Id, Kind: model.WorkloadKind(w.Kind), Identity: policy.Identity(x.GetIdentity()), Ruleset: d.rulesets.of(x.GetRuleset()), Interfaces: w.Interfaces}
	if out.Kind == model.WorkloadHost {
		out.Cgroup = d.cfg.CgroupRoot
	} else if w.Cgroup != "" {
		out.Cgroup = filepath.Join(d.cfg.CgroupRoot, w.Cgroup)
	}
	if out.Kind == model.WorkloadContainer {
		out.NetNS = otherNamespace(out.Cgroup)
	}
	guest := out.Kind == model.WorkloadGuest
	out.Forwards, out.Agent = guest && w.Labels["guest.forwards"] == "yes", guest && w.Labels["guest.agent"] == "yes"
	for _, text := range w.Addresses {
		if a, ok := readAddress(text); ok {
			out.Addresses = append(out.Addresses, a)
		}
	}
	return out
}

// readAddress reads "192.0.2.1" or "192.0.2.1/24".
func readAddress(text string) (netip.Addr, bool) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr().WithZone("").Unmap(), true
	}
	a, err := netip.ParseAddr(text)
	return a.WithZone("").Unmap(), err == nil
}

// interfaceAddresses are the machine's own. Loopback is left out: it is
// everybody's.
func interfaceAddresses(facts *wirepb.HostFacts) []netip.Addr {
	var out []netip.Addr
	for _, i := range facts.GetInterfaces() {
		for _, text := range i.GetAddresses() {
			if a, ok := readAddress(text); ok && !a.IsLoopback() {
				out = append(out, a)
			}
		}
	}
	return out
}

func hostIdentity(s *State) policy.Identity {
	for i := range s.Subjects {
		if s.Subjects[i].Kind == model.WorkloadHost {
			return s.Subjects[i].Identity
		}
	}
	return 0
}

// otherNamespace is the path of the network namespace of the processes in a
// cgroup, empty where it is this one or nobody is there.
func otherNamespace(dir string) string {
	var own, theirs unix.Stat_t
	if unix.Stat("/proc/self/ns/net", &own) != nil {
		return ""
	}
	raw, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return ""
	}
	for _, pid := range strings.Fields(string(raw)) {
		path := "/proc/" + pid + "/ns/net"
		if unix.Stat(path, &theirs) != nil {
			continue
		}
		if theirs.Ino == own.Ino && theirs.Dev == own.Dev {
			return ""
		}
		return path
	}
	return ""
}
