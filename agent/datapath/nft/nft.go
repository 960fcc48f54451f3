package nft

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"weft/agent/connection"
	"weft/agent/datapath"
	"weft/model"
	"weft/policy"
)

// Config is what the driver must be told.
type Config struct {
	// NetNS is the path of the machine's own network namespace; empty for that
	// of the thread that calls Apply first.
	NetNS string
}

// Driver enforces a State with nftables.
type Driver struct {
	cfg Config

	mu       sync.Mutex
	own      *namespace // the machine's, also in spaces
	spaces   map[nsID]*namespace
	state    *datapath.State
	rulesets map[string]*datapath.Ruleset // last applied, by workload
	gone     map[outcome]counted          // of namespaces that are gone
	revision uint32
	tree     *cgroupTree
	names    map[policy.RuleID]string // of rules, for the log

	seenMu sync.Mutex
	seen   map[connection.Key]time.Time // when a live connection was first listed
}

var _ datapath.Driver = (*Driver)(nil)

// New returns a driver that has touched nothing yet.
func New(cfg Config) *Driver {
	return &Driver{cfg: cfg, spaces: map[nsID]*namespace{}, rulesets: map[string]*datapath.Ruleset{}, gone: map[outcome]counted{}, names: map[policy.RuleID]string{}}
}

// Name is nft.
func (*Driver) Name() string { return "nft" }

// Apply makes the state hold. An *UnsupportedError names what nftables cannot do.
func (d *Driver) Apply(ctx context.Context, s *datapath.State) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.open(); err != nil {
		return err
	}
	subjects, unsupported := d.supported(s)
	byNS, err := d.group(subjects)
	errs := []error{err}
	addresses := newAddresses(s.Addresses)
	d.revision++
	failed := map[string]bool{}
	for _, n := range d.sorted() {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, fmt.Errorf("apply policy: %w", err))...)
		}
		list := byNS[n.id]
		if n.loaded == nil && slices.ContainsFunc(list, withoutRuleset) {
			// What an earlier run put there is better than nothing.
			if held, err := n.held(); err != nil || held {
				errs = append(errs, err)
				continue
			}
		}
		if list = slices.DeleteFunc(list, withoutRuleset); len(list) == 0 {
			errs = append(errs, d.drop(n))
			continue
		}
		if err := d.applyTo(n, list, addresses); err != nil {
			errs = append(errs, fmt.Errorf("apply policy in network namespace %s: %w", n.path, err))
			for _, x := range list {
				failed[x.Workload] = true
			}
		}
	}
	d.state = s
	rulesets := map[string]*datapath.Ruleset{}
	for i := range subjects {
		w := subjects[i].Workload
		if rulesets[w] = subjects[i].Ruleset; failed[w] {
			if rulesets[w] = d.rulesets[w]; rulesets[w] == nil {
				delete(rulesets, w)
			}
		}
	}
	d.rulesets = rulesets
	if unsupported != nil {
		errs = append(errs, unsupported)
	}
	return errors.Join(errs...)
}

func withoutRuleset(s *datapath.Subject) bool { return s.Ruleset == nil }

// open finds the machine's own namespace and what another run has left.
func (d *Driver) open() error {
	if d.own != nil {
		return nil
	}
	own, err := openNamespace(cmp.Or(d.cfg.NetNS, "/proc/thread-self/ns/net"))
	if err == nil && own == nil {
		err = fmt.Errorf("open network namespace %s: %w", d.cfg.NetNS, os.ErrNotExist)
	}
	if err != nil {
		return err
	}
	others, err := noted(own)
	if err != nil {
		own.file.Close()
		return err
	}
	if d.tree, err = findCgroups(); err != nil {
		d.tree = nil // said where a subject needs it
	}
	d.own = own
	d.spaces[own.id] = own
	for _, n := range others {
		d.spaces[n.id] = n
	}
	return nil
}

