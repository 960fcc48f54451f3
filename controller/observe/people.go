package observe

import (
	"weft/controller/plan"
	"weft/model"
)

// people finds workloads by what agents report of them. It is made anew after a
// change of the inventory.
type people struct {
	byUID     map[string]*model.Workload
	byHost    map[string][]*model.Workload
	addresses *plan.Directory
}

// who is there now; the lock is held.
func (o *Observer) who() *people {
	if o.people != nil {
		return o.people
	}
	p := &people{byUID: map[string]*model.Workload{}, byHost: map[string][]*model.Workload{}, addresses: plan.NewDirectory(o.all(), o.interfaces())}
	for _, w := range o.all() {
		p.byUID[w.Metadata.UID] = w
		p.byHost[w.Spec.Host] = append(p.byHost[w.Spec.Host], w)
	}
	o.people = p
	return p
}
