package bpf

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"

	"weft/agent/datapath/bpf/lookup"
	"weft/policy/classify"
)

// saveEvery is how often at most the book of names is written.
const saveEvery = 5 * time.Second

// learner reads the answers of resolvers that the programs hand over, so that
// rules by name find the addresses. An address that a program calls before its
// answer has been read is denied once, and the call succeeds at its next try.
type learner struct {
	driver *Driver
	events *ringbuf.Reader
	done   chan struct{}
	saved  time.Time
}

func newLearner(d *Driver) (*learner, error) {
	r, err := ringbuf.NewReader(d.objects.Lookups)
	if err != nil {
		return nil, fmt.Errorf("read the answers of resolvers: %w", err)
	}
	l := &learner{driver: d, events: r, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		followRing(l.events, lookupHead, 0, l.lookup)
	}()
	return l, nil
}

func (l *learner) close() {
	l.events.Close()
	<-l.done
}

// The places of struct lookup.
const lookupHead = int(unsafe.Offsetof(policyLookup{}.Message))

// lookup takes one answer.
func (l *learner) lookup(raw []byte) {
	slot := binary.NativeEndian.Uint32(raw)
	length := int(binary.NativeEndian.Uint32(raw[4:]))
	message := raw[lookupHead:]
	names, addresses, err := lookup.Read(message[:min(length, len(message))])
	if err != nil || len(addresses) == 0 {
		return
	}
	if err := l.driver.learn(slot, names, addresses); err != nil {
		l.driver.log.Warn("take over what a name leads to", "names", names, "error", err)
	}
	if time.Since(l.saved) > saveEvery {
		l.saved = time.Now()
		l.driver.saveNames()
	}
}

// learn puts addresses under names into the table of one subject.
func (d *Driver) learn(slot uint32, names []string, addresses []netip.Addr) error {
	d.applying.Lock()
	defer d.applying.Unlock()
	workload := d.workloadOf(slot)
	if d.last == nil || workload == "" {
		return nil
	}
	d.bookMu.Lock()
	changed := d.book.Note(workload, names, addresses, time.Now())
	d.bookMu.Unlock()
	if !changed {
		return nil
	}
	table := d.last.egress[slot]
	if table == nil {
		return nil
	}
	if d.store == nil {
		return nil // the next Apply takes it over
	}
	fresh := &wanted{names: map[policyNameKey]policyName{}}
	d.store.begin(nil)
	for _, a := range addresses {
		if err := d.nameClass(fresh, slot, d.last.slots[slot].Tables[1], table, a); err != nil {
			return errors.Join(err, d.store.undo())
		}
	}
	if err := d.store.write(); err != nil {
		return errors.Join(err, d.store.undo())
	}
	d.last.named = append(d.last.named, fresh.named...)
	maps.Copy(d.last.names, fresh.names)
	return d.names.put(fresh.names)
}

// nameClass adds what a table says of an address by its names.
func (d *Driver) nameClass(want *wanted, slot, number uint32, t *classify.Table, a netip.Addr) error {
	about := t.ForNames(d.namesOf(d.workloadOf(slot), a))
	if about == nil {
		return nil
	}
	class, err := d.store.take(about)
	if err != nil {
		return err
	}
	want.named = append(want.named, about)
	k := policyNameKey{Slot: slot}
	k.Family, k.Address = addressBytes(a)
	want.names[k] = policyName{Table: number, Class: class}
	return nil
}

// namesOf are the names a workload has looked an address up by.
func (d *Driver) namesOf(workload string, a netip.Addr) []string {
	d.bookMu.Lock()
	defer d.bookMu.Unlock()
	if e := d.book[workload][a]; e != nil {
		return slices.Clone(e.Names)
	}
	return nil
}

// lookedUp are the addresses a workload has looked up.
func (d *Driver) lookedUp(workload string) []netip.Addr {
	d.bookMu.Lock()
	defer d.bookMu.Unlock()
	return slices.Collect(maps.Keys(d.book[workload]))
}

// loadNames takes over what was learned before a restart. A book that cannot be
// read is begun anew: programs look names up again.
func (d *Driver) loadNames() {
	d.book = lookup.Book{}
	if d.cfg.NamesFile == "" {
		return
	}
	raw, err := os.ReadFile(d.cfg.NamesFile)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err == nil {
		err = json.Unmarshal(raw, &d.book)
	}
	if err != nil {
		d.log.Warn("read the names that were learned; they are learned anew", "file", d.cfg.NamesFile, "error", err)
		d.book = lookup.Book{}
	}
	d.book.Expire(time.Now())
}

func (d *Driver) saveNames() {
	if d.cfg.NamesFile == "" {
		return
	}
	d.bookMu.Lock()
	d.book.Expire(time.Now())
	raw, err := json.Marshal(d.book)
	d.bookMu.Unlock()
	if err == nil {
		err = os.WriteFile(d.cfg.NamesFile+".new", raw, 0o600)
	}
	if err == nil {
		err = os.Rename(d.cfg.NamesFile+".new", d.cfg.NamesFile)
	}
	if err != nil {
		d.log.Warn("keep the names that were learned", "file", d.cfg.NamesFile, "error", err)
	}
}
