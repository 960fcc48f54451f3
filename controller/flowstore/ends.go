package flowstore

import (
	"net/netip"
	"sync"
	"time"

	"weft/controller/plan"
	"weft/internal/geoip"
	"weft/model"
	"weft/wire/flowwire"
)

// Inventory is what is known of machines and what is on them.
type Inventory interface {
	Workloads() []*model.Workload
	Interfaces() map[string][]model.Interface // by host name
	// InventoryChanged is closed when either may be another.
	InventoryChanged() <-chan struct{}
}

// Places says where addresses are and whose.
type Places interface{ Lookup(netip.Addr) geoip.Place }

// readAgain is how often, at most, the inventory is read anew.
const readAgain = time.Second

// ends finds out whose the ends of connections are.
type ends struct {
	inventory Inventory
	places    Places // nil knows none

	mu        sync.Mutex
	changed   <-chan struct{}
	read      time.Time
	byUID     map[string]*model.Workload
	directory *plan.Directory
}

// refresh reads the inventory where it has changed; urgent does not wait for its
// time. The lock is held.
func (e *ends) refresh(urgent bool) {
	if e.directory != nil {
		select {
		case <-e.changed:
		default:
			return
		}
		if !urgent && time.Since(e.read) < readAgain {
			return
		}
	}
	e.changed = e.inventory.InventoryChanged() // before reading, so that no change falls between
	list := e.inventory.Workloads()
	e.byUID = make(map[string]*model.Workload, len(list))
	for _, w := range list {
		e.byUID[w.Metadata.UID] = w
	}
	e.directory = plan.NewDirectory(list, e.inventory.Interfaces())
	e.read = time.Now()
}

// reporter is a host whose records are read.
type reporter struct {
	host, uid string
	places    Places
	byUID     map[string]*model.Workload
	directory *plan.Directory
}

// of is the reporter of records. Those of a workload that has just come are of
// one that the inventory may know already.
func (e *ends) of(host, uid string, records []flowwire.Record) reporter {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refresh(false)
	for i := range records {
		if e.byUID[plan.WorkloadUID(uid, records[i].Workload)] == nil {
			e.refresh(true)
			break
		}
	}
	return reporter{host, uid, e.places, e.byUID, e.directory}
}

// flow reads a record of a host.
func (r reporter) flow(x *flowwire.Record, reported time.Time) Flow {
	own := End{Address: x.Local.Addr(), Port: x.Local.Port()}
	w := r.byUID[plan.WorkloadUID(r.uid, x.Workload)]
	switch {
	case x.Observed:
		w = r.directory.Anywhere(own.Address)
	case x.Workload != "":
		own.Workload = r.host + ":" + x.Workload
	}
	if w != nil {
		own.Workload, own.Labels = w.Metadata.Name, w.Metadata.Labels
	}
	remote := x.Remote
	var dialled netip.AddrPort
	if x.Translated.IsValid() {
		if x.Egress {
			dialled = remote
		}
		remote = x.Translated
	}
	peer, known := End{Address: remote.Addr(), Port: remote.Port()}, x.Peer != 0
	if w := r.peer(&own, peer.Address, x); w != nil {
		peer.Workload, peer.Labels, known = w.Metadata.Name, w.Metadata.Labels, true
	}
	if own.Workload == "" {
		r.locate(&own)
	}
	if !known {
		r.locate(&peer)
	}
	a := x.Application
	if a.Protocol == "dns" {
		a.Host = "" // that was asked about, not the server's
	}
	f := Flow{
		Application: Application{Protocol: a.Protocol, Name: a.Host, ALPN: a.ALPN, Method: a.Method, Path: a.Path, Status: a.Status, Latency: x.Latency, Software: a.Software},
		Time:        reported, First: x.First, Last: x.Last, Host: r.host, AtServer: !x.Egress, Client: own, Server: peer, Protocol: x.Protocol,
		Process: x.Process.Exe, PID: x.Process.PID, User: x.Process.User, Command: x.Process.Comm, Name: x.Name, Dialled: dialled, Action: x.Action, Rule: uint64(x.Rule),
		New: x.New, Ended: x.Ended, Sent: model.Count(x.Sent), Received: model.Count(x.Received), RTT: x.RTT, Retransmits: x.Retransmits,
		TCPState: x.TCPState.String(), ClientFlags: x.SentFlags.String(), ServerFlags: x.ReceivedFlags.String(), Drops: x.Drops, DropReason: x.DropReason,
		Counted: x.Egress || !known,
	}
	if f.Observed = x.Observed; x.Observed { // the hosts of its ends have the connection too
		f.Counted = w == nil && !known
	}
	if !x.Egress {
		f.Client, f.Server = peer, own
		f.Sent, f.Received = f.Received, f.Sent
		f.ClientFlags, f.ServerFlags = f.ServerFlags, f.ClientFlags
	}
	return f
}

// locate says where an end is that is nobody's of the fleet.
func (r reporter) locate(e *End) {
	if r.places != nil {
		p := r.places.Lookup(e.Address)
		e.Country, e.AS, e.Organization = p.Country, p.AS, p.Organization
	}
}

// peer is the workload at the other end, nil where it is none or cannot be told.
func (r reporter) peer(own *End, a netip.Addr, x *flowwire.Record) *model.Workload {
	if x.Observed {
		return r.directory.Anywhere(a)
	}
	if x.Workload == "" {
		return nil // whoever reports is neither end, and cannot say whose they were
	}
	if a.IsLoopback() || a == own.Address {
		// Within one network namespace an address tells nobody apart.
		return r.byUID[plan.WorkloadUID(r.uid, x.Workload)]
	}
	return r.directory.Find(r.host, a)
}
