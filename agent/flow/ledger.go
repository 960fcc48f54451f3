package flow

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"weft/internal/bpfmap"
)

// ledger holds marks, and how far the account is.
type ledger interface {
	lookup(*key) (mark, bool, error)
	put([]key, []mark) error
	// drop forgets marks; it may be that there are none of some keys.
	drop([]key) error
	each(func(*key, *mark)) error
	number() (account, error)
	setNumber(account) error
	close() error
}

// pinned is a ledger in the kernel, which outlives this process.
type pinned struct {
	marks, account *ebpf.Map
}

func openPinned(dir string, room uint32) (*pinned, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a directory for the marks of flows: %w; is a BPF file system mounted there? (mount -t bpf bpf /sys/fs/bpf)", err)
	}
	var p pinned
	var err error
	there := ebpf.MapOptions{PinPath: dir}
	p.marks, err = ebpf.NewMapWithOptions(&ebpf.MapSpec{Name: "marks_v2", Type: ebpf.Hash, KeySize: 56, ValueSize: 48, MaxEntries: room, Flags: noPreallocate, Pinning: ebpf.PinByName}, there)
	if err == nil {
		p.account, err = ebpf.NewMapWithOptions(&ebpf.MapSpec{Name: "account_v1", Type: ebpf.Array, KeySize: 4, ValueSize: 24, MaxEntries: 1, Pinning: ebpf.PinByName}, there)
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("open the marks of flows in %s: %w", filepath.Clean(dir), err)
	}
	return &p, nil
}

// readEach is how many marks are read at a time.
const readEach = 4096

const noPreallocate = 1 // BPF_F_NO_PREALLOC

func (p *pinned) lookup(k *key) (x mark, known bool, err error) {
	err = p.marks.Lookup(k, &x)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return x, false, nil
	}
	if err != nil {
		return x, false, fmt.Errorf("read a mark of a flow: %w", err)
	}
	return x, true, nil
}

func (p *pinned) put(keys []key, values []mark) error {
	if len(keys) == 0 {
		return nil
	}
	if _, err := p.marks.BatchUpdate(keys, values, nil); err != nil {
		return fmt.Errorf("keep the marks of flows: %w", err)
	}
	return nil
}

func (p *pinned) drop(keys []key) error {
	if err := bpfmap.Delete(p.marks, keys); err != nil {
		return fmt.Errorf("forget the marks of flows: %w", err)
	}
	return nil
}

func (p *pinned) each(visit func(*key, *mark)) error {
	show := func(k *key, x *mark) bool { visit(k, x); return true }
	if _, err := bpfmap.Each(p.marks, make([]key, readEach), make([]mark, readEach), show); err != nil {
		return fmt.Errorf("read the marks of flows: %w", err)
	}
	return nil
}

func (p *pinned) number() (a account, err error) {
	if err := p.account.Lookup(uint32(0), &a); err != nil {
		return a, fmt.Errorf("read the number of the last batch of flows: %w", err)
	}
	return a, nil
}

func (p *pinned) setNumber(a account) error {
	if err := p.account.Put(uint32(0), a); err != nil {
		return fmt.Errorf("keep the number of a batch of flows: %w", err)
	}
	return nil
}

func (p *pinned) close() error { return errors.Join(p.marks.Close(), p.account.Close()) }

// held is a ledger of this process alone.
type held struct {
	marks   map[key]mark
	account account
}

func (h *held) lookup(k *key) (mark, bool, error) {
	x, known := h.marks[*k]
	return x, known, nil
}

func (h *held) put(keys []key, values []mark) error {
	for i := range keys {
		h.marks[keys[i]] = values[i]
	}
	return nil
}

func (h *held) drop(keys []key) error {
	for i := range keys {
		delete(h.marks, keys[i])
	}
	return nil
}

func (h *held) each(visit func(*key, *mark)) error {
	for k, x := range maps.Clone(h.marks) {
		visit(&k, &x)
	}
	return nil
}

func (h *held) number() (account, error) { return h.account, nil }

func (h *held) setNumber(a account) error {
	h.account = a
	return nil
}

func (h *held) close() error { return nil }
