package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"weft/internal/bpfmap"
)

// followed is a table that is visited again and again. Going through it costs its
// buckets, however few entries there are: where those are few and none has come that
// is not known, they are looked up by their keys.
type followed[K comparable, V any] struct {
	m      *ebpf.Map
	keys   []K
	values []V

	known map[K]struct{}
	whole bool   // all that had come are known
	came  uint64 // how many those were

	key   K // that is looked up
	value V
}

// readEach is how many entries are read at a time where a table is gone through.
const readEach = 1024

// knownShare is which part of a table's room may be known: looking up one entry
// takes about as long as going through so many empty buckets.
const knownShare = 256

func follow[K comparable, V any](m *ebpf.Map) *followed[K, V] {
	return &followed[K, V]{m: m, keys: make([]K, readEach), values: make([]V, readEach), known: map[K]struct{}{}}
}

// learn is told of a key that has come.
func (t *followed[K, V]) learn(k *K) {
	if len(t.known) >= t.few() {
		t.whole = false
	} else if t.whole {
		t.known[*k] = struct{}{}
	}
}

func (t *followed[K, V]) few() int { return int(t.m.MaxEntries() / knownShare) }

// visit shows what there is until show returns false. So many entries had come
// before; to go through the whole table although they are known is asked for by
// anew. It says whether it has gone through all of it.
func (t *followed[K, V]) visit(came uint64, anew bool, show func(*K, *V) bool) (through, done bool, err error) {
	if t.whole && t.came == came && !anew {
		done, err = t.lookUp(show)
		return false, done, err
	}
	clear(t.known)
	t.whole = true
	done, err = t.through(func(k *K, x *V) bool {
		t.learn(k)
		return show(k, x)
	})
	if done || err != nil {
		t.whole = false
		return false, done, err
	}
	t.came = came
	return true, false, nil
}

// through goes through the whole table until show returns false.
func (t *followed[K, V]) through(show func(*K, *V) bool) (done bool, err error) {
	return bpfmap.Each(t.m, t.keys, t.values, show)
}

func (t *followed[K, V]) lookUp(show func(*K, *V) bool) (done bool, err error) {
	for t.key = range t.known {
		switch err := t.m.Lookup(&t.key, &t.value); {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			delete(t.known, t.key)
		case err != nil:
			return false, fmt.Errorf("look up in %s: %w", t.m, err)
		case !show(&t.key, &t.value):
			return true, nil
		}
	}
	return false, nil
}
