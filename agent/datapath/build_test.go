package datapath

import (
	"testing"

	"weft/model"
	"weft/wire/wirepb"
)

// A guest has no cgroup, the addresses that are stated, and forwards where its port's
// mark says so; a label of that name makes nobody else a router.
func TestGuestAsSubject(t *testing.T) {
	d := &Datapath{cfg: Config{CgroupRoot: "/cgroup"}}
	w := &wirepb.Workload{Id: "guest/fw", Kind: "guest", Interfaces: []string{"vnet0"}, Addresses: []string{"192.0.2.5"}, Labels: map[string]string{"guest.forwards": "yes", "guest.agent": "yes"}}
	x := d.subject(&wirepb.PolicySubject{Workload: w.Id, Identity: 3}, w)
	if x.Kind != model.WorkloadGuest || x.Cgroup != "" || x.NetNS != "" || !x.Forwards || !x.Agent || len(x.Addresses) != 1 || len(x.Interfaces) != 1 {
		t.Errorf("%+v", x)
	}
	w.Kind, w.Cgroup = "container", "/c"
	if x := d.subject(&wirepb.PolicySubject{Workload: w.Id}, w); x.Forwards || x.Agent {
		t.Errorf("%+v", x)
	}
}
