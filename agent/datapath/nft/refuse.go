package nft

import (
	"fmt"
	"slices"
	"strings"

	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
)

// UnsupportedError lists what nftables cannot enforce. The subjects it names
// keep the last ruleset that was applied to them; all others have the new state.
type UnsupportedError struct {
	Subjects []UnsupportedSubject
}

// UnsupportedSubject is a workload and the reasons against it.
type UnsupportedSubject struct {
	Workload string
	Reasons  []string
}

func (e *UnsupportedError) Error() string {
	var b strings.Builder
	b.WriteString("nftables cannot enforce what is asked; run a kernel with BPF (5.10 or later with BTF) or change the policy")
	for _, s := range e.Subjects {
		fmt.Fprintf(&b, "\n%s: %s", s.Workload, strings.Join(s.Reasons, "; "))
	}
	return b.String()
}

// Is says that all else is in force.
func (e *UnsupportedError) Is(target error) bool { return target == datapath.ErrPartly }

// refuse returns why a subject cannot be enforced, or nothing.
func refuse(s *datapath.Subject) []string {
	var out []string
	if s.Kind == model.WorkloadGuest {
		out = append(out, "a guest's port is bridged, and connection tracking does not reach it there")
	}
	for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
		t := s.Ruleset.Table(d)
		for _, r := range t.Rules() {
			why := ""
			switch {
			case len(r.Processes) > 0:
				why = "the subject's processes"
			case slices.ContainsFunc(r.Peers, func(p policy.Peer) bool { return len(p.Processes) > 0 }):
				why = "the peer's processes"
			case slices.ContainsFunc(r.Peers, func(p policy.Peer) bool { return len(p.Names) > 0 }):
				why = "domain names"
			}
			if why != "" {
				out = append(out, fmt.Sprintf("policy %s, %s rule %s: %s", r.Policy, d, r.Name, why))
			}
		}
		for _, x := range t.Defaults {
			if len(x.Processes) > 0 {
				out = append(out, fmt.Sprintf("%s default: the subject's processes", d))
				break
			}
		}
	}
	return out
}
