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
	// Drivers are those that may be used, the preferred first. The first that
	// opens is, when there is something to enforce.
	Drivers []Choice
	// Inventory is what is found on this machine.
	Inventory func() (*wirepb.HostFacts, []*wirepb.Workload)
	// Known are addresses that are more than a workload's: resolvers, the
	// controller, relays, the metadata service.
	Known func() map[netip.Addr]policy.EntitySet
	Log   *slog.Logger
}

// Choice is a driver that may be used.
type Choice struct {
	Name string
	Open func() (Driver, error)
	// Left says whether the driver has left something in the kernel.
	Left func() bool
	// Past is set for one that is not to be used any more, and is named so that
	// what it has left is taken over.
	Past bool
}

// Datapath is the reconciler of the sections "policy" and "identity": it puts
// them together with what is found here and hands the whole to a driver.
type Datapath struct {
	cfg  Config
	deps Deps

	mu       sync.Mutex
	driver   Driver
	others   []Driver // that were here before, until the first Apply
	policy   *wirepb.PolicySection
	identity *wirepb.IdentitySection
	waiting  time.Time // since when the two do not fit one another
	rulesets rulesets
	fleet    fleet
	state    *State
	term     uint64 // of the secrets in state
	talks    talks
	drift    drift
	trouble  trouble
	forged   trouble // proofs of who calls that are not good
	unknown  trouble
}

// New makes an inert Datapath.
func New(cfg Config, deps Deps) (*Datapath, error) {
	if len(deps.Drivers) == 0 || deps.Inventory == nil {
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

// verifyEvery and deepEvery are how often the kernel is compared with what should
// be there, at a glance and whole.
const (
	verifyEvery = 500 * time.Millisecond
	deepEvery   = 30 * time.Second
)

// Run reads the connection table, and repairs what somebody has changed, until
// ctx ends. What is in force stays.
func (d *Datapath) Run(ctx context.Context, ready func()) error {
	read, verify, deep := time.NewTicker(d.cfg.Every), time.NewTicker(verifyEvery), time.NewTicker(deepEvery)
	defer read.Stop()
	defer verify.Stop()
	defer deep.Stop()
	defer d.close()
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-read.C:
			if err := d.collect(); err != nil {
				d.deps.Log.Warn("read the connection table", "error", err)
			}
			if err := d.renew(ctx); err != nil {
				d.deps.Log.Warn("renew the secrets for telling who calls", "error", err)
			}
		case <-verify.C:
			d.verify(false)
		case <-deep.C:
			d.verify(true)
		}
	}
}

// remove takes everything away: no policy is about this machine (any more), and
// then no packet is to be touched.
func (d *Datapath) remove() error {
	d.waiting, d.state = time.Time{}, nil
	if d.driver != nil {
		if err := d.driver.Remove(); err != nil {
			return fmt.Errorf("remove policy: %w", err)
		}
		d.deps.Log.Info("no policy is about this machine: nothing is judged here any more", "driver", d.driver.Name())
		d.driver = nil
	}
	for _, c := range d.deps.Drivers {
		if !c.Left() {
			continue
		}
		old, err := c.Open()
		if err == nil {
			err = old.Remove()
		}
		if err != nil {
			return fmt.Errorf("remove what the datapath driver %s has left: %w", c.Name, err)
		}
	}
	return nil
}

// open takes the first driver that opens. Where another has left its work behind,
// the connections it has tracked are taken over before the new one judges any.
func (d *Datapath) open(ctx context.Context, s *State) error {
	var errs []error
	for _, c := range d.deps.Drivers {
		if c.Past {
			continue
		}
		driver, err := c.Open()
		if err != nil {
			errs = append(errs, fmt.Errorf("open the datapath driver %s: %w", c.Name, err))
			continue
		}
		if len(errs) > 0 {
			d.deps.Log.Warn("a datapath driver cannot be used here", "error", errors.Join(errs...), "instead", c.Name)
		}
		if err := d.takeOver(ctx, driver, s); err != nil {
			d.deps.Log.Warn("take over connections of another datapath driver; those that are open may break", "error", err)
		}
		d.deps.Log.Info("datapath driver", "driver", c.Name)
		d.driver = driver
		return nil
	}
	return fmt.Errorf("%w; nothing is enforced here that was not before", errors.Join(errs...))
}

// takeOver hands a driver the connections of those that were here before it. They
// go on enforcing until it does.
func (d *Datapath) takeOver(ctx context.Context, driver Driver, s *State) error {
	for _, c := range d.deps.Drivers {
		if c.Name == driver.Name() || !c.Left() {
			continue
		}
		old, err := c.Open()
		if err != nil {
			return err
		}
		d.others = append(d.others, old)
		if err := old.Apply(ctx, s); err != nil { // it tells connections by the state
			return err
		}
		var list []Connection
		if err := old.Connections(func(x *Connection) bool { list = append(list, *x); return true }); err != nil {
			return err
		}
		if err := driver.Adopt(s, list); err != nil {
			return err
		}
		d.deps.Log.Info("connections taken over from another datapath driver", "driver", old.Name(), "connections", len(list))
	}
	return nil
}

// removeOthers takes away what other drivers did, once this one does it.
func (d *Datapath) removeOthers() error {
	var errs []error
	for _, old := range d.others {
		if err := old.Remove(); err != nil {
			errs = append(errs, fmt.Errorf("remove what the datapath driver %s has left: %w", old.Name(), err))
		}
	}
	d.others = nil
	return errors.Join(errs...)
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
	if d.policy == nil || d.identity == nil {
		return nil, nil
	}
	if len(d.identity.Subjects) == 0 && (len(d.identity.Bearers) == 0 || d.cfg.CallerKey == nil) {
		return nil, d.remove()
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
		if err := d.open(ctx, state); err != nil {
			return items, err
		}
	}
	if err := d.driver.Apply(ctx, state); err != nil {
		return items, err
	}
	d.state = state
	return items, d.removeOthers()
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
	troubles, err := d.driver.Troubles()
	if err != nil {
		return err
	}
	d.trouble.look(troubles)
	if w, knows := d.driver.(Witness); knows {
		forged, unknown, err := w.Disbelieved()
		if err != nil {
			return err
		}
		if before := d.forged.last; d.forged.look(forged) && before.IsZero() {
			d.deps.Log.Error("somebody calls under a proof of who calls that is not good", "found", d.forged.String())
		}
		d.unknown.look(unknown)
	}
	return nil
}
