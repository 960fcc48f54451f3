package plan

import (
	"net/netip"

	"weft/model"
	"weft/policy"
)

// Directory finds the one workload that has an address, as seen from a host.
type Directory struct {
	workloads []*model.Workload
	fleet     claims
	own       map[string]claims
}

// NewDirectory reads workloads and the interfaces of their hosts.
func NewDirectory(workloads []*model.Workload, interfaces map[string][]model.Interface) *Directory {
	d := &Directory{workloads: workloads}
	places := make(map[string]policy.Identity, len(workloads)) // each is an identity of its own here
	for i, w := range workloads {
		places[w.Metadata.Name] = policy.Identity(i + 1)
	}
	d.fleet, d.own = addresses(workloads, interfaces, places)
	return d
}

// Find returns nil where nobody has the address, or more than one.
func (d *Directory) Find(host string, a netip.Addr) *model.Workload {
	a = a.Unmap()
	at, known := d.own[host][a]
	if other, taken := d.fleet[a]; taken {
		if known && other != at {
			return nil
		}
		at = other
	}
	if at == 0 {
		return nil
	}
	return d.workloads[at-1]
}

// Anywhere is Find for an address of which only the fleet's book can know.
func (d *Directory) Anywhere(a netip.Addr) *model.Workload { return d.Find("", a) }

// Len returns how many addresses a host would know if it had to know all.
func (d *Directory) Len(host string) int { return len(d.fleet) + len(d.own[host]) }