// supported returns the subjects as they can be enforced: those that cannot
// keep the ruleset they had, which is nil where they had none.
func (d *Driver) supported(s *datapath.State) ([]datapath.Subject, error) {
	var out []datapath.Subject
	var refused UnsupportedError
	for _, x := range s.Subjects {
		if x.Kind == model.WorkloadGuest && x.Identity == 0 {
			continue // no policy is about it, and what it does cannot be seen here
		}
		if reasons := refuse(&x); len(reasons) > 0 {
			refused.Subjects = append(refused.Subjects, UnsupportedSubject{x.Workload, reasons})
			if x.Ruleset = d.rulesets[x.Workload]; x.Ruleset == nil {
				if x.Kind != model.WorkloadGuest {
					out = append(out, x) // for the namespace it is in
				}
				continue
			}
		}
		for _, dir := range roles {
			for _, r := range x.Ruleset.Table(dir).Rules() {
				d.names[r.ID] = r.Policy + "/" + r.Name
			}
		}
		out = append(out, x)
	}
	if len(refused.Subjects) > 0 {
		return out, &refused
	}
	return out, nil
}

// group opens the subjects' namespaces. One that is not there any more has no
// packets to judge.
func (d *Driver) group(subjects []datapath.Subject) (map[nsID][]*datapath.Subject, error) {
	out := map[nsID][]*datapath.Subject{}
	byPath := map[string]nsID{"": d.own.id}
	var errs []error
	for i := range subjects {
		x := &subjects[i]
		id, ok := byPath[x.NetNS]
		if !ok {
			n, err := openNamespace(x.NetNS)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", x.Workload, err))
			}
			if n == nil {
				continue
			}
			id = n.id
			byPath[x.NetNS] = id
			if d.spaces[id] != nil {
				n.file.Close()
			} else if err := note(d.own, n); err != nil {
				errs = append(errs, err)
				n.file.Close()
				continue
			} else {
				d.spaces[id] = n
			}
		}
		out[id] = append(out[id], x)
	}
	return out, errors.Join(errs...)
}

// sorted returns the namespaces, the machine's own first.
func (d *Driver) sorted() []*namespace {
	var out []*namespace
	for _, n := range d.spaces {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b *namespace) int {
		if a == d.own || b == d.own {
			if a == b {
				return 0
			} else if a == d.own {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.path, b.path)
	})
	return out
}

// drop takes our table out of a namespace that has no subject any more. The
// machine's own keeps the notes.
func (d *Driver) drop(n *namespace) error {
	if n.loaded == nil && n == d.own {
		return d.dropOwn()
	}
	d.keepCounts(n)
	if n == d.own {
		return d.dropOwn()
	}
	if err := n.remove(); err != nil {
		return err
	}
	delete(d.spaces, n.id)
	n.file.Close()
	return forget(d.own, n.id)
}

// dropOwn empties the machine's own table, but for the notes.
func (d *Driver) dropOwn() error {
	n := d.own
	n.loaded = nil
	c, err := n.dial()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	if held, err := n.holds(c); err != nil || !held {
		return err
	}
	t := transaction{conn: c}
	if err := t.clear(true); err != nil {
		return err
	}
	return t.commit()
}

// Left says whether a driver has left its table in this network namespace.
func Left(cfg Config) bool {
	d := New(cfg)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open() != nil {
		return false
	}
	defer d.forgetAll()
	held, err := d.own.held()
	return err == nil && held
}

// Close lets go of the namespaces and leaves the rules at work.
func (d *Driver) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.forgetAll()
}

func (d *Driver) forgetAll() error {
	var errs []error
	for _, n := range d.spaces {
		errs = append(errs, n.file.Close())
	}
	d.own, d.spaces, d.state = nil, map[nsID]*namespace{}, nil
	return errors.Join(errs...)
}

// Remove takes our table out of every namespace.
func (d *Driver) Remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.open(); err != nil {
		return err
	}
	var errs []error
	all := d.sorted()
	slices.Reverse(all) // the machine's own holds the notes
	for _, n := range all {
		errs = append(errs, n.remove())
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	d.rulesets = map[string]*datapath.Ruleset{}
	return d.forgetAll()
}
