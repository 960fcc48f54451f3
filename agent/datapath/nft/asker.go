package nft

import (
	"net/netip"
	"slices"
	"strings"

	"weft/agent/datapath"
	"weft/policy"
	"weft/policy/classify"
)

// asker is one direction of a ruleset, for one subject where it asks for itself.
type asker struct {
	name  string
	role  policy.Direction
	table *classify.Table
	owner string
}

// own notes the subject's addresses where its rules ask for itself.
func (p *plan) own(owners map[netip.Addr]string, s *datapath.Subject, addresses []netip.Addr, order []string, askers map[string]asker) {
	if !slices.ContainsFunc(order, func(n string) bool { return askers[n].owner == s.Workload }) {
		return
	}
	for _, a := range addresses {
		if at := ownerMark(s.Workload); !strings.Contains(owners[a.Unmap()], at) {
			owners[a.Unmap()] += at
		}
	}
}

func ownerMark(workload string) string { return "\x00" + workload + "\x00" }
