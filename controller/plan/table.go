package plan

import (
	"hash/maphash"
	"iter"
	"maps"
)

// A Table is a map that is never changed: an editor makes another that shares
// with it all that has not changed. So plans are handed out and read by anybody,
// and the next one costs what differs.
type Table[K comparable, V any] struct {
	shards [tableShards]map[K]V
	n      int
}

const tableShards = 512

var tableSeed = maphash.MakeSeed()

func shardOf[K comparable](k K) int {
	return int(maphash.Comparable(tableSeed, k) % tableShards)
}

// Get returns the value, zero where there is none. A nil Table is empty.
func (t *Table[K, V]) Get(k K) V {
	if t == nil {
		var none V
		return none
	}
	return t.shards[shardOf(k)][k]
}

// Len returns how many entries there are.
func (t *Table[K, V]) Len() int {
	if t == nil {
		return 0
	}
	return t.n
}

// All visits everything, in no order.
func (t *Table[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		if t == nil {
			return
		}
		for _, s := range t.shards {
			for k, v := range s {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

// editor makes a Table out of another.
type editor[K comparable, V any] struct {
	before, after *Table[K, V] // after is nil until something changes
	own           [tableShards]bool
}

func edit[K comparable, V any](t *Table[K, V]) *editor[K, V] { return &editor[K, V]{before: t} }

func (e *editor[K, V]) shard(k K) map[K]V {
	if e.after == nil {
		e.after = &Table[K, V]{}
		if e.before != nil {
			*e.after = *e.before
		}
	}
	i := shardOf(k)
	if !e.own[i] {
		e.own[i] = true
		if e.after.shards[i] = maps.Clone(e.after.shards[i]); e.after.shards[i] == nil {
			e.after.shards[i] = map[K]V{}
		}
	}
	return e.after.shards[i]
}

func (e *editor[K, V]) set(k K, v V) {
	s := e.shard(k)
	before := len(s)
	s[k] = v
	e.after.n += len(s) - before
}

func (e *editor[K, V]) delete(k K) {
	s := e.shard(k)
	before := len(s)
	delete(s, k)
	e.after.n += len(s) - before
}

func (e *editor[K, V]) get(k K) V {
	if e.after == nil {
		return e.before.Get(k)
	}
	return e.after.Get(k)
}

// done returns the table; the editor must not be used again.
func (e *editor[K, V]) done() *Table[K, V] {
	if e.after == nil {
		return e.before
	}
	return e.after
}
