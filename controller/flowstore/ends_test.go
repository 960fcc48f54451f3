package flowstore

import (
	"net/netip"
	"path/filepath"
	"testing"

	"weft/internal/geoip"
	"weft/internal/geoip/geoiptest"
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

// atlas is places by address.
type atlas map[netip.Addr]geoip.Place

func (a atlas) Lookup(x netip.Addr) geoip.Place { return a[x] }

// Only ends that are nobody's of the fleet have a place, whatever is known of their
// addresses.
func TestPlacesOfEnds(t *testing.T) {
	places := atlas{}
	for _, a := range []string{"10.0.0.1", "192.0.2.1", "192.0.2.2"} {
		places[netip.MustParseAddr(a)] = geoip.Place{Country: "NO", City: "Bergen", AS: 64500, Organization: "Example"}
	}
	for name, c := range map[string]struct {
		record         flowwire.Record
		client, server string
	}{
		"a member calls out":        {flowwire.Record{Workload: "host", Local: netip.MustParseAddrPort("192.0.2.1:5"), Remote: netip.MustParseAddrPort("192.0.2.2:80"), Egress: true}, "", "NO"},
		"somebody calls a member":   {flowwire.Record{Workload: "host", Local: netip.MustParseAddrPort("192.0.2.1:80"), Remote: netip.MustParseAddrPort("192.0.2.2:5")}, "NO", ""},
		"within the fleet":          {flowwire.Record{Workload: "host", Local: netip.MustParseAddrPort("192.0.2.1:5"), Remote: netip.MustParseAddrPort("192.0.2.2:80"), Egress: true, Peer: 9}, "", ""},
		"a file":                    {flowwire.Record{Local: netip.MustParseAddrPort("192.0.2.1:5"), Remote: netip.MustParseAddrPort("192.0.2.2:80"), Egress: true}, "NO", "NO"},
		"a mirror, from a member":   {flowwire.Record{Observed: true, Local: netip.MustParseAddrPort("10.0.0.1:5"), Remote: netip.MustParseAddrPort("192.0.2.2:80"), Egress: true}, "", "NO"},
		"where a NAT of the host's": {flowwire.Record{Workload: "host", Local: netip.MustParseAddrPort("192.0.2.1:5"), Remote: netip.MustParseAddrPort("192.0.2.9:80"), Translated: netip.MustParseAddrPort("192.0.2.2:80"), Egress: true}, "", "NO"},
	} {
		t.Run(name, func(t *testing.T) {
			e := ends{inventory: known{}, places: places}
			records := []flowwire.Record{c.record}
			from := e.of("probe", "p1", records)
			got := from.flow(&records[0], noon)
			if got.Client.Country != c.client || got.Server.Country != c.server || (got.Server.AS == 64500) != (c.server != "") || (got.Server.Organization == "Example") != (c.server != "") {
				t.Errorf("%+v", got)
			}
		})
	}
}

// What a flow's places cost is no memory of its own.
func TestPlacesDoNotAllocate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.mmdb")
	if err := geoiptest.Write(file, map[string]geoip.Place{"198.51.100.0/24": {Country: "NO", AS: 64500, Organization: "Example"}}); err != nil {
		t.Fatal(err)
	}
	db, err := geoip.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	records := []flowwire.Record{{Local: netip.MustParseAddrPort("198.51.100.1:5"), Remote: netip.MustParseAddrPort("198.51.100.2:80"), Egress: true}}
	e := ends{inventory: known{}, places: db}
	from := e.of("probe", "p1", records)
	n := byte(0)
	if allocated := testing.AllocsPerRun(1000, func() {
		n++
		records[0].Remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, n}), 80)
		if f := from.flow(&records[0], noon); f.Server.AS != 64500 || f.Client.Country != "NO" {
			t.Fatalf("%+v", f)
		}
	}); allocated > 0 {
		t.Errorf("%g allocations for a flow", allocated)
	}
}
