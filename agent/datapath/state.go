package datapath

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/model"
	"weft/policy"
	"weft/policy/classify"
)

// State is everything a machine enforces. Read only once it was handed to a driver.
type State struct {
	// Subjects are the workloads here, by Workload.
	Subjects []Subject
	// Addresses say who is where, and what else an address is; by prefix.
	Addresses []Address
	// Host is this machine's number among Hosts, the machines that tell one another
	// who calls, by Number. A driver that cannot read or write options goes by
	// addresses and ignores them.
	Host  uint32
	Hosts []PeerHost
	// Bearers are workloads here that tell it though no policy is about them, by
	// Workload.
	Bearers []Bearer
}

// Subject is a workload on this machine, and what it is judged by.
type Subject struct {
	Workload string // id on this machine
	Kind     model.WorkloadKind
	Identity policy.Identity
	Ruleset  *Ruleset // never nil
	// Cgroup is the directory of its cgroup: what is in it or below it belongs
	// to the subject, unless a longer one is another's. Empty for a guest.
	Cgroup string
	// NetNS is the path of its network namespace; empty for the machine's own.
	NetNS string
	// Interfaces are the machine's ends of its links: a container's veth, a
	// guest's port.
	Interfaces []string
	// Addresses are its own. A guest with any of a family has no others of it.
	Addresses []netip.Addr
	// Forwards is whether a guest sends on what others have sent.
	Forwards bool
	// Unnamed says that nothing of what its connections carry is looked at.
	Unnamed bool
	// Agent is whether a guest is a machine of the fleet itself.
	Agent bool
}

// Ruleset is what subjects are judged by. Two of one Key are the same.
type Ruleset struct {
	Key             string
	Mode            model.Mode
	Ingress, Egress *classify.Table
}

// Table returns one direction.
func (r *Ruleset) Table(d policy.Direction) *classify.Table {
	if d == policy.Egress {
		return r.Egress
	}
	return r.Ingress
}

// Address is who is at a range of addresses. The longest prefix counts; where
// none holds an address, it is the world's.
type Address struct {
	Prefix   netip.Prefix
	Identity policy.Identity
	// Entities are those of policy.Special, without self, which depends on who asks.
	Entities policy.EntitySet
}

// Sort puts everything in its order.
func (s *State) Sort() {
	slices.SortFunc(s.Subjects, func(a, b Subject) int { return cmp.Compare(a.Workload, b.Workload) })
	slices.SortFunc(s.Addresses, func(a, b Address) int { return model.ComparePrefix(a.Prefix, b.Prefix) })
	slices.SortFunc(s.Bearers, func(a, b Bearer) int { return cmp.Compare(a.Workload, b.Workload) })
	slices.SortFunc(s.Hosts, func(a, b PeerHost) int { return cmp.Compare(a.Number, b.Number) })
	for i := range s.Hosts {
		s.Hosts[i].sort()
	}
}

// Lookup returns who is at an address.
func (s *State) Lookup(a netip.Addr) Address {
	best := Address{}
	for _, x := range s.Addresses {
		if x.Prefix.Contains(a.Unmap()) && (!best.Prefix.IsValid() || x.Prefix.Bits() >= best.Prefix.Bits()) {
			best = x
		}
	}
	return best
}

// String prints the state, the same for the same state.
func (s *State) String() string {
	var b strings.Builder
	for i := range s.Subjects {
		x := &s.Subjects[i]
		fmt.Fprintf(&b, "subject %s %s identity %d ruleset %s", x.Workload, x.Kind, x.Identity, x.Ruleset.Key)
		for _, f := range [][2]string{{"cgroup", x.Cgroup}, {"netns", x.NetNS}, {"interfaces", strings.Join(x.Interfaces, ",")}} {
			if f[1] != "" {
				fmt.Fprintf(&b, " %s %s", f[0], f[1])
			}
		}
		if x.Forwards {
			b.WriteString(" forwards")
		}
		if x.Agent {
			b.WriteString(" agent")
		}
		b.WriteByte('\n')
	}
	for _, a := range s.Addresses {
		fmt.Fprintf(&b, "address %s identity %d %s\n", a.Prefix, a.Identity, a.Entities)
	}
	for _, x := range s.Bearers {
		fmt.Fprintf(&b, "bearer %s identity %d cgroup %s\n", x.Workload, x.Identity, x.Cgroup)
	}
	for i := range s.Hosts {
		fmt.Fprintln(&b, &s.Hosts[i])
	}
	return b.String()
}
