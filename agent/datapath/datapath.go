package datapath

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weft/agent/connection"
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
	// Meter, unless nil, is shown every line of the connection table each time it
	// is read, but for those of workloads that are not to be metered.
	Meter Meter
	Log   *slog.Logger
}

// Meter follows what connections do.
type Meter interface {
	// Begin starts a reading of the table.
	Begin()
	// See is handed a line, which is its own only until it returns.
	See(*connection.Line)
	// End ends the reading; whole says that every line was shown. What has been
	// seen to end is forgotten by the table only after it.
	End(whole bool) error
	// Gone says that the table is, and all in it.
	Gone() error
}

// Choice is a driver that may be used.
type Choice struct {
	Name string
	Open func() (Driver, error)
	// Left says whether the driver has left something in the kernel.
	Left func() bool
	// Meters says that it can be used for metering alone: it costs a machine little
	// that no policy is about, and knows the processes.
	Meters bool
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
	meters   bool     // the driver can
	others   []Driver // that were here before, until the first Apply
	policy   *wirepb.PolicySection
	identity *wirepb.IdentitySection
	flow     *wirepb.FlowSection
	waiting  time.Time // since when the two do not fit one another
	rulesets rulesets
	fleet    fleet
	state    *State
	judged   map[string]time.Time // since when subjects of policy are
	term     uint64               // of the secrets in state
	drift    drift
	trouble  trouble
	forged   trouble // proofs of who calls that are not good
	unknown  trouble
	// unmetered is why connections are not metered though they should be.
	unmetered      string
	unmeteredSince time.Time

	// reading is held while the driver's table is read, and by who changes the
	// driver; mu is taken first.
	reading sync.Mutex
	talks   talks
	counted time.Time // when the counts of rules were read last
	read    time.Time // when the reading before this one began

	woken, crowded chan struct{} // of one place each

	said atomic.Pointer[[]*wirepb.Condition] // the last Conditions
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
	return &Datapath{cfg: cfg, deps: deps, talks: newTalks(), woken: make(chan struct{}, 1), crowded: make(chan struct{}, 1)}, nil
}

// verifyEvery and deepEvery are how often the kernel is compared with what should
// be there, at a glance and whole.
const (
	verifyEvery = time.Second
	deepEvery   = time.Minute
)

// Run reads the connection table, and repairs what somebody has changed, until
// ctx ends. What is in force stays.
func (d *Datapath) Run(ctx context.Context, ready func()) error {
	verify, deep := time.NewTicker(verifyEvery), time.NewTicker(deepEvery)
	defer verify.Stop()
	defer deep.Stop()
	defer d.close()
	reads := make(chan struct{})
	go func() { d.keepReading(ctx); close(reads) }()
	defer func() { <-reads }()
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-verify.C:
			d.verify(false)
		case <-deep.C:
			d.verify(true)
		}
	}
}

// remove takes everything away: no policy is about this machine (any more), and
// nothing is metered. Then no packet is to be touched.
func (d *Datapath) remove() error {
	d.reading.Lock()
	defer d.reading.Unlock()
	d.waiting, d.state = time.Time{}, nil
	if d.driver != nil {
		if err := d.driver.Remove(); err != nil {
			return fmt.Errorf("remove policy: %w", err)
		}
		d.deps.Log.Info("no policy is about this machine, and nothing is metered: packets are left alone", "driver", d.driver.Name())
		d.driver = nil
	}
	if err := RemoveLeft(d.deps.Drivers); err != nil {
		return err
	}
	if d.deps.Meter != nil {
		return d.deps.Meter.Gone()
	}
	return nil
}

// RemoveLeft takes away what drivers have left in the kernel.
func RemoveLeft(drivers []Choice) error {
	var errs []error
	for _, c := range drivers {
		if !c.Left() {
			continue
		}
		old, err := c.Open()
		if err == nil {
			err = old.Remove()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove what the datapath driver %s has left: %w", c.Name, err))
		}
	}
	return errors.Join(errs...)
}

// open takes the first driver that opens, none where nothing is judged and none
// that opens can meter. Where another has left its work behind, the connections it
// has tracked are taken over before the new one judges any.
func (d *Datapath) open(ctx context.Context, s *State, judges bool) error {
	var errs []error
	for _, c := range d.deps.Drivers {
		if c.Past || !judges && !c.Meters {
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
		d.driver, d.meters, d.unmetered = driver, c.Meters, ""
		return nil
	}
	if !judges {
		d.notMetered(cmp.Or(errors.Join(errs...), errors.New("the configuration allows no driver that can")))
		return nil
	}
	return fmt.Errorf("%w; nothing is enforced here that was not before", errors.Join(errs...))
}

// metersLeft says whether a driver that meters has left something at work.
func (d *Datapath) metersLeft() bool {
	return slices.ContainsFunc(d.deps.Drivers, func(c Choice) bool { return c.Meters && !c.Past && c.Left() })
}

// notMetered notes, once, why connections are not metered here.
func (d *Datapath) notMetered(why error) {
	if text := why.Error(); text != d.unmetered {
		d.deps.Log.Warn("connections are not metered here", "error", why)
		d.unmetered, d.unmeteredSince = text, time.Now()
	}
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
		var list []connection.Line
		if err := old.Connections(func(x *connection.Line) bool { list = append(list, *x); return true }); err != nil {
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
	d.reading.Lock()
	defer d.reading.Unlock()
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

// ApplyFlow makes a section of what is metered hold.
func (d *Datapath) ApplyFlow(ctx context.Context, s *wirepb.FlowSection) ([]*wirepb.ItemStatus, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flow = s
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
	judges := len(d.identity.Subjects) > 0 || len(d.identity.Bearers) > 0 && d.cfg.CallerKey != nil
	if !judges && !d.flow.GetMeter() {
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
		if err := d.open(ctx, state, judges); err != nil {
			return items, err
		}
		if d.driver == nil { // nothing is judged, and nothing meters
			if d.metersLeft() {
				// It does, and could not be opened now: an agent that is being killed may hold
				// it yet.
				return items, errors.New(d.unmetered)
			}
			return items, d.remove()
		}
		if !d.meters && d.flow.GetMeter() {
			d.notMetered(fmt.Errorf("the datapath driver %s judges here, and does not meter", d.driver.Name()))
			state, items = d.build()
		}
	}
	if !judges && !d.meters {
		return items, d.remove()
	}
	began := time.Now()
	err = d.driver.Apply(ctx, state)
	if err == nil || errors.Is(err, ErrPartly) {
		d.judgedFrom(began)
		d.state = state
	}
	if err != nil {
		return items, err
	}
	return items, d.removeOthers()
}

// judgedFrom notes since when subjects of policy are judged. Those that were when
// this process began have been for longer than it knows.
func (d *Datapath) judgedFrom(when time.Time) {
	if d.judged == nil {
		when = time.Time{}
	}
	now := map[string]time.Time{}
	for _, x := range d.identity.GetSubjects() {
		since, was := d.judged[x.Workload]
		if !was {
			since = when
		}
		now[x.Workload] = since
	}
	d.judged = now
}
