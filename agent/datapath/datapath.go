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

// keepReading reads the connection table until ctx ends. While nothing begins it
// takes its time, for a table's size is what reading it costs, however empty it is:
// up to quietest times as long lies between two readings, unless Wake says that
// something has begun. Crowded cuts every pause short.
func (d *Datapath) keepReading(ctx context.Context) {
	rest, quiet := d.cfg.Every, 0
	for {
		if !wait(ctx, rest, d.crowded) {
			return
		}
		// What has just begun is given the usual time, so that its first record says
		// more of it than how it began.
		if quiet > 0 && (!wait(ctx, time.Duration(quiet-1)*d.cfg.Every, d.woken) || !wait(ctx, d.cfg.Every, d.crowded)) {
			return
		}
		drain(d.crowded)
		drain(d.woken)
		began := time.Now()
		begun, err := d.collect()
		rest = d.pause(time.Since(began))
		if quiet = min(quiet+1, quietest-1); begun || err != nil {
			quiet = 0
		}
		if err != nil {
			d.deps.Log.Warn("read the connection table", "error", err)
		}
		if err := d.renew(ctx); err != nil {
			d.deps.Log.Warn("renew the secrets for telling who calls", "error", err)
		}
	}
}

const quietest = 4

// wait returns after a time, or sooner when woken; false when ctx has ended.
func wait(ctx context.Context, long time.Duration, woken <-chan struct{}) bool {
	t := time.NewTimer(long)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-woken:
	case <-t.C:
	}
	return true
}

// Wake says that a connection has begun.
func (d *Datapath) Wake() { tell(d.woken) }

// Crowded says that so many have begun that the table must be read.
func (d *Datapath) Crowded() {
	tell(d.crowded)
	tell(d.woken)
}

func tell(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func drain(c <-chan struct{}) {
	select {
	case <-c:
	default:
	}
}

// readingShare is how many times as long as a reading took it is to the next one,
// and maxPause how long at most: a long table must not keep a CPU busy.
const (
	readingShare = 10
	maxPause     = 10 * time.Second
)

// countEvery is how many times as long as between two readings it is until the next
// time that the counts of rules are read: their maps are large, however few rules
// there are.
const countEvery = 10

// pause is how long to wait after a reading. A table that fills is read as often as
// can be, for each reading makes room.
func (d *Datapath) pause(took time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f, ok := d.driver.(Filler); ok && f.Filling() {
		return d.cfg.Every
	}
	return max(d.cfg.Every, min(readingShare*took, maxPause))
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

// Report is what has happened since the last one; nil where nothing has, or the
// connection table is being read: whoever asks has more to do than wait. Give it
// back with Restore where it could not be sent.
func (d *Datapath) Report() *wirepb.PolicyReport {
	if !d.reading.TryLock() {
		return nil
	}
	defer d.reading.Unlock()
	return d.talks.take()
}

// Restore takes a report back that nobody has received.
func (d *Datapath) Restore(r *wirepb.PolicyReport) {
	d.reading.Lock()
	defer d.reading.Unlock()
	d.talks.restore(r)
}

// view is what a reading of the table needs to know of the state.
type view struct {
	driver Driver
	staged map[string]*Ruleset // by the subjects of policy; nil where nothing is staged
	judged map[string]time.Time
	exempt map[string]bool // from metering
	meter  Meter           // nil for none
}

func (d *Datapath) view() *view {
	if d.driver == nil || d.state == nil {
		return nil
	}
	v := &view{driver: d.driver, judged: d.judged, staged: map[string]*Ruleset{}, exempt: map[string]bool{}}
	for _, x := range d.identity.GetSubjects() {
		v.staged[x.Workload] = d.rulesets.of(x.Staged)
	}
	if d.flow.GetMeter() && d.meters {
		v.meter = d.deps.Meter
	}
	for _, id := range d.flow.GetExempt() {
		v.exempt[id] = true
	}
	return v
}

// collect reads the driver's table and counts, and says whether a connection has
// begun since the last time. Policy may change meanwhile: a long table keeps no
// change waiting.
func (d *Datapath) collect() (begun bool, err error) {
	d.mu.Lock()
	v := d.view()
	if v == nil {
		d.mu.Unlock()
		return false, nil
	}
	d.reading.Lock()
	d.mu.Unlock()
	if begun, err = d.readTable(v); err != nil {
		return false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.driver == nil {
		return false, nil
	}
	troubles, err := d.driver.Troubles()
	if err != nil {
		return false, err
	}
	d.trouble.look(troubles)
	if w, knows := d.driver.(Witness); knows {
		forged, unknown, err := w.Disbelieved()
		if err != nil {
			return false, err
		}
		if before := d.forged.last; d.forged.look(forged) && before.IsZero() {
			d.deps.Log.Error("somebody calls under a proof of who calls that is not good", "found", d.forged.String())
		}
		d.unknown.look(unknown)
	}
	return begun, nil
}

// readTable shows the table to who follows it. The lock for reading is held, and
// let go of.
func (d *Datapath) readTable(v *view) (begun bool, err error) {
	defer d.reading.Unlock()
	before := d.read
	d.read = time.Now()
	d.talks.begin(v.driver.Name())
	if v.meter != nil {
		v.meter.Begin()
	}
	err = v.driver.Connections(func(c *connection.Line) bool {
		begun = begun || c.First.After(before)
		// What was over before policy was about the workload is none of its business.
		if staged, judged := v.staged[c.Workload]; judged && !c.Last.Before(v.judged[c.Workload]) {
			d.talks.add(c, staged)
		}
		if v.meter != nil && !v.exempt[c.Workload] {
			v.meter.See(c)
		}
		return true
	})
	if v.meter != nil {
		err = errors.Join(err, v.meter.End(err == nil))
	}
	if err != nil {
		return begun, err
	}
	if time.Since(d.counted) >= countEvery*d.cfg.Every {
		d.counted = time.Now()
		counts, err := v.driver.Counts()
		if err != nil {
			return begun, err
		}
		d.talks.counts(counts)
	}
	if w, knows := v.driver.(Dropper); knows {
		drops, err := w.Drops()
		if err != nil {
			return begun, err
		}
		d.talks.dropped(drops)
	}
	return begun, v.driver.Forget()
}
