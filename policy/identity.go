package policy

import (
	"maps"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"

	"weft/model"
)

// Identity is the number of one distinct set of identity labels. 0 is whatever is
// no workload of weft.
type Identity uint32

// Identities numbers label sets, and keeps for each selector it has been asked
// about the bitmap of those it matches. Not safe for concurrent use.
type Identities struct {
	byKey  map[string]Identity
	labels map[Identity]map[string]string
	next   Identity

	// all, pairs and keys hold the identities with any labels, with key=value
	// and with a key.
	all   *roaring.Bitmap
	pairs map[[2]string]*roaring.Bitmap
	keys  map[string]*roaring.Bitmap

	selectors map[string]*watched
	// By which label a selector can first match; loose ones can match without any.
	byPair map[[2]string][]*watched
	byHas  map[string][]*watched
	loose  []*watched
}

type watched struct {
	text     string
	selector model.Selector
	members  *roaring.Bitmap
}

// NewIdentities numbers label sets from 1: the same sets get the same numbers in
// whatever order, and however often, they are given.
func NewIdentities(sets ...map[string]string) *Identities {
	x := &Identities{
		byKey: map[string]Identity{}, labels: map[Identity]map[string]string{}, next: 1,
		all: roaring.New(), pairs: map[[2]string]*roaring.Bitmap{}, keys: map[string]*roaring.Bitmap{},
		selectors: map[string]*watched{}, byPair: map[[2]string][]*watched{}, byHas: map[string][]*watched{},
	}
	byKey := map[string]map[string]string{}
	for _, s := range sets {
		byKey[labelKey(s)] = s
	}
	for _, k := range slices.Sorted(maps.Keys(byKey)) {
		x.Intern(byKey[k])
	}
	return x
}

// labelKey is the canonical text of a label set. No label holds a NUL or a newline.
func labelKey(labels map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		b.WriteString(k + "\x00" + labels[k] + "\n")
	}
	return b.String()
}

// Intern returns the number of a label set. A new set gets the next number, and
// the selectors it matches are returned: only those have changed.
func (x *Identities) Intern(labels map[string]string) (id Identity, changed []string) {
	key := labelKey(labels)
	if id, ok := x.byKey[key]; ok {
		return id, nil
	}
	id = x.next
	return id, x.adopt(id, labels)
}

// IdentitiesOf takes over numbers that were given elsewhere; 0 is none.
func IdentitiesOf(sets map[Identity]map[string]string) *Identities {
	x := NewIdentities()
	for _, id := range slices.Sorted(maps.Keys(sets)) {
		x.adopt(id, sets[id])
	}
	return x
}

// Adopt enters a new label set under a number that was given elsewhere, and
// returns the selectors it matches. Only those asked about before are known.
func (x *Identities) Adopt(id Identity, labels map[string]string) (changed []string) {
	return x.adopt(id, labels)
}

// Selectors returns those of the selectors asked about that an identity matches,
// sorted.
func (x *Identities) Selectors(id Identity) []string {
	var out []string
	x.candidates(x.labels[id], func(w *watched) {
		if w.members.Contains(uint32(id)) {
			out = append(out, w.text)
		}
	})
	slices.Sort(out)
	return out
}

// Forget drops a selector that nobody will ask about again.
func (x *Identities) Forget(text string) {
	w := x.selectors[text]
	if w == nil {
		return
	}
	delete(x.selectors, text)
	drop := func(list []*watched) []*watched {
		return slices.DeleteFunc(list, func(o *watched) bool { return o == w })
	}
	for _, r := range w.selector.Requirements {
		switch r.Operator {
		case model.OpIn:
			for _, v := range r.Values {
				if k := [2]string{r.Key, v}; len(x.byPair[k]) > 1 {
					x.byPair[k] = drop(x.byPair[k])
				} else {
					delete(x.byPair, k)
				}
			}
			return
		case model.OpExists:
			x.byHas[r.Key] = drop(x.byHas[r.Key])
			return
		}
	}
	x.loose = drop(x.loose)
}

