package plan

import (
	"cmp"
	"slices"
	"unsafe"

	"weft/model"
)

// difference is what has come and gone between two lists of resources. What has
// changed is in both: the old one gone, the new one come.
type difference[R any] struct{ gone, come []R }

func (d *difference[R]) empty() bool { return len(d.gone)+len(d.come) == 0 }

// named is a resource that is compared by its address: whoever changes one makes
// another.
type named interface {
	comparable
	model.Resource
}

func nameOf[R named](r R) string { return r.Meta().Name }

func byResource[R named](a, b R) int { return cmp.Compare(nameOf(a), nameOf(b)) }

// compare sorts next by name and says how it differs from last, which is sorted.
// Where next is sorted already, as it is for callers who care, and little has
// changed, nothing but addresses is looked at.
func compare[R named](last, next []R) (sorted []R, d difference[R]) {
	if len(last) == len(next) && unsafe.SliceData(last) == unsafe.SliceData(next) {
		return last, d
	}
	if d, ok := walk(last, next); ok {
		return next, d
	}
	sorted = slices.Clone(next)
	slices.SortStableFunc(sorted, byResource)
	d, _ = walk(last, sorted)
	return sorted, d
}

// walk compares two sorted lists; false where next is not.
func walk[R named](last, next []R) (d difference[R], ok bool) {
	i, k, fresh := 0, 0, false // fresh: next[k-1] was not in last
	for i < len(last) || k < len(next) {
		if i < len(last) && k < len(next) && last[i] == next[k] {
			if fresh && nameOf(next[k-1]) > nameOf(next[k]) {
				return d, false
			}
			i, k, fresh = i+1, k+1, false
			continue
		}
		order := 0
		switch {
		case i == len(last):
			order = 1
		case k == len(next):
			order = -1
		default:
			order = cmp.Compare(nameOf(last[i]), nameOf(next[k]))
		}
		if order <= 0 {
			d.gone = append(d.gone, last[i])
			i++
		}
		if order >= 0 {
			if k > 0 && nameOf(next[k-1]) > nameOf(next[k]) {
				return d, false
			}
			d.come = append(d.come, next[k])
			k++
			fresh = true
		}
	}
	return d, true
}

// Splice puts one list of resources in place of another within a list sorted by
// name, and returns a new list.
func Splice[R named](list, gone, come []R) []R {
	if len(gone)+len(come) > len(list)/8 {
		drop := make(map[R]bool, len(gone))
		for _, g := range gone {
			drop[g] = true
		}
		out := make([]R, 0, max(0, len(list)+len(come)-len(gone)))
		for _, r := range list {
			if !drop[r] {
				out = append(out, r)
			}
		}
		out = append(out, come...)
		slices.SortFunc(out, byResource)
		return out
	}
	out := slices.Clone(list)
	for _, g := range gone {
		i, _ := slices.BinarySearchFunc(out, g, byResource)
		for i < len(out) && out[i] != g && nameOf(out[i]) == nameOf(g) {
			i++
		}
		if i < len(out) && out[i] == g {
			out = slices.Delete(out, i, i+1)
		}
	}
	for _, c := range come {
		i, _ := slices.BinarySearchFunc(out, c, byResource)
		out = slices.Insert(out, i, c)
	}
	return out
}
