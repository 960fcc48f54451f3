package flowstore

import (
	"net/netip"
	"testing"

	"weft/model"
	"weft/wire/flowwire"
)

// known is an inventory of one machine with one address.
type known struct{}

func (known) Workloads() []*model.Workload {
	w := model.MustKind(model.KindWorkload).New().(*model.Workload)
	w.Metadata.Name, w.Metadata.UID, w.Metadata.Labels = "web-1", "w1", map[string]string{"app": "web"}
	w.Spec.Host, w.Spec.Kind, w.Spec.Addresses = "web-1", model.WorkloadHost, []string{"10.0.0.1"}
	return []*model.Workload{w}
}

func (known) Interfaces() map[string][]model.Interface {
	return map[string][]model.Interface{"web-1": {{Name: "eth0", Uplink: true, Addresses: []string{"10.0.0.1/24"}}}}
}

func (known) InventoryChanged() <-chan struct{} { return make(chan struct{}) }

// Who only saw packets is neither end; where a machine of the fleet is one, its own
// report is what counts.
func TestEndsOfWhatWasObserved(t *testing.T) {
	for name, c := range map[string]struct {
		observed       bool
		local, remote  string
		client, server string
		counted        bool
	}{
		"a mirror, strangers":     {true, "192.0.2.1:5", "192.0.2.2:80", "", "", true},
		"a mirror, to a member":   {true, "192.0.2.1:5", "10.0.0.1:80", "", "web-1", false},
		"a mirror, from a member": {true, "10.0.0.1:5", "192.0.2.2:80", "web-1", "", false},
		"a file":                  {false, "10.0.0.1:5", "192.0.2.2:80", "", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			e := ends{inventory: known{}}
			records := []flowwire.Record{{Local: netip.MustParseAddrPort(c.local), Remote: netip.MustParseAddrPort(c.remote), Protocol: 6, Egress: true, Observed: c.observed}}
			f := e.of("probe", "p1", records)
			got := f.flow(&records[0], noon)
			if got.Client.Workload != c.client || got.Server.Workload != c.server || got.Counted != c.counted || got.Host != "probe" {
				t.Errorf("%+v", got)
			}
		})
	}
}
