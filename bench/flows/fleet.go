package main

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	"weft/internal/geoip"
	"weft/internal/geoip/geoiptest"
	"weft/model"
	"weft/policy"
	"weft/wire"
	"weft/wire/flowwire"
	"weft/wire/wirepb"
)

// The fleet that talks: hosts of applications in three tiers, and the world.
const (
	hostCount = 500
	appCount  = 40
	// peerCount is how many machines, and how many names of the world, a host talks
	// to.
	peerCount = 40
)

// fleet makes what agents would send, the same for the same seed.
type fleet struct {
	*rand.Rand
	workloads []*model.Workload
	faces     map[string][]model.Interface
	addresses []netip.Addr
	names     []string // in the world
	world     []netip.Addr
	processes []flowwire.Process
	popular   *rand.Zipf // peers of a host: few have most of its connections
	numbers   []uint64   // of batches, by host
	epoch     uint64
}

func newFleet(seed uint64) *fleet {
	f := &fleet{Rand: rand.New(rand.NewPCG(seed, 17)), faces: map[string][]model.Interface{}, numbers: make([]uint64, hostCount), epoch: 1}
	f.popular = rand.NewZipf(f.Rand, 1.2, 4, peerCount-1)
	for i := range hostCount {
		name := fmt.Sprintf("app%02d-%03d", i%appCount, i)
		w := &model.Workload{}
		w.Metadata.Name, w.Metadata.UID = name, uid(i)+"/host"
		w.Metadata.Labels = map[string]string{"app": fmt.Sprintf("app%02d", i%appCount), "tier": []string{"web", "api", "db"}[i%3], "env": []string{"prod", "stage"}[i%7/6], "os.id": "debian", "cloud.region": fmt.Sprintf("eu-%d", i%4)}
		w.Spec.Kind, w.Spec.Host = model.WorkloadHost, name
		f.workloads = append(f.workloads, w)
		a := netip.AddrFrom4([4]byte{10, 20, byte(i >> 8), byte(i)})
		f.addresses = append(f.addresses, a)
		f.faces[name] = []model.Interface{{Name: "eth0", Addresses: []string{a.String() + "/16"}}}
	}
	for i := range 5000 {
		f.names = append(f.names, fmt.Sprintf("service-%d.region-%d.example.org", i, i%9))
		f.world = append(f.world, netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}))
	}
	for i := range 60 {
		f.processes = append(f.processes, flowwire.Process{Exe: fmt.Sprintf("/usr/lib/service-%d/bin/daemon-%d", i/3, i), User: []string{"root", "www-data", "app", "postgres"}[i%4], Comm: fmt.Sprintf("daemon-%d", i)})
	}
	return f
}

// places writes where the world is, and whose, into a file, and reads it: a network
// of 64 addresses is in one country and of one of 70 systems.
func places(dir string) (*geoip.DB, error) {
	networks := map[string]geoip.Place{}
	for i := range 80 {
		networks[fmt.Sprintf("198.18.%d.%d/26", i/4, i%4*64)] = geoip.Place{Country: string([]byte{'A' + byte(i%5), 'A' + byte(i%8)}), AS: uint32(64500 + 37*(i%70)), Organization: fmt.Sprintf("Example Networks %d, Inc.", i%70)}
	}
	file := filepath.Join(dir, "places.mmdb")
	if err := geoiptest.Write(file, networks); err != nil {
		return nil, err
	}
	db, err := geoip.Open(file)
	return db, errors.Join(err, os.Remove(file))
}

func uid(host int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", host) }

// Workloads, Interfaces and InventoryChanged are the inventory of the fleet.
func (f *fleet) Workloads() []*model.Workload             { return f.workloads }
func (f *fleet) Interfaces() map[string][]model.Interface { return f.faces }
func (f *fleet) InventoryChanged() <-chan struct{}        { return nil }

// message is a batch as it is on the wire, and whose it is.
type message struct {
	id      wire.Identity
	bytes   []byte
	records int
}

// messages makes batches of a number of records in all, reported up to a time
// and not longer ago than a while.
func (f *fleet) messages(records int, until time.Time, while time.Duration) ([]message, error) {
	var out []message
	for records > 0 {
		host := f.IntN(hostCount)
		n := min(records, 2000+f.IntN(4000))
		records -= n
		at := until.Add(-time.Duration(f.Int64N(int64(while))))
		list := make([]flowwire.Record, n)
		for i := range list {
			list[i] = f.record(host, at)
		}
		b, err := flowwire.Encode(at, list)
		if err != nil {
			return nil, err
		}
		f.numbers[host]++
		b.Epoch, b.Number = f.epoch, f.numbers[host]
		data, err := proto.Marshal(b)
		if err != nil {
			return nil, err
		}
		out = append(out, message{wire.Identity{TrustDomain: "bench", Role: model.RoleHost, Name: f.workloads[host].Metadata.Name, UID: uid(host)}, data, n})
	}
	return out, nil
}

func (f *fleet) record(host int, at time.Time) flowwire.Record {
	peer := int(f.popular.Uint64())
	process := f.processes[(host+peer%4)%len(f.processes)]
	process.PID = uint32(400 + host%90*7 + f.IntN(6))
	took := time.Duration(f.ExpFloat64() * float64(2*time.Second))
	size := uint64(math.Exp(6+2.2*f.NormFloat64())) + 120 // of most little, of few very much
	r := flowwire.Record{
		Workload: "host", Process: process, Protocol: 6, Egress: true, New: true, Ended: f.IntN(10) > 0, Action: model.ActionAllow, Rule: policy.RuleID(0x9e3779b97f4a7c15 * uint64(1+(host%appCount*5+peer)%200)),
		First: at.Add(-took), Last: at.Add(-time.Duration(f.IntN(1000)) * time.Millisecond), NetNS: 1,
		Sent: flowwire.Count{Packets: 4 + size/1400, Bytes: size}, Received: flowwire.Count{Packets: 4 + size/300, Bytes: 5 * size}, RTT: time.Duration(80+f.ExpFloat64()*400) * time.Microsecond,
	}
	local, ephemeral := f.addresses[host], uint16(32768+f.IntN(28000))
	service := []uint16{443, 5432, 8080, 6379, 9092}[peer%5]
	switch f.IntN(10) {
	case 0, 1: // the world, by name
		n := (host*53 + peer*131) % len(f.names)
		r.Name, r.Remote = f.names[n], netip.AddrPortFrom(f.world[n], 443)
	case 2: // resolving
		r.Protocol, r.RTT, r.Sent, r.Received = 17, 0, flowwire.Count{Packets: 1, Bytes: 70}, flowwire.Count{Packets: 1, Bytes: 160}
		r.Remote = netip.AddrPortFrom(f.addresses[f.IntN(2)], 53)
	case 3, 4, 5: // who is called
		r.Egress, r.Peer = false, 7
		r.Remote = netip.AddrPortFrom(f.addresses[(host*17+peer*29)%hostCount], ephemeral)
		ephemeral = service
	default:
		r.Remote = netip.AddrPortFrom(f.addresses[(host*7+peer*31)%hostCount], service)
	}
	if f.IntN(50) == 0 {
		r.Retransmits = uint32(1 + f.IntN(4))
	}
	if f.IntN(100) == 0 {
		r.Action, r.Refused, r.Received = model.ActionDeny, true, flowwire.Count{}
	}
	r.Local = netip.AddrPortFrom(local, ephemeral)
	return r
}

// message's batch, as a session reads it.
func (m *message) batch() (*wirepb.FlowBatch, error) {
	b := &wirepb.FlowBatch{}
	return b, proto.Unmarshal(m.bytes, b)
}
