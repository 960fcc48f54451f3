// Package identity numbers sets of identity labels for good: a set keeps its
// number, and no number is ever given to a second set, over restarts of the
// controller too. Hosts hold numbers in kernel tables that outlive their agent
// and tell them to one another, so that a number given twice would let one
// workload pass for another.
//
// The file is JSON: the numbers below "next" may have been given, and the sets
// still known have theirs. It is written before a number at or above "next" is
// given, with room ahead, and from time to time for the sets.
package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"weft/policy"
)

const (
	ahead     = 1000                // numbers reserved by one write
	keepFor   = 30 * 24 * time.Hour // how long a set nobody has keeps its number
	saveEvery = time.Minute
)

// Config of a Table.
type Config struct {
	File string // "" keeps nothing, for tests
	// Fresh says that no host has ever been told a number. Where it is not set and
	// the file is lost, numbering goes on at the present Unix second: far above
	// all that can have been given, at less than one a second.
	Fresh bool
	Log   *slog.Logger
}

// Table is safe for concurrent use.
type Table struct {
	cfg Config
	now func() time.Time

	mu       sync.Mutex
	next     policy.Identity // to be given next
	reserved policy.Identity // the first that the file does not cover
	sets     map[string]*entry
	unsaved  bool
}

type entry struct {
	labels map[string]string
	number policy.Identity
	used   time.Time
}

type file struct {
	Next policy.Identity `json:"next"`
	Sets []fileSet       `json:"sets"`
}

type fileSet struct {
	Number policy.Identity   `json:"number"`
	Labels map[string]string `json:"labels"`
	Used   time.Time         `json:"used"`
}

// Open reads the file. One that is damaged counts as lost.
func Open(cfg Config) *Table {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	t := &Table{cfg: cfg, now: time.Now, next: 1, reserved: 1, sets: map[string]*entry{}}
	if cfg.File == "" {
		return t
	}
	data, err := os.ReadFile(cfg.File)
	var f file
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err == nil && f.Next == 0 {
		err = errors.New("it names no next number")
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) || !cfg.Fresh {
			t.next = policy.Identity(t.now().Unix())
			cfg.Log.Warn("number identities anew, above all numbers given so far", "file", cfg.File, "next", t.next, "error", err)
		}
		t.reserved = t.next
		return t
	}
	t.next, t.reserved = f.Next, f.Next
	for _, s := range f.Sets {
		if s.Number != 0 && s.Number < f.Next {
			t.sets[text(s.Labels)] = &entry{s.Labels, s.Number, s.Used}
		}
	}
	return t
}

// text is the canonical text of a set. No label holds a NUL or a newline.
func text(labels map[string]string) string {
	var b []byte
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		b = append(append(append(append(b, k...), 0), labels[k]...), '\n')
	}
	return string(b)
}

// Number returns the number of a set. It fails only where a new one is needed
// and the file cannot be written.
func (t *Table) Number(labels map[string]string) (policy.Identity, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key, now := text(labels), t.now()
	if e := t.sets[key]; e != nil {
		if now.Sub(e.used) > time.Hour {
			t.unsaved = true
		}
		e.used = now
		return e.number, nil
	}
	if t.next >= t.reserved {
		if err := t.write(t.next + ahead); err != nil {
			return 0, fmt.Errorf("keep the numbers of identities: %w", err)
		}
		t.reserved = t.next + ahead
	}
	e := &entry{maps.Clone(labels), t.next, now}
	t.next++
	t.sets[key], t.unsaved = e, true
	return e.number, nil
}

// Save writes the sets that have been numbered since the last write.
func (t *Table) Save() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.unsaved {
		return nil
	}
	for k, e := range t.sets {
		if t.now().Sub(e.used) > keepFor {
			delete(t.sets, k) // its number is not given again
		}
	}
	if err := t.write(t.reserved); err != nil {
		return fmt.Errorf("keep the numbers of identities: %w", err)
	}
	t.unsaved = false
	return nil
}

// write replaces the file, on the disk for certain. The lock is held.
func (t *Table) write(next policy.Identity) error {
	if t.cfg.File == "" {
		return nil
	}
	f := file{Next: next}
	for _, key := range slices.Sorted(maps.Keys(t.sets)) {
		e := t.sets[key]
		f.Sets = append(f.Sets, fileSet{e.number, e.labels, e.used.UTC().Truncate(time.Second)})
	}
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(t.cfg.File), "."+filepath.Base(t.cfg.File)+"-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), t.cfg.File)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
