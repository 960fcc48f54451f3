// Package orders holds what hosts are to do while somebody listens, until their
// sessions say so.
package orders

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
)

// Sheet is one host's orders, by number. Whoever has it guards it.
type Sheet[T proto.Message] struct {
	version uint64
	changed chan struct{}
	list    map[uint64]T
}

// New returns an empty one.
func New[T proto.Message]() Sheet[T] {
	return Sheet[T]{changed: make(chan struct{}), list: map[uint64]T{}}
}

// Put adds an order.
func (s *Sheet[T]) Put(id uint64, order T) {
	s.list[id] = order
	s.change()
}

// Drop takes one back that may be there.
func (s *Sheet[T]) Drop(id uint64) {
	if _, there := s.list[id]; there {
		delete(s.list, id)
		s.change()
	}
}

func (s *Sheet[T]) change() {
	s.version++
	s.Call()
}

// Call has the session look, though the orders are what they were.
func (s *Sheet[T]) Call() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Wanted is what the session is to say where known is not the version that it has
// said: copies of all orders, by number. The channel is closed when there is more.
func (s *Sheet[T]) Wanted(known uint64) (list []T, fresh bool, version uint64, changed <-chan struct{}) {
	if fresh = s.version != known; fresh {
		for _, id := range slices.Sorted(maps.Keys(s.list)) {
			list = append(list, proto.CloneOf(s.list[id]))
		}
	}
	return list, fresh, s.version, s.changed
}
