package datapath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"weft/policy"
	"weft/wire/wirepb"
)

// Config of a Datapath.
type Config struct {
	// CgroupRoot is the directory below which workloads' cgroups are.
	CgroupRoot string
	// CallerKey, unless nil, is for telling other machines who calls, and for
	// believing them.
	CallerKey *CallerKey
	// Now is the wall clock; time.Now unless given.
	Now func() time.Time
	// Every is how often the connection table is read; 1 s unless given.
	Every time.Duration
}

// Deps of a Datapath.
type Deps struct {
	// Open opens the driver; called once, when there is something to enforce.
	Open func() (Driver, error)
	// Inventory is what is found on this machine.
	Inventory func() (*wirepb.HostFacts, []*wirepb.Workload)
	// Known are addresses that are more than a workload's: resolvers, the
	// controller, relays, the metadata service.
	Known func() map[netip.Addr]policy.EntitySet
	Log   *slog.Logger
}

// Datapath is the reconciler of the sections "policy" and "identity": it puts
// them together with what is found here and hands the whole to a driver.
type Datapath struct {
	cfg  Config
	deps Deps

	mu       sync.Mutex
	driver   Driver
	policy   *wirepb.PolicySection
	identity *wirepb.IdentitySection
	waiting  time.Time // since when the two do not fit one another
	rulesets rulesets
	fleet    fleet
	state    *State
	term     uint64 // of the secrets in state
	talks    talks
}

// New makes an inert Datapath.
func New(cfg Config, deps Deps) (*Datapath, error) {
	if deps.Open == nil || deps.Inventory == nil {
		return nil, errors.New("datapath needs a driver and an inventory")
	}
	if deps.Known == nil {
		deps.Known = func() map[netip.Addr]policy.EntitySet { return nil }
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Every == 0 {
		cfg.Every = time.Second
	}
	return &Datapath{cfg: cfg, deps: deps, talks: newTalks()}, nil
}

// Run reads the connection table until ctx ends. What is in force stays.
func (d *Datapath) Run(ctx context.Context, ready func()) error {
	tick := time.NewTicker(d.cfg.Every)
	defer tick.Stop()
	defer d.close()
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := d.collect(); err != nil {
				d.deps.Log.Warn("read the connection table", "error", err)
			}
			if err := d.renew(ctx); err != nil {
				d.deps.Log.Warn("renew the secrets for telling who calls", "error", err)
			}
		}
	}
}

func (d *Datapath) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.driver == nil {
		return
	}
	if err := d.driver.Close(); err != nil {
		d.deps.Log.Warn("close the datapath driver", "error", err)
	}
	d.driver = nil
}

// ApplyPolicy makes the rulesets of a section hold.
func (d *Datapath) ApplyPolicy(ctx context.Context, s *wirepb.PolicySection) ([]*wirepb.ItemStatus, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.policy = s
	return d.apply(ctx)
}

// ApplyIdentity makes a section of who is who hold.
func (d *Datapath) ApplyIdentity(ctx context.Context, s *wirepb.IdentitySection) ([]*wirepb.ItemStatus, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.identity = s
	return d.apply(ctx)
}

// patience is how long one section may be ahead of the other before that is an
// error: they arrive one after the other.
const patience = 2 * time.Second

// apply makes both sections hold. The lock is held.
func (d *Datapath) apply(ctx context.Context) ([]*wirepb.ItemStatus, error) {
	if d.policy == nil || d.identity == nil || d.driver == nil && len(d.identity.Subjects)+len(d.identity.Bearers) == 0 {
		return nil, nil // nothing to enforce, and nothing that was
	}
	fleet, err := readFleet(d.identity, d.fleet)
	if err != nil {
		return nil, err
	}
	rulesets, err := readRulesets(d.policy, fleet, d.rulesets)
	if err != nil {
		return nil, err
	}
	if missing := rulesets.missing(d.identity); missing != "" {
		if d.waiting.IsZero() {
			d.waiting = time.Now()
		}
		if time.Since(d.waiting) > patience {
			return nil, fmt.Errorf("the sections policy and identity do not fit one another: %s is missing; what was in force stays", missing)
		}
		return []*wirepb.ItemStatus{{Item: "rulesets", State: "Waiting", Message: missing + " has not come yet"}}, nil
	}
	d.waiting = time.Time{}
	d.fleet, d.rulesets = fleet, rulesets
	state, items := d.build()
	if d.driver == nil {
		if d.driver, err = d.deps.Open(); err != nil {
			d.driver = nil
			return items, fmt.Errorf("open the datapath driver: %w; nothing is enforced here that was not before", err)
		}
		d.deps.Log.Info("datapath driver", "driver", d.driver.Name())
	}
	if err := d.driver.Apply(ctx, state); err != nil {
		return items, err
	}
	d.state = state
	return items, nil
}

// Report is what has happened since the last one; nil where nothing has. Give it
// back with Restore where it could not be sent.
func (d *Datapath) Report() *wirepb.PolicyReport {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.driver == nil {
		return nil
	}
	return d.talks.take(d.driver.Name())
}

// Restore takes a report back that nobody has received.
func (d *Datapath) Restore(r *wirepb.PolicyReport) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.talks.restore(r)
}

// collect reads the driver's table and counts.
func (d *Datapath) collect() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.driver == nil || d.state == nil {
		return nil
	}
	staged := map[string]*Ruleset{}
	for _, x := range d.identity.GetSubjects() {
		staged[x.Workload] = d.rulesets.of(x.Staged)
	}
	d.talks.begin()
	err := d.driver.Connections(func(c *Connection) bool {
		d.talks.add(c, staged[c.Workload])
		return true
	})
	if err != nil {
		return err
	}
	counts, err := d.driver.Counts()
	if err != nil {
		return err
	}
	d.talks.counts(counts)
	return nil
}
