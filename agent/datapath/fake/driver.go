// Package fake is a datapath driver without a kernel: it judges what a test
// offers it, keeps a connection table, prints itself, and fails on request.
package fake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"weft/agent/connection"
	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
	"weft/policy/classify"
)

// Kernel is what outlives a driver. Drivers opened on one kernel are restarts of
// one another.
type Kernel struct {
	mu       sync.Mutex
	state    *datapath.State
	revision uint32
	table    map[end]*connection.Line
	denied   map[end]*connection.Line
	counts   map[policy.RuleID]*datapath.RuleCount
}

// end is one end of a connection.
type end struct {
	workload string
	connection.Key
}

// NewKernel returns an empty one.
func NewKernel() *Kernel {
	k := &Kernel{}
	k.clear()
	return k
}

func (k *Kernel) clear() {
	k.state = nil
	k.table, k.denied, k.counts = map[end]*connection.Line{}, map[end]*connection.Line{}, map[policy.RuleID]*datapath.RuleCount{}
}

// InForce says whether a driver has left something.
func (k *Kernel) InForce() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.state != nil
}

// Driver works on a Kernel.
type Driver struct {
	*Kernel
	// Fail, unless nil, is asked before each Apply.
	Fail func() error
}

var _ datapath.Driver = (*Driver)(nil)

// Open returns a driver on a kernel.
func Open(k *Kernel) *Driver { return &Driver{Kernel: k} }

// Name is fake.
func (d *Driver) Name() string { return "fake" }

// Apply takes the state over.
func (d *Driver) Apply(_ context.Context, s *datapath.State) error {
	if d.Fail != nil {
		if err := d.Fail(); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = s
	d.revision++
	return nil
}

// Adopt puts connections into the table.
func (d *Driver) Adopt(_ *datapath.State, list []connection.Line) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range list {
		if at := (end{c.Workload, c.Key}); d.table[at] == nil && c.Action == model.ActionAllow {
			d.table[at] = &c
		}
	}
	return nil
}

// Connections visits the table and what was turned down.
func (d *Driver) Connections(visit func(*connection.Line) bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range []map[end]*connection.Line{d.table, d.denied} {
		for _, c := range m {
			if !visit(c) {
				return nil
			}
		}
	}
	return nil
}

// Forget does nothing: no line ends here.
func (d *Driver) Forget() error { return nil }

// Counts returns what each rule has done.
func (d *Driver) Counts() ([]datapath.RuleCount, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []datapath.RuleCount
	for _, c := range d.counts {
		out = append(out, *c)
	}
	return out, nil
}

// Verify finds nothing: nobody else is here.
func (d *Driver) Verify(bool) ([]string, error) { return nil, nil }

// Troubles are none.
func (d *Driver) Troubles() (map[string]uint64, error) { return nil, nil }

// Close leaves the kernel as it is.
func (d *Driver) Close() error { return nil }

// Remove empties the kernel.
func (d *Driver) Remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clear()
	return nil
}

// String prints the state in force.
func (d *Driver) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == nil {
		return "nothing in force\n"
	}
	return d.state.String()
}

// Offer is one packet at one end.
type Offer struct {
	Workload  string           // whose end it is
	Direction policy.Direction // of this packet, seen from the workload
	connection.Key
	Begins  bool // may be a connection's first
	Bytes   uint64
	Port    uint16     // of the first packet, as rules' ports are matched
	Peer    policy.End // what this end knows of the other
	By      connection.PeerBy
	Process connection.Process
}

// Send judges a packet and says what becomes of it.
func (k *Kernel) Send(o Offer) model.Action {
	k.mu.Lock()
	defer k.mu.Unlock()
	subject := k.subject(o.Workload)
	if subject == nil {
		return model.ActionAllow
	}
	at := end{o.Workload, o.Key}
	c := k.table[at]
	if c == nil {
		return k.first(subject, at, &o)
	}
	if c.Revision != k.revision {
		v := k.judge(subject, c.Direction, &o)
		c.Revision, c.Action, c.Rule = k.revision, v.Action, ruleID(v.Rule)
	}
	if c.Action == model.ActionAllow {
		count(c, &o)
	}
	k.count(c.Rule, 0, o.Bytes)
	return c.Action
}

func (k *Kernel) subject(workload string) *datapath.Subject {
	if k.state == nil {
		return nil
	}
	i := slices.IndexFunc(k.state.Subjects, func(s datapath.Subject) bool { return s.Workload == workload })
	if i < 0 {
		return nil
	}
	return &k.state.Subjects[i]
}

func (k *Kernel) judge(s *datapath.Subject, d policy.Direction, o *Offer) classify.Verdict {
	return s.Ruleset.Table(d).Judge(&policy.End{Identity: s.Identity, Process: model.PolicyProcess{Exe: o.Process.Exe, User: "root"}}, &o.Peer, o.Protocol, o.Port)
}

func (k *Kernel) first(s *datapath.Subject, at end, o *Offer) model.Action {
	v := k.judge(s, o.Direction, o)
	if !o.Begins && !(v.Action == model.ActionAllow && !v.Stateful) {
		return model.ActionDeny // the middle of nothing
	}
	c := &connection.Line{Key: o.Key, Workload: o.Workload, Identity: s.Identity, PeerIdentity: o.Peer.Identity, PeerBy: o.By, PeerEntities: o.Peer.Entities & policy.Special,
		Direction: o.Direction, Action: v.Action, Rule: ruleID(v.Rule), Port: o.Port, Revision: k.revision, Process: o.Process, First: time.Now()}
	count(c, o)
	k.count(c.Rule, 1, o.Bytes)
	switch {
	case v.Action != model.ActionAllow:
		k.denied[at] = c
	case v.Stateful:
		k.table[at] = c
	}
	return v.Action
}

func ruleID(r *policy.Rule) policy.RuleID {
	if r == nil {
		return 0
	}
	return r.ID
}

func count(c *connection.Line, o *Offer) {
	c.Last = time.Now()
	side := &c.Received
	if o.Direction == policy.Egress {
		side = &c.Sent
	}
	side.Packets++
	side.Bytes += o.Bytes
}

func (k *Kernel) count(rule policy.RuleID, connections, bytes uint64) {
	c := k.counts[rule]
	if c == nil {
		c = &datapath.RuleCount{Rule: rule}
		k.counts[rule] = c
	}
	c.Connections += connections
	c.Packets++
	c.Bytes += bytes
}

// ErrInjected is what FailSome makes an Apply fail with.
var ErrInjected = errors.New("injected failure")

// FailSome makes each n-th Apply fail.
func FailSome(n int) func() error {
	calls := 0
	return func() error {
		if calls++; calls%n == 0 {
			return fmt.Errorf("apply %d: %w", calls, ErrInjected)
		}
		return nil
	}
}