// adopt enters a new label set under its number.
func (x *Identities) adopt(id Identity, labels map[string]string) (changed []string) {
	x.next = max(x.next, id+1)
	key := labelKey(labels)
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	x.byKey[key], x.labels[id] = id, labels
	x.all.Add(uint32(id))
	for k, v := range labels {
		add(x.pairs, [2]string{k, v}, id)
		add(x.keys, k, id)
	}
	x.candidates(labels, func(w *watched) {
		if w.selector.Matches(labels) {
			w.members.Add(uint32(id))
			changed = append(changed, w.text)
		}
	})
	slices.Sort(changed)
	return changed
}

// Remove forgets an identity and returns the selectors that lose it. Its number
// is never given again: a host may still hold it.
func (x *Identities) Remove(id Identity) (changed []string) {
	labels, ok := x.labels[id]
	if !ok {
		return nil
	}
	x.candidates(labels, func(w *watched) {
		if w.members.CheckedRemove(uint32(id)) {
			changed = append(changed, w.text)
		}
	})
	x.all.Remove(uint32(id))
	for k, v := range labels {
		drop(x.pairs, [2]string{k, v}, id)
		drop(x.keys, k, id)
	}
	delete(x.byKey, labelKey(labels))
	delete(x.labels, id)
	slices.Sort(changed)
	return changed
}

func add[K comparable](m map[K]*roaring.Bitmap, k K, id Identity) {
	if m[k] == nil {
		m[k] = roaring.New()
	}
	m[k].Add(uint32(id))
}

func drop[K comparable](m map[K]*roaring.Bitmap, k K, id Identity) {
	m[k].Remove(uint32(id))
	if m[k].IsEmpty() {
		delete(m, k)
	}
}

// candidates calls visit once for every selector that might match the labels.
func (x *Identities) candidates(labels map[string]string, visit func(*watched)) {
	for k, v := range labels {
		for _, w := range x.byPair[[2]string{k, v}] {
			visit(w)
		}
		for _, w := range x.byHas[k] {
			visit(w)
		}
	}
	for _, w := range x.loose {
		visit(w)
	}
}

// Labels returns the labels of an identity, nil for 0 and for an unknown one.
// The caller must not change them.
func (x *Identities) Labels(id Identity) map[string]string { return x.labels[id] }

// All returns every identity, ascending.
func (x *Identities) All() []Identity { return slices.Sorted(maps.Keys(x.labels)) }

// Members returns the identities a selector matches, kept up to date from now on.
// The caller must not change them.
func (x *Identities) Members(s model.Selector) *roaring.Bitmap {
	text := s.String()
	if w := x.selectors[text]; w != nil {
		return w.members
	}
	w := &watched{text: text, selector: s, members: x.compute(s)}
	x.selectors[text] = w
	for _, r := range s.Requirements {
		switch r.Operator {
		case model.OpIn:
			for _, v := range r.Values {
				x.byPair[[2]string{r.Key, v}] = append(x.byPair[[2]string{r.Key, v}], w)
			}
			return w.members
		case model.OpExists:
			x.byHas[r.Key] = append(x.byHas[r.Key], w)
			return w.members
		}
	}
	x.loose = append(x.loose, w)
	return w.members
}

// compute intersects the postings of the requirements, beginning with one that
// narrows: a copy of all identities is what a selector of only negations costs.
func (x *Identities) compute(s model.Selector) *roaring.Bitmap {
	var out *roaring.Bitmap
	for _, r := range s.Requirements {
		if r.Operator == model.OpIn || r.Operator == model.OpExists {
			if hit := x.posting(r); out == nil {
				out = hit.Clone()
			} else {
				out.And(hit)
			}
		}
	}
	if out == nil {
		out = x.all.Clone()
	}
	for _, r := range s.Requirements {
		if r.Operator == model.OpNotIn || r.Operator == model.OpDoesNotExist {
			out.AndNot(x.posting(r))
		}
	}
	return out
}

// posting returns the identities that have the key, or one of the values. Not to
// be changed.
func (x *Identities) posting(r model.Requirement) *roaring.Bitmap {
	if r.Operator == model.OpExists || r.Operator == model.OpDoesNotExist {
		if b := x.keys[r.Key]; b != nil {
			return b
		}
		return roaring.New()
	}
	out := roaring.New()
	for _, v := range r.Values {
		b := x.pairs[[2]string{r.Key, v}]
		if b != nil && len(r.Values) == 1 {
			return b
		}
		if b != nil {
			out.Or(b)
		}
	}
	return out
}
