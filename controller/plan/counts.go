package plan

import (
	"cmp"
	"slices"
)

// hostCounts say how many of something each host has, by the host's name.
type hostCounts []hostCount

type hostCount struct {
	host string
	n    int
}

func (c *hostCounts) add(host string, n int) {
	i, there := slices.BinarySearchFunc(*c, host, func(h hostCount, name string) int { return cmp.Compare(h.host, name) })
	switch {
	case !there:
		*c = slices.Insert(*c, i, hostCount{host, n})
	case (*c)[i].n+n == 0:
		*c = slices.Delete(*c, i, i+1)
	default:
		(*c)[i].n += n
	}
}

func (c hostCounts) names() []string {
	out := make([]string, len(c))
	for i, h := range c {
		out[i] = h.host
	}
	return out
}

// remove takes one value out of a list in which it is once, without keeping the
// order.
func remove[T comparable](list []T, v T) []T {
	i := slices.Index(list, v)
	if i < 0 {
		return list
	}
	last := len(list) - 1
	list[i] = list[last]
	clear(list[last:])
	return list[:last]
}
